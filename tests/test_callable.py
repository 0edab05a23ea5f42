"""The public functions as a program and a notebook meet them."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path

import pytest

import ropepatch
from tests.support.command import ROOT

MODEL = ROOT / "fixtures" / "tiny-llama.gguf"


@pytest.mark.parametrize("name", ["audit", "card", "doctor", "search", "verify"])
def test_a_room_shows_how_it_is_called(name: str) -> None:
    """What is a package and a function at once has the function's signature and description."""
    room = getattr(ropepatch, name)
    shown = pydoc.plain(pydoc.render_doc(room))

    assert next(iter(inspect.signature(room).parameters)) in ("ref", "model_or_ref")
    assert f"Called: {name}(" in shown
    assert "Raises:" in shown


@pytest.mark.parametrize("kind", [str, Path])
def test_a_ref_is_a_text_or_a_path(kind: type[str | Path]) -> None:
    """Functions that read take either, and come to the same."""
    ref = kind(MODEL)

    assert ropepatch.open(ref).profile.trained_context == 2048
    assert ropepatch.plan(ref, 8192).verdict == "USABLE-WITH-CARE"
    assert ropepatch.doctor(ref) == []
    assert ropepatch.diff(ref, ref).equivalent
    assert [one.runtime for one in ropepatch.all_runtimes(ref).readings] == ["llama.cpp", "ollama"]
