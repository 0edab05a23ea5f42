"""A file as another file with a few byte ranges exchanged.

Every change that ropepatch makes to a file is a list of splices. They are small (headers), exact, and invert, so
that the manifest can carry them and ``revert`` can restore the input byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Splice:
    """``before`` at ``offset`` of the old file is exchanged for ``after``.

    Attributes:
        offset: position in the old file, in bytes.
        before: the old bytes (empty for an insertion).
        after: the new bytes (empty for a deletion).
    """

    offset: int
    before: bytes
    after: bytes

    def to_json(self) -> dict[str, Any]:
        """Offsets as numbers, bytes as hexadecimal text."""
        return {"offset": self.offset, "before": self.before.hex(), "after": self.after.hex()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Splice:
        """The splice that :meth:`to_json` wrote."""
        return cls(int(data["offset"]), bytes.fromhex(data["before"]), bytes.fromhex(data["after"]))


def check(splices: Sequence[Splice], size: int) -> None:
    """Refuse splices that are out of order, overlap or leave the file.

    Raises:
        ValueError: naming the offset.
    """
    position = 0
    for splice in splices:
        if splice.offset < position or splice.offset + len(splice.before) > size:
            raise ValueError(f"splice at offset {splice.offset} overlaps another or leaves the file")
        position = splice.offset + len(splice.before)


def invert(splices: Sequence[Splice]) -> list[Splice]:
    """The splices that turn the new file back into the old one."""
    inverted = []
    shift = 0
    for splice in splices:
        inverted.append(Splice(splice.offset + shift, splice.after, splice.before))
        shift += len(splice.after) - len(splice.before)
    return inverted


def segments(splices: Sequence[Splice], size: int) -> Iterator[tuple[int, int] | bytes]:
    """The new file in order: ``(offset, length)`` ranges of the old file, and new bytes between them."""
    position = 0
    for splice in splices:
        if splice.offset > position:
            yield position, splice.offset - position
        if splice.after:
            yield splice.after
        position = splice.offset + len(splice.before)
    if position < size:
        yield position, size - position


def between(old: bytes, new: bytes, offset: int = 0) -> list[Splice]:
    """The one splice that turns ``old`` into ``new``, cut to the bytes that differ; none when they are equal."""
    if old == new:
        return []
    limit = min(len(old), len(new))
    start = _common(old, new, limit)
    end = _common(old[::-1], new[::-1], limit - start)
    return [Splice(offset + start, old[start : len(old) - end], new[start : len(new) - end])]


def _common(a: bytes, b: bytes, limit: int) -> int:
    """How many leading bytes agree, at most ``limit``."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
