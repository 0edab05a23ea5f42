"""The names of files that the parts agree on: models, shards, manifests, evidence, journals."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ropepatch.errors import UsageError

#: how llama.cpp names the shards of a split model
SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
#: a manifest beside a file, and inside a folder
MANIFEST_SUFFIX, MANIFEST = ".ropepatch.json", "ropepatch.json"
#: a verification beside a file, and inside a folder
EVIDENCE_SUFFIX, EVIDENCE = ".ropepatch-verify.json", "ropepatch-verify.json"
#: what an audit printed, beside a file and inside a folder
AUDIT_SUFFIX, AUDIT = ".ropepatch-audit.json", "ropepatch-audit.json"
#: a signature beside a file, and inside a folder
SIGNATURE_SUFFIX, SIGNATURE = ".model.sig", "model.sig"
#: how a journal's name ends
JOURNAL_SUFFIX = ".ropepatch-journal"
#: what Ollama calls the files of its store: by their digest
_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
#: a file that ends so is taken for what it says
_FORMATS = (".gguf", ".safetensors", ".json")


def refuse_unfit(source: Path, target: Path, *, folder: bool) -> None:
    """Refuse the name of an output that says another format than it will have, or that will not stay there.

    Args:
        source: the input.
        target: the output.
        folder: whether they are folders.

    Raises:
        UsageError: it is such a name.
    """
    if folder and target.suffix in _FORMATS:
        more = "; llama.cpp's convert_hf_to_gguf.py makes a GGUF of it" if target.suffix == ".gguf" else ""
        raise UsageError(f"{target}: a folder is written as a folder", hint=f"give -o a name without suffix{more}")
    if folder:
        return
    own = source.suffix if source.suffix in _FORMATS else ".gguf"
    if target.suffix in _FORMATS and target.suffix != own:
        raise UsageError(f"{target}: the output is a {own} file, as the input", hint="ropepatch converts no formats")
    if _BLOB.fullmatch(source.name) and target.parent.resolve() == source.parent.resolve():
        raise UsageError(
            f"{target}: Ollama deletes what it finds in its store and does not know",
            hint=f"name the output elsewhere, for example -o ./model{target.stem[len(source.stem) :]}.gguf",
        )


def firsts(names: Iterable[str], folder: str | None = None) -> list[str]:
    """The GGUF models among files, by their first shards; vision projectors and importance matrices left out."""
    below = f"{folder}/" if folder else ""
    found = []
    for name in sorted(names):
        if not name.startswith(below) or not name.endswith(".gguf"):
            continue
        leaf = PurePosixPath(name).name
        match = SHARD.match(leaf)
        if (match and int(match["number"]) != 1) or "mmproj" in leaf.lower() or "imatrix" in leaf.lower():
            continue
        found.append(name)
    return found


def journals(path: Path) -> list[Path]:
    """The journals of interrupted changes that concern what ``path`` names: a folder, or a file in it."""
    if path.is_dir():
        return sorted(path.glob(f"*{JOURNAL_SUFFIX}"))
    match = SHARD.match(path.name)
    stem = match["stem"] if match else path.stem
    found = (path.parent / JOURNAL_SUFFIX, path.with_name(stem + JOURNAL_SUFFIX))
    return [candidate for candidate in found if os.path.lexists(candidate)]
