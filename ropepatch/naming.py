"""The names of files that the parts agree on: models, shards, manifests, evidence, journals."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

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
