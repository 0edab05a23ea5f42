"""The check after every write: independent reader, untouched tensors, frequencies as the method defines them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropepatch.bundle import Bundle
from ropepatch.errors import CheckFailed, InputError
from ropepatch.frequencies import TOLERANCE, deviation, profile_frequencies
from ropepatch.patch import Edit, Patch
from ropepatch.profile import RopeProfile
from ropepatch.storage.splice import Splice, segments

_CHUNK = 4 << 20
#: how much of each end of an unchanged range is compared when no digest is wanted
_SAMPLE = 64 << 10


@dataclass
class Report:
    """What was checked; ``checks`` holds name, result and detail of each."""

    checks: list[dict[str, Any]] = field(default_factory=list)

    def passed(self, name: str, detail: str) -> None:
        """Record a check that held."""
        self.checks.append({"name": name, "result": "PASSED", "detail": detail})

    def to_json(self) -> dict[str, Any]:
        """The report as it stands in the manifest; only passing reports get there."""
        return {"result": "PASSED", "checks": self.checks}


def unchanged_bytes(source: Path, output: Path, splices: Sequence[Splice], *, full: bool) -> str:
    """Compare every byte range that the splices leave alone, or its two ends when ``full`` is false.

    Returns:
        A sentence on what was compared.

    Raises:
        CheckFailed: a byte differs, or the output's length is not what the splices make it.
    """
    size = source.stat().st_size
    expected = size + sum(len(s.after) - len(s.before) for s in splices)
    if output.stat().st_size != expected:
        raise CheckFailed(f"has {output.stat().st_size} bytes, not {expected}", where=str(output))
    compared = position = 0
    with open(source, "rb", buffering=0) as old, open(output, "rb", buffering=0) as new:
        for segment in segments(splices, size):
            if isinstance(segment, bytes):
                if os.pread(new.fileno(), len(segment), position) != segment:
                    raise CheckFailed(f"does not hold the new bytes at offset {position}", where=str(output))
                position += len(segment)
                continue
            offset, length = segment
            for start, count in _pieces(length, full):
                _compare(old.fileno(), new.fileno(), offset + start, position + start, count, output)
                compared += count
            position += length
    return f"{compared} of {size} bytes compared with the input, none differs outside the edits"


def _pieces(length: int, full: bool) -> Iterable[tuple[int, int]]:
    if full or length <= 2 * _SAMPLE:
        for start in range(0, length, _CHUNK):
            yield start, min(_CHUNK, length - start)
    else:
        yield 0, _SAMPLE
        yield length - _SAMPLE, _SAMPLE


def _compare(old: int, new: int, at_old: int, at_new: int, count: int, output: Path) -> None:
    if os.pread(old, count, at_old) != os.pread(new, count, at_new):
        raise CheckFailed(
            f"differs from the input near offset {at_new}, where nothing was to change", where=str(output)
        )


def frequencies(after: RopeProfile, reread: RopeProfile, output: Path) -> str:
    """Compare what the output says with what the method defines, short, at the new length and far beyond it.

    Returns:
        A sentence with the largest relative deviation.

    Raises:
        CheckFailed: it exceeds 1e-6.
    """
    lengths: list[int | None] = [None]
    if after.declared_context:
        lengths += [after.declared_context, 4 * after.declared_context]
    worst = 0.0
    for length in lengths:
        wanted, found = profile_frequencies(after, length), profile_frequencies(reread, length)
        if set(wanted) != set(found):
            raise CheckFailed(f"has the rope groups {', '.join(found)}, not {', '.join(wanted)}", where=str(output))
        for name in wanted:
            worst = max(worst, deviation(found[name], wanted[name]))
    if not worst <= TOLERANCE:
        raise CheckFailed(
            f"frequencies deviate from the method's by {worst:.1e} relative (limit {TOLERANCE:.0e})", where=str(output)
        )
    return f"largest relative deviation {worst:.1e}, limit {TOLERANCE:.0e}"


def gguf_reader(output: Path, edits: Sequence[Edit]) -> str:
    """Read the output's metadata with the gguf library's own reader and compare the edited values.

    The library needs many seconds for a real vocabulary, so that a large header is shown to it without its arrays
    (``unchanged_bytes`` covers those).

    Raises:
        CheckFailed: it cannot read the file, or sees another value.
    """
    from ropepatch.verify import skeleton

    found = skeleton.read_with_gguf(output)
    for edit in edits:
        have = found.keys.get(edit.name) if edit.target == "key" else found.tensors.get(edit.name)
        want = None if edit.after is None else edit.after.data
        if not _same(have, want):
            raise CheckFailed(
                f"the gguf library reads {edit.name} as {have!r:.80}, not {want!r:.80}", where=str(output)
            )
    seen = f"{len(found.keys)} keys and {found.tensor_count} tensors"
    return f"gguf {found.version} reads {seen}, {len(edits)} edits as meant"


def _same(have: Any, want: Any) -> bool:
    import numpy as np

    if isinstance(want, float) and have is not None:
        return bool(np.float32(have) == np.float32(want))
    if isinstance(want, list) and have is not None:
        return bool(np.array_equal(np.asarray(have, np.float32), np.asarray(want, np.float32)))
    return bool(have == want)


def json_reader(output: Path, edits: Sequence[Edit]) -> str:
    """Read the output with Python's own JSON reader and compare the edited values.

    Raises:
        CheckFailed: a value is not as edited.
    """
    import json

    _hold(json.loads(output.read_text("utf-8")), edits, 0, output)
    return f"{len(edits)} edits read back as meant"


def _hold(document: Any, edits: Iterable[Edit], skipped: int, output: Path) -> None:
    """Raise :class:`CheckFailed` where ``document`` has another value than an edit says, below ``skipped`` keys."""
    for edit in edits:
        found: Any = document
        for key in edit.path[skipped:]:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found != (None if edit.after is None else edit.after.data):
            raise CheckFailed(f"{edit.name} is {found!r:.80} after writing", where=str(output))


def safetensors_reader(output: Path, edits: Sequence[Edit]) -> str:
    """Read the edited tensors and the config in the metadata with the safetensors library.

    Its numpy interface cannot show bfloat16: for such a tensor it vouches for type and shape, and the bytes are read
    from where the header says.

    Raises:
        CheckFailed: it cannot read the file, or sees another value.
    """
    import json

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(output, framework="numpy") as handle:
            for edit in edits:
                if edit.target == "tensor":
                    _hold_tensor(handle, edit, output)
            inner = [edit for edit in edits if edit.target == "json"]
            if inner:
                _hold(json.loads((handle.metadata() or {}).get("config", "")), inner, 2, output)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckFailed(f"safetensors cannot read it: {error}", where=str(output)) from None
    return f"safetensors reads {len(edits)} edits as meant"


def _hold_tensor(handle: Any, edit: Edit, output: Path) -> None:
    import numpy as np

    from ropepatch.containers import safetensors
    from ropepatch.dialects import inv_freq_tensors

    want = edit.after
    part = handle.get_slice(edit.name)
    if want is None or (part.get_dtype(), tuple(part.get_shape())) != (want.type, want.shape):
        raise CheckFailed(f"{edit.name} is {part.get_dtype()} {part.get_shape()} after writing", where=str(output))
    if want.type == "BF16":
        tensor = safetensors.scan(output).tensors[edit.name]
        with open(output, "rb", buffering=0) as file:
            have = inv_freq_tensors.decode(os.pread(file.fileno(), tensor.end - tensor.start, tensor.start), "BF16")
    else:
        have = np.asarray(handle.get_tensor(edit.name), np.float64).reshape(-1)
    if not np.array_equal(have, np.asarray(want.data, np.float64)):
        raise CheckFailed(f"the safetensors library reads other values of {edit.name} than meant", where=str(output))


def weights_reader(files: Sequence[Path]) -> str:
    """Open each safetensors file with the safetensors library.

    Raises:
        CheckFailed: it refuses one.
    """
    from safetensors import SafetensorError, safe_open

    tensors = 0
    for path in files:
        try:
            with safe_open(path, framework="numpy") as handle:
                tensors += len(handle.keys())
        except (SafetensorError, OSError) as error:
            raise CheckFailed(f"safetensors cannot open it: {error}", where=str(path)) from None
    return f"safetensors opens {_counted(len(files), 'file')} with {_counted(tensors, 'tensor')}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def check(patch: Patch, source: Bundle, output: Bundle, splices: Mapping[str, list[Splice]], *, full: bool) -> Report:
    """Every check that needs no engine, on an output that was just written.

    Args:
        patch: what was applied.
        source: the input.
        output: the same, written; in place both are one.
        splices: by the source's file name.
        full: compare all bytes, not only samples.

    Raises:
        CheckFailed: the first check that does not hold.
    """
    try:
        return _checks(patch, source, output, splices, full)
    except (InputError, ValueError) as error:  # what was written cannot even be read
        raise CheckFailed(f"cannot be read back: {error}", where=str(output.anchor)) from None


def _checks(patch: Patch, source: Bundle, output: Bundle, splices: Mapping[str, list[Splice]], full: bool) -> Report:
    import ropepatch.checkpoint

    report = Report()
    new_name = dict(zip(source.names, output.names, strict=True))
    for name, items in splices.items():
        old, new = source.path(name), output.path(new_name[name])
        edits = [edit for edit in patch.edits if edit.file == name]
        reader = {".json": json_reader, ".safetensors": safetensors_reader}.get(new.suffix, gguf_reader)
        report.passed("reader", reader(new, edits))
        if old != new:
            report.passed("unchanged", unchanged_bytes(old, new, items, full=full))
    if copied := [name for name in source.names if name not in splices and _copied(source, output, new_name, name)]:
        for name in copied:
            unchanged_bytes(source.path(name), output.path(new_name[name]), [], full=full)
        report.passed("copies", f"{_counted(len(copied), 'other file')} compared with the input's, none differs")
    weights = [output.path(name) for name in output.names if name.endswith(".safetensors")]
    if weights := [path for path in weights if path.exists()]:
        report.passed("weights", weights_reader(weights))
    named = new_name.get(Path(patch.ref).name) if not Path(patch.ref).is_dir() else None
    reread = ropepatch.checkpoint.open(output.path(named) if named else output.anchor).profile
    report.passed("frequencies", frequencies(patch.after, reread, output.anchor))
    return report


def check_overlay(
    patch: Patch, body: Path, output: Bundle, splices: Mapping[str, list[Splice]], *, full: bool
) -> Report:
    """The same for an overlay: its head by the gguf library, its body against the input's, the frequencies of both.

    Raises:
        CheckFailed: the first check that does not hold.
    """
    import ropepatch.checkpoint

    report = Report()
    head, shared = (output.path(name) for name in output.names)
    try:
        report.passed("reader", gguf_reader(head, patch.edits))
        if not os.path.samefile(body, shared):
            report.passed("unchanged", unchanged_bytes(body, shared, splices.get(shared.name, []), full=full))
        reread = ropepatch.checkpoint.open(head).profile
    except (InputError, ValueError) as error:
        raise CheckFailed(f"cannot be read back: {error}", where=str(head)) from None
    report.passed("frequencies", frequencies(patch.after, reread, head))
    return report


def _copied(source: Bundle, output: Bundle, new_name: Mapping[str, str], name: str) -> bool:
    """Whether a file without edits stands in the output as a file of its own, not as a link."""
    new = output.path(new_name[name])
    return new.exists() and not os.path.samefile(source.path(name), new)
