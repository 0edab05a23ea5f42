"""The same work on many checkpoints: what is done already is left alone, and one failure does not end the others."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch import bundle, manifest, naming
from ropepatch.errors import InputError, MethodUnsupported, RopepatchError, WouldOverwrite, translated
from ropepatch.evidence import SMALL
from ropepatch.hub.refs import is_remote
from ropepatch.methods.base import ParameterError
from ropepatch.storage import files

if TYPE_CHECKING:
    from ropepatch.patch import Patch

SCHEMA = "ropepatch.batch/1"
WRITTEN, SKIPPED, FAILED, PLANNED = "written", "skipped", "failed", "planned"
#: a list is text that people write; more than this is another file
_LIST = 16 << 20


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint.

    Attributes:
        ref: its ref.
        status: ``written``, ``skipped`` (done before), ``planned`` (a dry run) or ``failed``.
        output: where the output is; None where there is none.
        edits: how many edits its patch has; None where there is no patch.
        seconds: how long it took.
        error: why it failed.
    """

    ref: str
    status: str
    output: Path | None
    edits: int | None
    seconds: float
    error: RopepatchError | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "ref": self.ref,
            "status": self.status,
            "output": str(self.output) if self.output else None,
            "edits": self.edits,
            "seconds": round(self.seconds, 3),
            "error": self.error.to_json() if self.error else None,
        }


def read_list(path: str) -> list[str]:
    """The refs of a list: one a line, without blank lines and those that begin with ``#``; ``-`` is standard input.

    Raises:
        InputError: the list cannot be read, or names nothing.
    """
    if path == "-":
        text = sys.stdin.read(_LIST + 1)
    else:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_LIST + 1)
    if len(text) > _LIST:
        raise InputError(f"is too long for a list of refs (limit {_LIST} characters)", where=path)
    if "\0" in text:
        raise InputError("is no text", where=path, hint="a list has one ref a line; leave --from out to read a model")
    refs = [line.strip() for line in text.splitlines()]
    found = list(dict.fromkeys(ref for ref in refs if ref and not ref.startswith("#")))
    if not found:
        raise InputError("names no ref", where=path, hint="one ref a line; lines that begin with # are left out")
    return found


def models_in(folder: str | Path) -> list[str]:
    """The GGUF models right in a folder, split ones by their first shard, without vision projectors and importance
    matrices; or those of a repository on the Hub, at one commit.

    Raises:
        InputError: it is no folder, or holds none.
        HubError: the repository cannot be seen.
    """
    if is_remote(str(folder)):
        from ropepatch.hub import mirror

        return mirror.models(str(folder))
    root = Path(folder)
    if not root.exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(folder)
    if not root.is_dir():
        raise InputError("is no folder", where=str(folder), hint="--all takes a folder of GGUF files")
    found = [str(root / name) for name in naming.firsts(path.name for path in root.glob("*.gguf"))]
    if not found:
        raise InputError(
            "holds no GGUF file", where=str(folder), hint="--from takes a list of checkpoints of any format"
        )
    return found


def originals(refs: Iterable[str]) -> list[str]:
    """Those refs that ropepatch did not write itself: beside an output stands its manifest."""
    return [ref for ref in refs if not _manifest(Path(ref)).exists()]


def _manifest(path: Path) -> Path:
    return path.with_name(bundle.stem_of(path.name) + naming.MANIFEST_SUFFIX)


