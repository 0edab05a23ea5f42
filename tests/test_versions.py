"""The versions of installed libraries."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ropepatch import _versions


def test_versions_are_those_of_importlib_metadata() -> None:
    """Each installed library has the version that Python's own module reads from its metadata."""
    names = {re.sub(r"[-_.]+", "_", found.metadata["Name"]).lower() for found in metadata.distributions()}
    assert {"numpy", "gguf", "click"} <= names
    assert {name: _versions.installed(name) for name in names} == {name: metadata.version(name) for name in names}


def test_first_on_the_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two installed versions the one that an import would find counts."""
    for folder, version in (("a", "1.5"), ("b", "2.0+cpu")):
        (tmp_path / folder / f"Some.Library-{version}.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(tmp_path / "b"), str(tmp_path / "a")])
    assert _versions.installed("some_library") == "2.0+cpu"


def test_library_that_is_not_installed_has_no_version() -> None:
    """What is not there is None, and no error."""
    assert _versions.installed("ropepatch_is_no_such_library") is None
