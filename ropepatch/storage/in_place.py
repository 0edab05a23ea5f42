"""Changing a file where it lies, in steps that can be undone from any point.

A file is changed at its ends: *zones* of bytes are exchanged, and the *body* between them (the tensor data) stays or
moves as a whole. What a zone held before goes into a journal first (:mod:`ropepatch.storage.journal`), so that
:func:`undo` can restore the old file whatever step the change was stopped at.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ropepatch.errors import InputError
from ropepatch.storage import files, kernel, moving
from ropepatch.storage.ranges import Progress
from ropepatch.storage.splice import Splice, invert

#: a moved range that is shorter than this is written out with its neighbours
BODY_FROM = 64 << 10
#: more bytes than this are not taken into memory and the journal: the file is rewritten
ZONES_LIMIT = 256 << 20
#: a file of this size that changes its length is rewritten: whoever reads it meanwhile sees the old or the new one
_SMALL = 1 << 20
#: bytes that have to stay free on the disk beside a whole new file
_SPARE = 64 << 20

OVERWRITE, RANGE, SHIFT, REWRITE, NEW = "overwrite", "range", "shift", "rewrite", "new"


@dataclass(frozen=True)
class Plan:
    """How one file is changed.

    Attributes:
        name: the file, relative to the journal's folder.
        kind: ``overwrite`` (nothing moves), ``range`` (the kernel moves the body), ``shift`` (the body is copied within
            the file), ``rewrite`` (a new file takes the name) or ``new`` (there was none).
        size: the length before.
        new_size: the length after.
        body: start and end of the body in the old file; both 0 where there is none.
        move: how far the body moves.
        zones: the exchanged ranges in offsets of the old file; for a rewrite the splices themselves.
    """

    name: str
    kind: str
    size: int
    new_size: int
    body: tuple[int, int]
    move: int
    zones: tuple[Splice, ...]

    @property
    def cut(self) -> int:
        """Where a range is inserted, or the removed one starts; see :func:`_cut`."""
        return _cut(self.body, self.move)


def _cut(body: tuple[int, int], move: int) -> int:
    """The last place that is whole blocks from the file's start and leaves room for the removed range before the body.

    The largest power of two in the move stands for the block size, which divides it.
    """
    start = body[0] - max(-move, 0)
    return start - start % (move & -move)


def plan(path: Path, splices: Sequence[Splice], name: str) -> Plan:
    """The cheapest way to apply ``splices`` to ``path``.

    Raises:
        InputError: the file does not hold the bytes that a splice expects.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        size = os.fstat(descriptor).st_size
        files.check_before(descriptor, path, splices, size)
        shared = path.is_symlink() or path.stat().st_nlink > 1  # the other name's file must not change
        rewrite = Plan(name, REWRITE, size, size + _growth(splices), (0, 0), 0, tuple(splices))
        if shared or sum(len(s.before) + len(s.after) for s in splices) > ZONES_LIMIT:
            return rewrite
        gaps = _gaps(splices, size)
        body, move = _body(gaps)
        kind = _kind(path, size, _growth(splices), body, move)
        kept = _kept(gaps, body, move, kind)
        if kind == REWRITE or sum(length for _, length in kept) > ZONES_LIMIT:
            return rewrite
        zones = _zones(splices, [(offset, os.pread(descriptor, length, offset)) for offset, length in kept])
        return Plan(name, kind, size, size + _growth(splices), body, move, zones)


def _growth(splices: Sequence[Splice]) -> int:
    return sum(len(splice.after) - len(splice.before) for splice in splices)


def _gaps(splices: Sequence[Splice], size: int) -> list[tuple[int, int, int]]:
    """The ranges that no splice touches: offset, length, and how far each moves."""
    found, position, shift = [], 0, 0
    for splice in splices:
        found.append((position, splice.offset - position, shift))
        position = splice.offset + len(splice.before)
        shift += len(splice.after) - len(splice.before)
    return [gap for gap in (*found, (position, size - position, shift)) if gap[1]]


