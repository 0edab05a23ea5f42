"""Digests taken while something else works: each stream on a thread of its own, which leaves the interpreter alone.

hashlib and pread release the interpreter's lock, so that as many streams run at once as there are cores. They read the
input only, whose pages the copy brings into memory anyway.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ropepatch.errors import InputError
from ropepatch.storage.ranges import Progress, expect
from ropepatch.storage.splice import Splice, segments

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_CHUNK = 1 << 20


class Digests:
    """Running digests; leaving the block waits for them, or stops them when it fails."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._stop = threading.Event()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor  # loads logging and more: many writes take no digest

        return ThreadPoolExecutor(max_workers=8, thread_name_prefix="digest")

    def file(self, path: Path) -> Future[str]:
        """The sha256 of a file."""
        return self._begin(path, [(0, path.stat().st_size)])

    def spliced(self, path: Path, splices: Sequence[Splice]) -> Future[str]:
        """The sha256 that a file will have with splices applied."""
        return self._begin(path, list(segments(splices, path.stat().st_size)))

    def ranges(self, path: Path, ranges: Sequence[tuple[int, int]]) -> Future[str]:
        """The sha256 of ranges of a file, each an offset and a length."""
        return self._begin(path, list(ranges))

    def _begin(self, path: Path, parts: Sequence[tuple[int, int] | bytes]) -> Future[str]:
        expect(self._progress, sum(part[1] for part in parts if not isinstance(part, bytes)))
        return self._pool.submit(self._take, path, parts)

    def _take(self, path: Path, parts: Iterable[tuple[int, int] | bytes]) -> str:
        import hashlib  # loads OpenSSL: many patches take no digest

        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK))
        with open(path, "rb", buffering=0) as file:
            for part in parts:
                if isinstance(part, bytes):
                    digest.update(part)
                    continue
                offset, left = part
                while left and not self._stop.is_set():
                    count = os.preadv(file.fileno(), [buffer[: min(left, _CHUNK)]], offset)
                    if count == 0:
                        raise InputError("became shorter while it was read", where=str(path))
                    digest.update(buffer[:count])
                    offset, left = offset + count, left - count
                    if self._progress:
                        self._progress(count)
        return digest.hexdigest()

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is not None:
            self._stop.set()
        if "_pool" in self.__dict__:
            self._pool.shutdown(wait=True)
