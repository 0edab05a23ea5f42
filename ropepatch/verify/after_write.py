"""``apply --verify=forward``: the forward pass on an output that has just been written, before it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ropepatch.errors import CheckFailed, InputError, UsageError

if TYPE_CHECKING:
    from ropepatch.bundle import Bundle
    from ropepatch.manifest import Manifest
    from ropepatch.patch import Patch
    from ropepatch.verify.forward import Settings
    from ropepatch.verify.promise import Promise
    from ropepatch.verify.structure import Report
    from ropepatch.verify.verification import Verification

#: how deep a written output is checked
DEPTHS = ("structure", "forward", "none")


def depth(verify: bool | str) -> str:
    """``structure``, ``forward`` or ``none``; True and False mean the first and the last.

    Raises:
        UsageError: it is none of them.
    """
    if isinstance(verify, bool):
        return "structure" if verify else "none"
    if verify not in DEPTHS:
        raise UsageError(f"verify is one of {', '.join(DEPTHS)}, not {verify!r:.40}")
    return verify


@dataclass
class ForwardCheck:
    """The pass that was asked for.

    Attributes:
        patch: what is applied, which is the promise.
        settings: the engine that runs this kind of checkpoint, and how.
        result: what was found, once it has run.
    """

    patch: Patch
    settings: Settings
    result: Verification | None = None

    def run(self, written: Bundle, report: Report) -> None:
        """Run it on the output, and note in ``report`` what came out.

        Raises:
            CheckFailed: a check failed.
            InputError: the engine cannot run the checkpoint.
        """
        from ropepatch import checkpoint
        from ropepatch.verify import verification
        from ropepatch.verify.promise import FAILED

        self.result = found = verification.examine(
            checkpoint.open(written.anchor),
            None,
            _promise(self.patch),
            self.settings,
        )
        if not found.ok:
            failed = [check for check in found.checks if check.result == FAILED]
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise CheckFailed(f"forward pass: {failed[0].name}: {failed[0].detail}{more}", where=str(written.anchor))
        engines = ", ".join(f"{name} {version}" for name, version in found.environment["engines"].items())
        warned = [check.name for check in found.checks if check.result == "WARNED"]
        told = f"; look at {', '.join(warned)}" if warned else ""
        count = sum(check.result == "PASSED" for check in found.checks)
        where = written.statement.name
        report.passed("forward", f"{count} checks on {found.environment['device']}, {engines}{told}; see {where}")

    def record(self, written: Bundle, manifest: Manifest) -> None:
        """Write the statement beside the manifest, about the same files."""
        import dataclasses

        assert self.result is not None
        result = dataclasses.replace(self.result, ref=str(written.anchor), subjects=dict(manifest.subjects))
        result.write(written.statement)


def prepare(patch: Patch, source: Bundle, weights: str) -> ForwardCheck:
    """Find out before anything is written whether the pass can be run.

    Raises:
        UsageError: the engine is not installed, or the output will have no weights.
        InputError: no engine runs this format, or there is not enough memory.
    """
    from ropepatch import checkpoint
    from ropepatch.verify import engines, forward, verification

    if weights == "none" and source.kind == "folder":
        raise UsageError("--verify=forward needs the weights", hint="leave out --weights none")
    if patch.before.source.format not in ("hf", "gguf"):
        raise InputError(
            f"a forward pass reads Hugging Face folders and GGUF files, not {patch.before.source.format}",
            where=patch.ref,
            hint="leave out --verify=forward",
        )
    model = checkpoint.open(Path(source.anchor))
    settings = forward.Settings(engine=engines.suitable(model))
    verification.affordable(model, _promise(patch), settings)
    engines.require(settings.engine)
    return ForwardCheck(patch, settings)


def _promise(patch: Patch) -> Promise:
    from ropepatch.verify.promise import Promise

    return Promise(patch.after, patch.before, "manifest")