def _body(gaps: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int], int]:
    """The longest range that moves as a whole, and how far: gaps of one shift, with values between them that keep their
    length. Shorter ones that move are written out."""
    longest, move = (0, 0), 0
    for shift, run in itertools.groupby(gaps, key=lambda gap: gap[2]):
        members = list(run)
        start, end = members[0][0], members[-1][0] + members[-1][1]
        if shift and end - start >= max(BODY_FROM, longest[1] - longest[0] + 1):
            longest, move = (start, end), shift
    return longest, move


def _kind(path: Path, size: int, growth: int, body: tuple[int, int], move: int) -> str:
    if not move:
        return REWRITE if growth and size <= _SMALL else OVERWRITE
    block = kernel.block_size(path)
    # What is behind the body changes its length the same way, so that the file's length tells whether the body moved.
    straight = (growth - move) * move >= 0 and body[0] >= max(-move, 0)
    if move % block == 0 and straight and kernel.can_move_ranges(path.parent):
        return RANGE
    return REWRITE if shutil.disk_usage(path.parent).free > size + growth + _SPARE else SHIFT


def _kept(gaps: Sequence[tuple[int, int, int]], body: tuple[int, int], move: int, kind: str) -> list[tuple[int, int]]:
    """The ranges that keep their bytes and are written all the same: all that moves without being the body, and where
    the kernel moves it, all else behind the cut."""
    found = []
    for offset, length, shift in gaps:
        if body[0] <= offset < body[1]:
            continue
        start = offset if shift else max(offset, _cut(body, move)) if kind == RANGE else offset + length
        if start < offset + length:
            found.append((start, offset + length - start))
    return found


def _zones(splices: Sequence[Splice], kept: Sequence[tuple[int, bytes]]) -> tuple[Splice, ...]:
    """Splices and kept ranges in order, neighbours as one."""
    merged: list[Splice] = []
    for zone in sorted([*splices, *(Splice(at, data, data) for at, data in kept)], key=_place):
        if merged and merged[-1].offset + len(merged[-1].before) == zone.offset:
            last = merged.pop()
            zone = Splice(last.offset, last.before + zone.before, last.after + zone.after)
        merged.append(zone)
    return tuple(merged)


def _place(zone: Splice) -> tuple[int, int]:
    """Where a zone goes: an insertion before the range that begins at the same offset."""
    return zone.offset, len(zone.before)


def check_writable(path: Path, plan: Plan) -> None:
    """Open a file as :func:`apply` will.

    Raises:
        OSError: the system refuses: better before there is a journal than with one that nothing can undo.
    """
    if plan.kind in (OVERWRITE, RANGE, SHIFT):
        with _opened(path, os.O_RDWR):
            pass


def apply(path: Path, plan: Plan, *, progress: Progress | None = None) -> None:
    """Carry ``plan`` out; the journal has to stand before.

    Raises:
        InputError: the file is not what the plan was made for.
    """
    if plan.kind == REWRITE:
        files.write_spliced(path, path, plan.zones, overwrite=True, progress=progress)
        return
    with _opened(path, os.O_RDWR) as descriptor:
        files.check_before(descriptor, path, plan.zones, os.fstat(descriptor).st_size)
        samples = _samples(descriptor, plan, 0)
        if plan.kind == RANGE and not _move_range(descriptor, plan.cut, plan.move):
            raise InputError("the file system refuses to move a range that it took before", where=str(path))
        if plan.kind == SHIFT:
            moving.shift(path, descriptor, plan.body, plan.move, progress)
        _write_zones(descriptor, plan.zones, plan.new_size, new=True)
        os.fsync(descriptor)
        if _samples(descriptor, plan, plan.move) != samples:
            raise InputError("the tensor data did not move as a whole", where=str(path))


