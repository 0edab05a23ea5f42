"""Headers that are longer than what is mapped of a file at first."""

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

    assert gguf.scan(FILE) == whole


def test_a_truncated_header_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file ends before the header does, it is the file's fault, not the window's."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(FILE.read_bytes()[:2000])
    monkeypatch.setattr(gguf, "_WINDOW", 100)

    with pytest.raises(InputError, match="truncated"):
        gguf.scan(path)
