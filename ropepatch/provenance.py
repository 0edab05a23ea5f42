"""Holding an output against its manifest: whose files these are, and whether undoing the edits gives the input."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropepatch import located, outline, splices
from ropepatch.bundle import Bundle, Progress
from ropepatch.errors import InputError, RopepatchError, UsageError, shown
from ropepatch.frequencies import TOLERANCE, deviation, profile_frequencies
from ropepatch.profile import RopeProfile
from ropepatch.provenance_files import Files, files_of
from ropepatch.storage.digesting import Digests
from ropepatch.storage.splice import Splice, invert
from ropepatch.verify.promise import FAILED, PASSED, SKIPPED, WARNED, Check, Checked

SCHEMA = "ropepatch.manifest-verify/1"


@dataclass(frozen=True)
class ManifestCheck(Checked):
    """The result.

    Attributes:
        ref: the output.
        manifest: where its manifest stands.
        checks: what was found.
    """

    ref: str
    manifest: str
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that ``schemas/manifest-verify.schema.json`` describes."""
        return {
            "schema": SCHEMA,
            "ref": self.ref,
            "manifest": self.manifest,
            "result": self.result,
            "checks": [check.to_json() for check in self.checks],
        }


def verify_manifest(
    ref: str | Path,
    *,
    input: str | Path | None = None,
    signature: str | Path | None = None,
    key: str | Path | None = None,
    progress: Progress | None = None,
) -> ManifestCheck:
    """Hold an output against its manifest. Nothing beside it is changed.

    Args:
        ref: the patched file (any shard of it) or folder.
        input: what was patched, to be held against the digests as well.
        signature: an OpenSSF Model Signing bundle, ``model.sig``.
        key: the public key that has to have made it, PEM.
        progress: called with the number of bytes just hashed.

    Raises:
        InputError: there is no manifest, or a file cannot be read.
        UsageError: a signature without a key, or a key without a signature.
    """
    if (signature is None) != (key is None):
        raise UsageError("--signature and --key belong together")
    source = located.files_of(input) if input is not None else None
    output = located.find(ref)
    look = _Inspection(output, progress)
    parts: list[tuple[str, Callable[[], Check]]] = [
        ("document", look.document),
        ("digests", look.digests),
        ("input", look.inverted),
        ("edits", look.edits),
        ("frequencies", look.frequencies),
        ("tensor data", look.tensor_data),
        ("other files", look.others),
    ]
    if source is not None:
        parts.append(("given input", lambda: look.given(source)))
    if signature is not None and key is not None:
        from ropepatch import signing

        parts.append(("signature", lambda: signing.check(output, Path(signature), Path(key), progress)))
    checks = tuple(_guarded(name, part) for name, part in parts)
    return ManifestCheck(output.ref, shown(str(output.files.manifest)), checks)


def _guarded(name: str, part: Callable[[], Check]) -> Check:
    """A part that cannot be read at all has failed; the others are still looked at."""
    try:
        return part()
    except UsageError:
        raise
    except (RopepatchError, ValueError) as error:
        return Check(name, FAILED, str(error))


