"""What a manifest says of the files: their digests, taken while they are copied, and those of the tensor data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ropepatch.bundle import Bundle, is_gguf
from ropepatch.containers import gguf
from ropepatch.patch import Edit
from ropepatch.storage.digesting import Digests
from ropepatch.storage.ranges import Progress
from ropepatch.storage.splice import Splice

if TYPE_CHECKING:
    from concurrent.futures import Future

#: files that are hashed even where large ones are only linked or overwritten in place
SMALL = 32 << 20

Named = dict[str, dict[str, str]]


class Evidence:
    """Digests of the inputs and outputs of one job; it stops them when the job fails.

    Args:
        source: the input.
        edits: what changes, by file.
        choice: ``none``, ``header`` (files up to 32 MiB) or ``full``.
        progress: called with the number of bytes just hashed.
    """

    def __init__(
        self, source: Bundle, edits: Mapping[str, Sequence[Edit]], choice: str, progress: Progress | None
    ) -> None:
        self._source, self._edits, self._choice = source, edits, choice
        self._running = Digests(progress)
        self._inputs: dict[str, Future[str] | None] = {}
        self._outputs: dict[str, Future[str]] = {}
        self._before: dict[str, Future[str]] = {}

    def start(self) -> None:
        """Begin with the inputs, and with the tensor data of those that change."""
        for name in self._source.names:
            path = self._source.path(name)
            if path.exists():
                self._inputs[name] = self._running.file(path) if self._hashed(path) else None
        for name in self._tensor_files():
            path = self._source.path(name)
            self._before[name] = self._running.ranges(path, tensor_ranges(path, self._edits[name]))

    def foresee(self, changes: Mapping[str, Sequence[Splice]]) -> None:
        """Begin with the outputs while they are written: what the splices make of the inputs."""
        for name, splices in changes.items():
            if self._inputs.get(name) is not None:
                self._outputs[name] = self._running.spliced(self._source.path(name), splices)

    def wait(self) -> None:
        """Wait for what was begun: a change in place is about to overwrite it."""
        for future in (*filter(None, self._inputs.values()), *self._before.values()):
            future.result()

    def inputs(self) -> Named:
        """Digests by input name; empty ones where none was wanted."""
        return {name: {"sha256": future.result()} if future else {} for name, future in self._inputs.items()}

    def outputs(self, written: Bundle, *, compared: bool) -> Named:
        """Digests by output name.

        Args:
            written: the output.
            compared: every byte was compared with what it should be, so that nothing needs to be read again.
        """
        futures: dict[str, Future[str] | None] = {}
        for name, new_name in zip(self._source.names, written.names, strict=True):
            path = written.path(new_name)
            if not path.exists():
                continue
            known = self._outputs.get(name) or (None if name in self._edits else self._inputs.get(name))
            if not self._hashed(path):
                futures[new_name] = None
            else:
                futures[new_name] = known if known and compared else self._running.file(path)
        return {name: {"sha256": future.result()} if future else {} for name, future in futures.items()}

    def tensor_data(self, written: Bundle, *, compared: bool) -> dict[str, dict[str, Any]]:
        """Size and digests of the unedited tensors before and after, by output name."""
        found = {}
        new_name = dict(zip(self._source.names, written.names, strict=True))
        for name, before in self._before.items():
            path = written.path(new_name[name])
            ranges = tensor_ranges(path, self._edits[name])
            after = before if compared else self._running.ranges(path, ranges)
            found[new_name[name]] = {
                "bytes": sum(length for _, length in ranges),
                "before": {"sha256": before.result()},
                "after": {"sha256": after.result()},
            }
        return found

    def _hashed(self, path: Path) -> bool:
        return self._choice == "full" or (self._choice == "header" and path.stat().st_size <= SMALL)

    def _tensor_files(self) -> list[str]:
        return [name for name in self._edits if self._choice == "full" and is_gguf(self._source.path(name))]

    def __enter__(self) -> Evidence:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.__exit__(kind, error, at)


def tensor_ranges(path: Path, edits: Sequence[Edit]) -> list[tuple[int, int]]:
    """Offset and length of every tensor of a GGUF file that ``edits`` do not name, in file order."""
    header = gguf.scan(path)
    edited = {edit.path[0] for edit in edits if edit.target == "tensor"}
    kept = (info for info in header.tensors.values() if info.name not in edited)
    return [(header.data_offset + info.offset, info.size) for info in kept]
