"""Walking over the texts of a GGUF array: a vocabulary has 150,000, and nothing before its end says where that is."""

from __future__ import annotations

import struct
from mmap import mmap

#: bytes looked at in one go: what is made of them stays in the processor's cache, and costs no new pages
_WINDOW = 64 << 10
#: texts from which a look at a whole window pays, and how many are walked one by one where it did not
_MANY, _STEPS = 512, 4096


class Cut(struct.error):
    """The data end before the texts do, as the beginning of a file does.

    Attributes:
        at: the offset reached.
        left: texts from there on.
    """

    def __init__(self, at: int, left: int) -> None:
        super().__init__(f"{left} texts are missing")
        self.at, self.left = at, left


def skip(data: bytes | mmap, at: int, size: int, count: int, byte_order: str = "<") -> int:
    """Where the last of ``count`` texts ends.

    Args:
        data: the file, or its beginning.
        at: where the first text's length stands, a ``u64`` before the bytes that it counts.
        size: of the file.
        count: of the texts.
        byte_order: ``<`` or ``>``, of the lengths.

    Returns:
        The offset behind the last text; more than ``size`` where a text leaves the file.

    Raises:
        Cut: a length leaves the data.
    """
    unpack = struct.Struct(byte_order + "Q").unpack_from
    while count > 0 and at <= size:
        if count >= _MANY and byte_order == "<":
            at, taken = _stride(data, at, count)
            count -= taken
            if taken >= _MANY or at > size:
                continue
        try:
            for _ in range(min(count, _STEPS)):
                at += 8 + unpack(data, at)[0]
                count -= 1
                if at > size:
                    return at
        except struct.error:
            raise Cut(at, count) from None
    return at


def _stride(data: bytes | mmap, at: int, count: int) -> tuple[int, int]:
    """Walk the texts whose lengths are below 256 and stand out by their seven zero bytes, all of a window at once.

    Such places are only guesses (a text may hold zeros), so that they count as far as each text ends where the next
    guess begins, starting from ``at``: up to there they are what walking one by one would find.
    """
    import numpy as np

    if len(data) - at < 8:
        return at, 0
    window = np.frombuffer(data, np.uint8, count=min(_WINDOW, len(data) - at), offset=at)
    zero = window == 0
    two = zero[:-1] & zero[1:]
    four = two[:-2] & two[2:]
    starts = np.flatnonzero(four[1:-3] & four[4:])[:count]  # a byte, then seven zeros
    if not len(starts) or starts[0] != 0:
        return at, 0
    ends = starts + 8 + window[starts]
    broken = np.flatnonzero(ends[:-1] != starts[1:])
    taken = int(broken[0]) + 1 if len(broken) else len(starts)
    return at + int(ends[taken - 1]), taken
