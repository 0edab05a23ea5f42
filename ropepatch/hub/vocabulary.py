"""Leaving out the middle of a large vocabulary in the header of a GGUF file on the Hub.

An array of texts says how many there are and not where it ends: to find what stands behind it, every text is walked
over. The vocabularies with 200,000 tokens and more take 12 MB that way. But the texts' lengths stand between them, so
that from any place in the array the walk can be taken up again: whole texts follow one another there and nowhere else.
What is left out is filled with as many texts as are missing, and the file is read on like any other.

Everything behind the array is then read as it is, and has to come out even: as many keys and tensors as the header
counts, and tensor data that end where the file does. A file that was made to mislead could still do that and hold other
keys where nobody looked, so that a check of an output against its manifest reads all of the header.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import numpy as np

from ropepatch.containers import gguf, texts
from ropepatch.errors import InputError
from ropepatch.storage.remote import Sparse

#: a GGUF header with more than this is no model's
MAX_HEADER = 64 << 20
#: texts in a row that are no chance
_SURE = 64
#: no text of a vocabulary is longer
_LONGEST = 4096
_PROBE = 64 << 10
#: the least that is fetched before and behind the place where the array probably ends
_MARGIN = 192 << 10
_MOST = 4 << 20
_TRIES = 6
#: texts that may have been keys, looked at from behind
_BACK = 8
_LENGTH = re.compile(rb"[^\0]\0{7}(?=[^\0])")
_KEY = re.compile(rb"[a-z0-9][a-z0-9_.-]*")


def leap(file: Sparse, start: int) -> bool:
    """Fetch the end of an array of texts without its middle.

    Args:
        file: its beginning is here.
        start: where the array's first text is, which the header's scan could not get beyond.

    Returns:
        Whether the end was found. If so, all up to behind it is in place, with other texts in the middle; if not, the
        file is as before, but for ranges behind what was known.
    """
    with open(file.path, "rb") as stream:
        data = stream.read(file.known)
    if data[start - 12 : start - 8] != struct.pack("<I", gguf.STRING):
        return False  # of a file of the other byte order
    try:
        texts.skip(data, start, file.source.size, struct.unpack_from("<Q", data, start - 8)[0])
    except texts.Cut as cut:
        here, left = cut.at, cut.left
    else:
        return False
    near = _walk(data, _first(data, max(start, len(data) - _PROBE)))
    if len(near) <= _SURE:
        return False
    return _Search(file, here, left, _mean(near)).run()


class _Search:
    """Looks for the end of an array: ``here`` is where the first text begins that is not known, of ``left``."""

    def __init__(self, file: Sparse, here: int, left: int, mean: float) -> None:
        self.file, self.here, self.left = file, here, left
        #: places within the array, and how many bytes a text takes there
        self.samples = [(here, mean)]
        #: the last place known to be in the array, and the first known to be behind it
        self.inside, self.behind = here, file.source.size

    def run(self) -> bool:
        start, length = int(self.here + 0.8 * (self._end() - self.here)), _PROBE
        for _ in range(_TRIES):
            if start > MAX_HEADER:
                return False
            data = self._fetch(start, length)
            known = _walk(data, _first(data, 0))
            if len(known) <= _SURE:
                self.behind = start
            elif known[-1] + 8 <= len(data) and not _goes_on(data, known[-1]):
                return self._finish(start, data, known)
            else:
                self.inside = start + known[-1]
                self.samples.append((start + (known[0] + known[-1]) // 2, _mean(known)))
            end = self._end()
            margin = min(max(_MARGIN, (end - self.inside) // 8), _MOST // 2)
            start, length = max(end - margin, self.inside - 2 * _LONGEST), 2 * margin  # overlapping what is known
            if start >= self.behind:
                start = (self.inside + self.behind) // 2
        return False

    def _fetch(self, start: int, length: int) -> bytes:
        end = min(start + length, self.file.source.size)
        self.file.fill(start, end)
        with open(self.file.path, "rb") as stream:
            stream.seek(start)
            return stream.read(end - start)

    def _end(self) -> int:
        """Where the array ends, if the texts grow evenly between the samples and no more behind the last one."""
        at, mean = self.samples[0]
        left = float(self.left)
        for place, other in self.samples[1:]:
            left -= 2 * (place - at) / (mean + other)
            at, mean = place, other
        return at + max(int(left * mean), 0)

    def _finish(self, at: int, data: bytes, known: Sequence[int]) -> bool:
        """Take the end that the header's scan can go on from; a key may have looked like a text."""
        last = min(_BACK, len(known) - _SURE)
        for number in range(len(known) - last, len(known)):
            missing = self.left - number
            gap = at + known[0] - self.here
            if not _begins_a_key(data, known[number]) or missing < 1 or gap < 9 * missing:
                continue
            with open(self.file.path, "r+b") as stream:
                stream.seek(self.here)
                stream.write(_filling(gap, missing))
            before, self.file.known = self.file.known, at + len(data)
            try:
                gguf.scan(self.file.path, self.file.known)
            except gguf.Incomplete as more:
                if more.at >= at + known[number]:
                    return True
            except InputError:
                pass
            else:
                return True
            self.file.known = before
        return False


def _first(data: bytes, start: int) -> int:
    """The first place from which texts follow one another; the end where there is none."""
    for found in _LENGTH.finditer(data, start, start + 4 * _LONGEST):
        if len(_walk(data, found.start(), _SURE)) > _SURE:
            return found.start()
    return len(data)


def _walk(data: bytes, at: int, most: int = 1 << 30) -> list[int]:
    """Where texts begin, one after the other; the last place is where none begins, or does not end within the data."""
    found = [at]
    unpack = struct.Struct("<Q").unpack_from
    while len(found) <= most and at + 8 <= len(data):
        length = unpack(data, at)[0]
        if not 0 < length <= _LONGEST or at + 8 + length > len(data):
            break
        at += 8 + length
        found.append(at)
    return found


def _goes_on(data: bytes, at: int) -> bool:
    """Whether a text begins there whose end is not in the data."""
    return bool(0 < struct.unpack_from("<Q", data, at)[0] <= _LONGEST)


def _mean(known: Sequence[int]) -> float:
    return (known[-1] - known[0]) / (len(known) - 1)


def _begins_a_key(data: bytes, at: int) -> bool:
    """Whether a metadata record, or a tensor's, may begin there."""
    length = struct.unpack_from("<Q", data, at)[0] if at + 8 <= len(data) else 0
    return bool(0 < length <= _LONGEST and _KEY.fullmatch(data, at + 8, at + 8 + length))


def _filling(size: int, count: int) -> bytes:
    """``count`` texts that take ``size`` bytes together."""
    each = size // count
    table = np.full((count, each), ord("?"), np.uint8)
    table[:, :8] = np.frombuffer(struct.pack("<Q", each - 8), np.uint8)
    last = size - each * (count - 1)
    return table[:-1].tobytes() + struct.pack("<Q", last - 8) + b"?" * (last - 8)
