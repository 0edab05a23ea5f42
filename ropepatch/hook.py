"""Checks for repositories of models: what the pre-commit hook and the GitHub Action run.

``python -m ropepatch.hook PATH...`` looks at every checkpoint that a path is, lies in or holds: the doctor's rules, and
the manifest where there is one. It exits with 1 when there is an error in any of them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ropepatch import bundle, naming
from ropepatch.containers import json_text
from ropepatch.errors import InputError, NoRope, RopepatchError, UsageError

_CONFIGS = ("config.json", "params.json")
_SKIPPED = {".git", ".cache", "node_modules", ".venv"}
#: what makes a config.json that of a model; other programs have files of this name
_MODEL_KEYS = ("model_type", "architectures", "rope_theta", "rope_scaling", "rope_parameters", "dim", "head_dim")


@dataclass(frozen=True)
class Remark:
    """One thing that was found.

    Attributes:
        path: the checkpoint.
        severity: ``error``, ``warning`` or ``info``.
        text: what it is, in one line.
    """

    path: str
    severity: str
    text: str


def checkpoints(paths: Iterable[str | Path]) -> list[Path]:
    """The checkpoints that ``paths`` are, lie in or hold, each once: GGUF files (first shards) and model folders."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        for candidate in _below(path) if path.is_dir() else [path]:
            owner = _owner(candidate)
            if owner is not None:
                found[owner] = None
    return list(found)


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        yield from (Path(here) / name for name in sorted(names))


def _owner(path: Path) -> Path | None:
    """The checkpoint that a file belongs to; None where it belongs to none."""
    name = path.name
    if name.endswith(naming.MANIFEST_SUFFIX):
        stem = name.removesuffix(naming.MANIFEST_SUFFIX)
        return next((found for found in map(_owner, sorted(path.parent.glob(f"{stem}*.gguf"))) if found), None)
    if path.suffix == ".gguf":
        match = naming.SHARD.match(name)
        return path.with_name(f"{match['stem']}-00001-of-{match['count']}.gguf") if match else path
    if name in (*_CONFIGS, naming.MANIFEST) or path.suffix == ".safetensors":
        return path.parent if any(_is_model(path.parent / config) for config in _CONFIGS) else None
    return None


def _is_model(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        _, document = json_text.read(path)
    except InputError:
        return True  # a broken one is worth telling
    return any(key in document for key in _MODEL_KEYS)


def check(path: Path, runtimes: Sequence[str] | None = None, *, verify: bool = True) -> list[Remark]:
    """What the doctor says of a checkpoint, and whether it is what its manifest says.

    Args:
        path: the checkpoint.
        runtimes: engines to look out for; default all that read the format.
        verify: hold it against its manifest, where there is one.
    """
    from ropepatch import provenance
    from ropepatch.doctor import examine, subject_of

    try:
        findings = examine(subject_of(path, runtimes))
        found = [Remark(str(path), one.severity, f"{one.rule} {one.title}: {one.message}") for one in findings]
    except NoRope:
        return []
    except UsageError as error:
        if runtimes and "reads" in error.what:  # none of the engines reads this format
            return []
        raise
    except RopepatchError as error:
        return [Remark(str(path), "error", error.what)]
    if verify and bundle.bundle_of(path).manifest.exists():
        result = provenance.verify_manifest(path)
        severity = {"FAILED": "error", "WARNED": "warning"}
        found += [
            Remark(str(path), severity[one.result], f"manifest, {one.name}: {one.detail}")
            for one in result.checks
            if one.result in severity
        ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every path; 1 when there is an error, 2 when the options cannot be used."""
    parser = argparse.ArgumentParser(prog="ropepatch-hook", description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files or folders; default: the current folder")
    parser.add_argument("--for", dest="runtimes", metavar="RUNTIMES", help="engines to look out for: vllm,llama.cpp")
    parser.add_argument("--no-verify", action="store_true", help="leave manifests alone")
    parser.add_argument("--github", action="store_true", help="print annotations of GitHub Actions")
    options = parser.parse_args(arguments)
    names = options.paths or ["."]
    missing = [name for name in names if not os.path.lexists(name)]
    if missing:
        print(f"ropepatch-hook: {missing[0]}: no such file or directory", file=sys.stderr)
        return 2
    runtimes = [options.runtimes] if options.runtimes else None
    errors = 0
    for path in checkpoints(names):
        try:
            remarks = check(path, runtimes, verify=not options.no_verify)
        except UsageError as error:
            print(f"ropepatch-hook: {error}", file=sys.stderr)
            return 2
        errors += sum(remark.severity == "error" for remark in remarks)
        for remark in remarks:
            if remark.severity != "info":
                print(_annotation(remark) if options.github else _line(remark))
    return 1 if errors else 0


def _line(remark: Remark) -> str:
    from ropepatch.report.text import clean

    return clean(f"{remark.path}: {remark.severity}: {remark.text}")


def _annotation(remark: Remark) -> str:
    """A workflow command; what would end or extend it is escaped as the runner undoes it."""
    message = remark.text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    file = remark.path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{remark.severity} file={file.replace(':', '%3A').replace(',', '%2C')}::{message}"


if __name__ == "__main__":
    raise SystemExit(main())
