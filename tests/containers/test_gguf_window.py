"""Headers that are longer than what is mapped of a file at first, and headers that were scanned before."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropepatch.containers import gguf
from ropepatch.errors import InputError
from tests.support.command import ROOT

FILE = ROOT / "fixtures" / "tiny-retriever.gguf"


@pytest.mark.parametrize("window", [24, 100, 1000, 5000])
def test_a_longer_header_is_scanned_again(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the window cuts the header, the same is found; the window was in fact too small."""
    whole = gguf.scan(FILE)
    with pytest.raises(gguf.Incomplete):
        gguf.scan(FILE, window)
    monkeypatch.setattr(gguf, "_WINDOW", window)
    monkeypatch.setattr(gguf, "_LAST", [])

    assert gguf.scan(FILE) == whole


def test_a_truncated_header_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file ends before the header does, it is the file's fault, not the window's."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(FILE.read_bytes()[:2000])
    monkeypatch.setattr(gguf, "_WINDOW", 100)

    with pytest.raises(InputError, match="truncated"):
        gguf.scan(path)


def test_a_header_that_was_scanned_is_known_again(tmp_path: Path) -> None:
    """A second scan of the same bytes takes the records of the first, under the name of the file that was asked for."""
    first = gguf.scan(FILE)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(FILE.read_bytes())

    again = gguf.scan(copy)

    assert again.path == copy
    assert again.keys is first.keys


def test_a_changed_header_is_scanned_anew(tmp_path: Path) -> None:
    """A byte that changed within the same length, however soon after the scan, is seen."""
    path = tmp_path / "m.gguf"
    data = bytearray(FILE.read_bytes())
    path.write_bytes(data)
    record = gguf.scan(path).keys["llama.context_length"]
    data[record.end - 4 : record.end] = (12345).to_bytes(4, "little")
    path.write_bytes(data)

    assert record.value != 12345
    assert gguf.scan(path).get("llama.context_length") == 12345


def test_a_file_cut_after_the_scan_is_refused(tmp_path: Path) -> None:
    """The same header in a shorter file: its tensors are held against the file as it is now."""
    path = tmp_path / "m.gguf"
    path.write_bytes(FILE.read_bytes())
    gguf.scan(path)
    path.write_bytes(FILE.read_bytes()[:-64])

    with pytest.raises(InputError, match="truncated"):
        gguf.scan(path)