def undo(path: Path, plan: Plan, *, progress: Progress | None = None) -> None:
    """Restore the old file from any step of :func:`apply`, or of an undo that was stopped.

    Raises:
        InputError: the file is neither the old one nor on its way to the new one.
    """
    if plan.kind == REWRITE:
        _undo_rewrite(path, plan, progress)
        return
    if plan.kind == NEW:
        _remove_new(path, plan)
        return
    with _opened(path, os.O_RDWR) as descriptor:
        size = os.fstat(descriptor).st_size
        if plan.kind == RANGE:
            _undo_range(path, descriptor, plan, size)
        elif plan.kind == SHIFT:
            moving.unshift(path, descriptor, plan.body, plan.move, progress)
        elif not min(plan.size, plan.new_size) <= size <= max(plan.size, plan.new_size):
            raise _stranger(path, size, plan)
        _write_zones(descriptor, plan.zones, plan.size, new=False)
        os.fsync(descriptor)


def _undo_rewrite(path: Path, plan: Plan, progress: Progress | None) -> None:
    back = invert(plan.zones)
    with _opened(path, os.O_RDONLY) as descriptor:
        size = os.fstat(descriptor).st_size
        if size == plan.size and _holds(descriptor, plan.zones):
            return
        if size != plan.new_size or not _holds(descriptor, back):
            raise _stranger(path, size, plan)
    files.write_spliced(path, path, back, overwrite=True, progress=progress)


def _remove_new(path: Path, plan: Plan) -> None:
    """Remove what a stopped write left under a name that was free; somebody else's file has another length."""
    if not os.path.lexists(path):
        return
    size = path.stat().st_size
    if plan.new_size and size != plan.new_size:
        raise InputError(
            f"has {size} bytes, the interrupted write's output has {plan.new_size}: it is another file",
            where=str(path),
            hint=f"the input was not touched; remove the {path.stem}.*-journal beside it",
        )
    path.unlink()


def _undo_range(path: Path, descriptor: int, plan: Plan, size: int) -> None:
    moved = plan.size + plan.move
    low, high = sorted((moved, plan.new_size))
    if low <= size <= high:  # the body has moved; what is behind it may have changed, too
        os.ftruncate(descriptor, moved)
        if not _move_range(descriptor, plan.cut, -plan.move):
            raise InputError("the file system refuses to move the data back", where=str(path))
    elif size != plan.size:
        raise _stranger(path, size, plan)


def _stranger(path: Path, size: int, plan: Plan) -> InputError:
    return InputError(
        f"is neither the file before the interrupted change ({plan.size} bytes) nor the one after it "
        f"({plan.new_size}): it has {size} bytes",
        where=str(path),
        hint="something else has changed it since; the journal beside it still holds the old header",
    )


def _holds(descriptor: int, splices: Sequence[Splice]) -> bool:
    return all(os.pread(descriptor, len(s.before), s.offset) == s.before for s in splices)


def _move_range(descriptor: int, cut: int, move: int) -> bool:
    if move > 0:
        return kernel.insert_range(descriptor, cut, move)
    return kernel.collapse_range(descriptor, cut, -move)


def _write_zones(descriptor: int, zones: Sequence[Splice], size: int, *, new: bool) -> None:
    """Write the new (or the old) bytes of every zone, around a body that is where it belongs."""
    shift = 0
    for zone in zones:
        files.write_at(descriptor, zone.after if new else zone.before, zone.offset + (shift if new else 0))
        shift += len(zone.after) - len(zone.before)
    os.ftruncate(descriptor, size)


def _samples(descriptor: int, plan: Plan, move: int) -> list[bytes]:
    """A few bytes of the body's ends and middle: evidence that it moved as meant."""
    start, end = plan.body
    count = min(4096, end - start)
    places = [start, (start + end - count) // 2, end - count]
    free = [at for at in places if not any(z.offset < at + count and at < z.offset + len(z.before) for z in plan.zones)]
    return [os.pread(descriptor, count, at + move) for at in free]


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