class _Inspection(Files):
    """What an output and its manifest say of each other."""

    def inverted(self) -> Check:
        """What undoing the exchanged bytes gives, against the sha256 of the input; nothing is written."""
        undo = self.undo()
        with Digests(self.progress) as running:
            known = [name for name in undo if self.wanted(name) and name not in self.output.recorded]
            taken = {name: running.spliced(self.path(name), undo[name]) for name in known}
        wrong = [name for name, future in taken.items() if future.result() != self.wanted(name)]
        if wrong:
            detail = f"undoing the edits does not give the declared input: {', '.join(wrong)}"
            return Check("input", FAILED, detail, {"files": len(undo)})
        alike = [name for name in self.record.subjects if name not in undo and self.wanted(name)]
        unlike = [name for name in alike if self.record.subjects[name] not in (None, self.wanted(name))]
        if unlike:
            return Check("input", FAILED, f"said to be unchanged, with another sha256: {', '.join(unlike)}")
        numbers = {"files": len(undo), "hashed": len(taken)}
        if len(taken) < len(undo):
            result = SKIPPED if self.output.recorded else WARNED
            why = "read by its header only" if self.output.recorded else "without one in the manifest"
            left = files_of(len(undo) - len(taken))
            detail = f"the exchanged bytes are in place; the input's sha256 was not compared for {left} {why}"
            return Check("input", result, detail, numbers)
        detail = f"undoing the edits gives the declared input ({files_of(len(taken))}, {len(alike)} unchanged)"
        return Check("input", PASSED, detail if taken else "nothing was changed in any file with a sha256", numbers)

    def undo(self) -> dict[str, list[Splice]]:
        """The splices that lead back, by output file.

        Raises:
            InputError: a file is not there, or does not hold what was written into it.
        """
        found = {name: invert(items) for name, items in self.record.splices.items()}
        for name, items in found.items():
            path = self.path(name)
            if not path.is_file():
                raise InputError("is not there", where=str(path))
            with open(path, "rb", buffering=0) as file:
                for item in items:
                    if os.pread(file.fileno(), len(item.before), item.offset) != item.before:
                        raise InputError(f"does not hold the new bytes at offset {item.offset}", where=str(path))
        return found

    def edits(self) -> Check:
        """Every edit's value after in the output, and its value before in what undoing gives."""
        by_file = self.edits_by_output()
        for name, items in by_file.items():
            splices.check(self.path(name), [edit.inverse() for edit in items])
        if self.record.overlay:
            return Check("edits", PASSED, f"{len(self.record.edits)} edits are in the head of the overlay")
        with self._undone() as before:
            for name, items in by_file.items():
                splices.check(before.path(name), items)
        return Check(
            "edits", PASSED, f"{len(self.record.edits)} edits are in the output and invert to their old values"
        )

    def frequencies(self) -> Check:
        """The profiles that the manifest declares, against those that the files have with and without the edits."""
        from ropepatch import checkpoint

        patch = self.record.patch
        worst = _worst(checkpoint.open(self.patched.anchor).profile, patch.after, "the output")
        if not self.record.overlay:
            with self._undone() as before:
                worst = max(worst, _worst(checkpoint.open(before.anchor).profile, patch.before, "the input"))
        return Check("frequencies", PASSED, f"as declared, before and after; largest deviation {worst:.1e}",
                     {"deviation": worst, "limit": TOLERANCE})  # fmt: skip

    @contextlib.contextmanager
    def _undone(self) -> Iterator[Bundle]:
        """The input again in a temporary folder: headers and their surroundings, holes for the rest of the weights."""
        undo = self.undo()
        with tempfile.TemporaryDirectory(prefix="ropepatch-") as name:
            there = Bundle(Path(name), self.patched.names, self.patched.kind)
            for file in self.patched.names:
                new, old = there.path(file), self.patched.path(file)
                new.parent.mkdir(parents=True, exist_ok=True)
                if file in undo:
                    outline.write(old, undo[file], new)
                elif old.exists():
                    new.symlink_to(old.resolve())
            yield there


def _worst(have: RopeProfile, declared: RopeProfile, which: str) -> float:
    """The largest relative deviation of the frequencies, in short and in long contexts.

    Raises:
        InputError: groups, contexts or frequencies are others than declared.
    """
    if have.declared_context != declared.declared_context:
        raise InputError(
            f"{which} declares {have.declared_context} tokens, the manifest says {declared.declared_context}"
        )
    context, worst = declared.declared_context, 0.0
    for length in (None, context, 4 * context if context else None):
        wanted, found = profile_frequencies(declared, length), profile_frequencies(have, length)
        if set(wanted) != set(found):
            raise InputError(f"{which} has the rope groups {', '.join(found)}, the manifest {', '.join(wanted)}")
        worst = max([worst, *(deviation(found[name], wanted[name]) for name in wanted)])
    if not worst <= TOLERANCE:
        raise InputError(f"the frequencies of {which} deviate from the manifest's by {worst:.1e} relative")
    return worst
