"""Leaving out the middle of a vocabulary: what stands behind it is found where it is, or all of it is read."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest

from ropepatch.containers import gguf
from ropepatch.hub import gguf_header
from ropepatch.storage.remote import Sparse
from tests.support import raw_gguf as raw
from tests.support.command import ropepatch
from tests.support.hub_models import sparse_gguf
from tests.support.hub_server import HubServer
from tests.support.shell import Shell

CORPUS = os.environ.get("ROPEPATCH_CORPUS")


class Local:
    """A file here as if it were elsewhere."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.sent = data, len(data), 0

    def read(self, start: int, end: int | None) -> bytes:
        found = self.data[start:end]
        self.sent += len(found)
        return found


def records(header: gguf.Header) -> list[object]:
    """Every record with its place in the file, and the values of those that are no arrays."""
    keys = [(one.key, one.type, one.start, one.end, one.value) for one in header.keys.values()]
    return [*keys, *header.tensors.values(), header.data_offset]


def fetched(source: Local, path: Path, first: int = 60_000) -> tuple[gguf.Header, bool]:
    """A header as it is fetched from the Hub, and whether all of it was."""
    with open(path, "wb") as file:
        file.truncate(source.size)
    return gguf_header.fetch(Sparse(path, source), first, exact=False)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies are left out, too."""
    monkeypatch.setattr(gguf_header, "WALKED", 0)


@pytest.mark.corpus
@pytest.mark.skipif(CORPUS is None, reason="ROPEPATCH_CORPUS is not set")
@pytest.mark.parametrize("first", [60_000, 100_000])
@pytest.mark.usefixtures("always")
def test_real_vocabularies(tmp_path: Path, first: int) -> None:
    """In the headers of published models every record behind a vocabulary is found at its own place."""
    files = sorted((Path(CORPUS or "") / "gguf").glob("*.gguf"))
    for file in files:
        source = Local(file.read_bytes())
        header, whole = fetched(source, tmp_path / file.name, first)

        assert records(header) == records(gguf.scan(file)), file.name
        assert not whole
        assert source.sent < source.size
    assert len(files) >= 7


def header(tokens: list[bytes], behind: list[bytes], trailing: bytes = b"") -> bytes:
    """A GGUF of an array of texts, keys behind it, and one tensor."""
    array = raw.array(raw.STRING, len(tokens), b"".join(map(raw.text, tokens)))
    keys = [raw.key("tokenizer.ggml.tokens", raw.ARRAY, array), *behind]
    return raw.Parts(keys, [raw.tensor("rope_freqs.weight", (8,))], bytes(32) + trailing).build()


PLAIN = [b"token-%d" % (n * n) for n in range(60_000)]
ZERO = [raw.key(f"llama.b{n}", raw.U32, bytes(4)) for n in range(3)]
SCALE = raw.key("llama.rope.scaling.factor", raw.F32, struct.pack("<f", 4.0))
#: what stands in a file, and whether it can do without the middle of its texts
CASES: dict[str, tuple[bytes, bool]] = {
    "a key that is no text": (header(PLAIN, [SCALE]), True),
    "keys that look like texts": (header(PLAIN, [*ZERO, SCALE]), True),
    "texts that look like keys": (header([*PLAIN[:-9], *(b"a.b", b"token") * 4, b"abcd"], [SCALE]), True),
    "a long text on the way": (header([*PLAIN[:30_000], b"x" * 3000, *PLAIN[30_000:]], [SCALE]), True),
    "no key behind": (header(PLAIN, []), True),
    "an empty text near the end": (header([*PLAIN[:-5], b"", *PLAIN[-5:]], [SCALE]), False),
    "a text that is a file": (header([*PLAIN[:-5], b"y" * 9000, *PLAIN[-5:]], [SCALE]), False),
    "bytes behind the tensors": (header(PLAIN, [SCALE], bytes(100)), False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("always")
def test_ends(tmp_path: Path, case: str) -> None:
    """Whatever stands at the end of the texts, the records behind them are found at their places."""
    data, leaps = CASES[case]
    (tmp_path / "whole").write_bytes(data)
    source = Local(data)
    found, whole = fetched(source, tmp_path / "left out")

    assert records(found) == records(gguf.scan(tmp_path / "whole"))
    assert whole == (not leaps)
    assert (source.sent < 0.8 * source.size) == leaps


def test_a_small_header_is_read_whole(tmp_path: Path) -> None:
    """A vocabulary that takes little is walked through."""
    source = Local(CASES["a key that is no text"][0])
    _, whole = fetched(source, tmp_path / "m")

    assert whole
    assert source.sent == source.size


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF with a vocabulary as gpt-oss has, patched: its own keys stand behind the vocabulary."""
    folder = tmp_path_factory.mktemp("patched")
    sparse_gguf(folder / "m.gguf", size=48 << 20, vocabulary="gpt-oss", factors=False)
    done = ropepatch("apply", folder / "m.gguf", "--method", "yarn", "--factor", 4, "-o", folder / "out.gguf", "-q")
    assert done.code == 0, done.err
    return folder


def test_what_is_checked_is_read_whole(hub: HubServer, shell: Shell, patched: Path) -> None:
    """inspect leaves the middle of a large vocabulary out, and manifest verify, which vouches for a file, does not."""
    size = gguf.scan(patched / "out.gguf").data_offset
    hub.store.seed("org/large", {name: patched / name for name in ("out.gguf", "out.ropepatch.json")})
    hub.reset()
    seen = shell.run("inspect", "hf://org/large", "--json")
    moved = hub.sent
    hub.reset()
    checked = shell.run("manifest", "verify", "hf://org/large", "--json")

    assert seen.document["groups"]["default"]["scaling"]["factor"] == 4.0
    assert moved < 0.5 * size
    assert checked.code == 0, checked.out + checked.err
    assert hub.sent > 0.9 * size


def test_a_header_that_does_not_come_out_even(hub: HubServer, shell: Shell, patched: Path, tmp_path: Path) -> None:
    """Where tensor data do not end with the file, something may have been taken for something else: all is read."""
    shutil.copy(patched / "out.gguf", tmp_path / "odd.gguf")
    with open(tmp_path / "odd.gguf", "ab") as file:
        file.write(bytes(1000))
    hub.store.sparse("org/odd", "odd.gguf", tmp_path / "odd.gguf")
    hub.reset()
    seen = shell.run("inspect", "hf://org/odd", "--json")

    assert seen.document["groups"]["default"]["scaling"]["factor"] == 4.0
    assert hub.sent > gguf.scan(patched / "out.gguf").data_offset
