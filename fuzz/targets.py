"""What is fuzzed: bytes as a file, through every layer that reads it. Nothing comes out but errors made on purpose.

A file that is read is also changed and read again, since the rewriting code trusts what the scanner let pass.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ropepatch import checkpoint, splices
from ropepatch.checkpoint import Checkpoint
from ropepatch.containers import gguf, gguf_rewrite, safetensors
from ropepatch.errors import RopepatchError
from ropepatch.methods.base import ParameterError
from ropepatch.storage.splice import Splice, segments

#: an answer to a bad file; the command line prints both in one line
EXPECTED = (RopepatchError, ParameterError)


@contextlib.contextmanager
def _as_file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ropepatch-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def _spliced(data: bytes, changes: list[Splice]) -> bytes:
    parts = segments(changes, len(data))
    return b"".join(part if isinstance(part, bytes) else data[part[0] : part[0] + part[1]] for part in parts)


def _all_layers(path: Path) -> None:
    """Profile, frequencies, and patches as far as the splices of each."""
    model = checkpoint.open(path)
    with contextlib.suppress(*EXPECTED):
        model.frequencies()
        model.frequencies(1 << 20)
    for method, factor in (("yarn", 4.0), ("linear", 2.0), ("ntk", 8.0)):
        with contextlib.suppress(*EXPECTED):
            _patched(model, method, factor)


def _patched(model: Checkpoint, method: str, factor: float) -> None:
    patch = model.patch(method, factor, existing="replace", original=2048)
    by_file = {edit.file for edit in patch.edits}
    for name in by_file:
        root = patch.root or Path(patch.ref).parent
        splices.for_file(root / name, [edit for edit in patch.edits if edit.file == name])
    json.dumps(patch.to_json(), allow_nan=False)


def read_gguf(data: bytes) -> None:
    """A GGUF file: scanned, changed in its header, scanned again; and read as a model."""
    with _as_file(data, "model.gguf") as path:
        try:
            header = gguf.scan(path)
        except RopepatchError:
            return
        for block in (0, 4096):
            path.write_bytes(data)  # the splices are made from the bytes that were scanned
            changes = gguf_rewrite.splices(header, {"fuzz.new": ("STRING", "text"), "k": None}, {}, block=block)
            path.write_bytes(_spliced(data, changes))
            again = gguf.scan(path)
            assert again.get("fuzz.new") == "text", "the new key is not there"
            assert list(again.tensors) == list(header.tensors), "the tensors are others"
            moved = [one.offset for one in again.tensors.values()]
            assert moved == [one.offset for one in header.tensors.values()], "a tensor moved within the data"
        path.write_bytes(data)
        with contextlib.suppress(*EXPECTED):
            _all_layers(path)


def read_safetensors(data: bytes) -> None:
    """A safetensors file: scanned, and read as a model."""
    with _as_file(data, "model.safetensors") as path:
        with contextlib.suppress(RopepatchError):
            safetensors.scan(path)
        with contextlib.suppress(*EXPECTED):
            _all_layers(path)


def read_config(data: bytes) -> None:
    """A `config.json`."""
    with _as_file(data, "config.json") as path, contextlib.suppress(*EXPECTED):
        _all_layers(path)


def read_params(data: bytes) -> None:
    """A `params.json`."""
    with _as_file(data, "params.json") as path, contextlib.suppress(*EXPECTED):
        _all_layers(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "gguf": read_gguf,
    "safetensors": read_safetensors,
    "config": read_config,
    "params": read_params,
}