def apply_many(
    refs: Sequence[str],
    patch: Callable[[str], Patch],
    *,
    folder: str | Path | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    force: bool = False,
    runtimes: Sequence[str] = (),
    sign: str | Path | None = None,
    done: Callable[[Outcome], None] | None = None,
    **options: Any,
) -> list[Outcome]:
    """Patch each of ``refs``; an output whose manifest says the same patch is left as it is.

    Args:
        refs: the checkpoints.
        patch: makes the patch of one ref, for example ``lambda ref: ropepatch.open(ref).patch("yarn", 4)``.
        folder: where the outputs go, made if need be; default beside each input.
        jobs: how many at a time.
        dry_run: make the patches and write nothing.
        force: write what an engine refuses or ignores.
        runtimes: engines that have to take the outputs; default all that read the format.
        sign: a private key to sign each output with.
        done: called with each outcome, as soon as it is there.
        options: of :func:`ropepatch.output.write`.

    Returns:
        One outcome a ref, in their order. No error of a single ref is raised.
    """
    if folder is not None and not dry_run:
        Path(folder).mkdir(parents=True, exist_ok=True)
    work = _Work(patch, folder, dry_run, force, runtimes, sign, options)

    def one(ref: str) -> Outcome:
        outcome = work.one(ref)
        if done is not None:
            done(outcome)
        return outcome

    pool = ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="apply")
    try:
        return list(pool.map(one, refs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Work:
    patch: Callable[[str], Patch]
    folder: str | Path | None
    dry_run: bool
    force: bool
    runtimes: Sequence[str]
    sign: str | Path | None
    options: Mapping[str, Any]

    def one(self, ref: str) -> Outcome:
        started = time.monotonic()
        made: Patch | None = None
        target: bundle.Bundle | None = None
        try:
            made = self.patch(ref)
            target = self._target(made)
            status = self._written(made, target)
        except (RopepatchError, OSError, ParameterError) as error:
            edits = len(made.edits) if made is not None else None
            return Outcome(ref, FAILED, None, edits, time.monotonic() - started, translated(error))
        return Outcome(ref, status, target.anchor, len(made.edits), time.monotonic() - started)

    def _written(self, made: Patch, target: bundle.Bundle) -> str:
        if os.path.lexists(target.anchor):
            if _same(made, target):
                return SKIPPED
            raise WouldOverwrite(
                "exists already, and is no output of this patch", where=str(target.anchor), hint="move it away first"
            )
        self._examine(made)
        if self.dry_run:
            return PLANNED
        made.write(target.anchor, **self.options)
        if self.sign is not None:
            from ropepatch import signing

            signing.sign(target.anchor, self.sign)
        return WRITTEN

    def _target(self, made: Patch) -> bundle.Bundle:
        from ropepatch import output, overlay

        path = output.default_output(made)
        if self.folder is not None:
            path = Path(self.folder) / path.name
        return overlay.target(path) if self.options.get("overlay") else output.source_of(made).renamed(path)

    def _examine(self, made: Patch) -> None:
        if self.force:
            return
        from ropepatch.doctor import check_patch

        errors = [one for one in check_patch(made, self.runtimes or None) if one.severity == "error"]
        if errors:
            raise MethodUnsupported(
                f"{errors[0].rule} {errors[0].title}: {errors[0].message}", where=made.ref, hint="--force writes it"
            )


def _same(made: Patch, target: bundle.Bundle) -> bool:
    """Whether an output is whole and its manifest says that it is this patch of this input."""
    from ropepatch import output

    try:
        record = manifest.read(target.manifest)
    except InputError:
        return False
    source = output.source_of(made)
    inputs = {name: source.path(name) for name in source.names}
    inputs = {name: path for name, path in inputs.items() if path.exists()}
    if record.edits != list(made.edits) or set(record.inputs) != set(inputs):
        return False
    if any(not target.path(name).is_file() for name in record.subjects):
        return False
    known = {name: path for name, path in inputs.items() if record.inputs[name] and path.stat().st_size <= SMALL}
    if any(files.sha256(path) != record.inputs[name] for name, path in known.items()):
        return False
    if record.overlay:
        return True
    new_name = dict(zip(source.names, target.names, strict=True))
    for name, path in inputs.items():
        written = target.path(new_name[name])
        grown = sum(len(item.after) - len(item.before) for item in record.splices.get(new_name[name], ()))
        if written.exists() and written.stat().st_size != path.stat().st_size + grown:
            return False
    return True
