"""Copies that begin before it is known what they will hold."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch.errors import InputError
from ropepatch.storage import ahead, kernel, ranges
from tests.support import tiny
from tests.support.command import ROOT
from tests.support.outputs import digest

SPEC = tiny.ModelSpec(
    layers=2, hidden=256, heads=2, kv_heads=1, head_dim=128, intermediate=512, vocab=2000, context=256
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF of some megabytes, which are worth it here, on a file system that shares no blocks."""
    monkeypatch.setattr(ahead, "WORTH", 1 << 20)
    monkeypatch.setattr(kernel, "shares_blocks", lambda *_: False)
    monkeypatch.setattr(kernel, "clone_range", lambda *_: False)
    (tmp_path / "place").mkdir()
    path = tiny.write_gguf(tmp_path / "place" / "model.gguf", SPEC)
    assert path.stat().st_size > 1 << 20
    if (probe := kernel.unnamed(path.parent)) is None:
        pytest.skip("this file system has no files without a name")
    os.close(probe)
    return path


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by an entry for each copy that is used."""
    used: list[str] = []
    original = ahead.Ahead.complete

    def complete(self: ahead.Ahead, *arguments: Any) -> None:
        used.append("used")
        original(self, *arguments)

    monkeypatch.setattr(ahead.Ahead, "complete", complete)
    return used


def names(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("method", ["yarn", "ntk", "mrrope-pro"])
def test_the_output_is_the_same(model: Path, completed: list[str], method: str, sync: bool) -> None:
    """Byte for byte what is written without it, and it is used."""
    patch = ropepatch.open(model).patch(method, 4.0)
    patch.write(model.with_name("plain.gguf"), digest="none")
    with ahead.begun(model, model.parent, sync=sync):
        patch.write(model.with_name("ahead.gguf"), digest="none", sync=sync)

    assert digest(model.with_name("ahead.gguf")) == digest(model.with_name("plain.gguf"))
    assert completed == ["used"]


def test_a_header_that_does_not_grow(model: Path, completed: list[str]) -> None:
    """The second patch finds room in what the first one left: the guess is wrong, and the output is right."""
    ropepatch.open(model).patch("yarn", 4.0).write(in_place=True)
    patch = ropepatch.open(model).patch("yarn", 8.0, existing="replace")
    patch.write(model.with_name("plain.gguf"), digest="none")
    with ahead.begun(model, model.parent, sync=False):
        patch.write(model.with_name("ahead.gguf"), digest="none")

    assert completed == []
    assert digest(model.with_name("ahead.gguf")) == digest(model.with_name("plain.gguf"))


def test_the_bytes_come_from_the_copy(model: Path, completed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the thread has copied is not copied again, and what it copied wrongly is found by the check."""
    original = ahead.Ahead._run

    def run(self: ahead.Ahead) -> None:
        original(self)
        os.pwrite(self._target, b"wrong", os.fstat(self._target).st_size - 4096)

    monkeypatch.setattr(ahead.Ahead, "_run", run)
    with pytest.raises(ropepatch.errors.CheckFailed), ahead.begun(model, model.parent, sync=False):
        ropepatch.open(model).patch("yarn", 4.0).write(model.with_name("out.gguf"), digest="full")
    assert completed == ["used"]
    assert names(model.parent) == ["model.gguf"]


def test_progress_counts_every_byte_once(model: Path, completed: list[str]) -> None:
    """Who watches is told of as many bytes as the file has, up to the header that both have."""
    moved: list[int] = []
    with ahead.begun(model, model.parent, sync=False):
        ropepatch.open(model).patch("yarn", 4.0).write(
            model.with_name("out.gguf"), digest="none", verify=False, progress=moved.append
        )
    assert completed == ["used"]
    assert sum(moved) == model.stat().st_size


def test_nothing_stays_of_what_was_not_wanted(model: Path) -> None:
    """A patch that is not written leaves no file, no thread and no open file."""
    before = (names(model.parent), threading.active_count(), len(os.listdir("/proc/self/fd")))
    with pytest.raises(ZeroDivisionError), ahead.begun(model, model.parent, sync=True):
        raise ZeroDivisionError
    assert (names(model.parent), threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    assert ahead._BEGUN == []


@pytest.mark.parametrize("fails", ["open", "block_size"])
def test_what_cannot_begin_leaves_nothing_open(model: Path, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that may not be opened, or a folder that tells nothing: the writing goes on, and no file stays open."""
    plain = os.open

    def refuse(path: Any, *rest: Any, **options: Any) -> int:
        if fails == "block_size" or path == model:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path, *rest, **options)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(*((os, "open", refuse) if fails == "open" else (kernel, "block_size", refuse)))
    with ahead.begun(model, model.parent, sync=True):
        assert ahead._BEGUN == []
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_changed_meanwhile_is_not_taken(model: Path, completed: list[str]) -> None:
    """What was copied before the change is of no use; the patch says what it says without."""
    patch = ropepatch.open(model).patch("yarn", 4.0)
    with ahead.begun(model, model.parent, sync=False):
        tiny.write_gguf(model, SPEC.with_(seed=3))
        patch.write(model.with_name("new.gguf"), digest="none")
    assert completed == []
    patch.write(model.with_name("plain.gguf"), digest="none")
    assert digest(model.with_name("new.gguf")) == digest(model.with_name("plain.gguf"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_copy_that_fails(model: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or broken disk is told as without, and nothing is left."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    patch = ropepatch.open(model).patch("yarn", 4.0)
    monkeypatch.setattr(ranges, "copy_range", fail)
    with ahead.begun(model, model.parent, sync=False), pytest.raises(OSError, match=re.escape(os.strerror(number))):
        patch.write(model.with_name("out.gguf"), digest="none")
    assert names(model.parent) == ["model.gguf"]


def test_an_input_that_shrinks(model: Path, completed: list[str]) -> None:
    """A file cut off while it is copied is refused."""
    patch = ropepatch.open(model).patch("yarn", 4.0)
    with ahead.begun(model, model.parent, sync=False):
        os.truncate(model, model.stat().st_size - 100)
        with pytest.raises(InputError):
            patch.write(model.with_name("out.gguf"), digest="none")
    assert completed == []
    assert names(model.parent) == ["model.gguf"]


@pytest.mark.parametrize(
    ("more", "code", "left"),
    [
        ((), 0, ["model-yarn-4x.gguf", "model-yarn-4x.ropepatch.json", "model.gguf"]),
        (("-o", "there"), 0, ["model.gguf", "there"]),
        (("-o", "gone/out.gguf"), 3, ["model.gguf"]),
        (("--set", "beta_fast=x"), 2, ["model.gguf"]),
        (("--length", "100"), 2, ["model.gguf"]),
    ],
)
def test_the_command_begins(model: Path, more: tuple[str, ...], code: int, left: list[str]) -> None:
    """`apply` begins at once, writes to where it was asked to, and leaves nothing when it comes to nothing."""
    if "there" in more:
        (model.parent / "there").mkdir()
    script = (
        "import sys; from ropepatch.cli import main; from ropepatch.storage import ahead, kernel\n"
        "ahead.WORTH, kernel.shares_blocks, original = 1 << 20, lambda *_: False, ahead.Ahead.complete\n"
        "kernel.clone_range = lambda *_: False\n"
        "def complete(self, *rest): print('used', file=sys.stderr); original(self, *rest)\n"
        "ahead.Ahead.complete = complete\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "apply", "--method", "yarn", "--factor", "4", "-q", "model.gguf", *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=model.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == code, done.stderr
    assert ("used" in done.stderr) == (code == 0)
    assert names(model.parent) == left
