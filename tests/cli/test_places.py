"""Odd names and places on the command line: each one works, or says in one line why not, with the input as it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import mounts, tiny
from tests.support.command import ROOT, ropepatch

APPLY = ("apply", "--method", "yarn", "--factor", "4")
NOBODY = 65534


def digest(path: Path) -> str:
    """sha256 by hashlib alone."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small GGUF."""
    return tiny.write_gguf(tmp_path / "model.gguf", tiny.ModelSpec(layers=1, hidden=64, vocab=300))


def told(ended: object, code: int) -> str:
    """The one line of a run that ended with ``code``."""
    assert ended.code == code, ended  # type: ignore[attr-defined]
    (line,) = ended.err.splitlines()  # type: ignore[attr-defined]
    assert line.startswith("ropepatch: ")
    return str(line)


ODD_NAMES = {
    "spaces and signs": b"a *[model]? {0}%s of mine.gguf",
    "a line feed": b"two\nlines.gguf",
    "no UTF-8": b"caf\xe9.gguf",
    "an escape sequence": b"red\x1b[31m\x07.gguf",
    "a dash": b"-o.gguf",
}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=list(ODD_NAMES))
def test_odd_names(name: bytes, model: Path) -> None:
    """A copy, its undoing, a change in place and its undoing work; no control character reaches the terminal."""
    path = Path(os.fsdecode(bytes(model.parent) + b"/" + name))
    model.rename(path)
    before = digest(path)
    copy = path.with_name(path.stem + "-yarn-4x.gguf")
    back = path.with_name(path.stem + "-yarn-4x-reverted.gguf")
    steps = (APPLY, ("revert", copy), (*APPLY, "--in-place"), ("revert", "--in-place"))
    for step in steps:
        ref = () if copy in step else ("--", path)
        ended = ropepatch(*step, *ref)
        assert ended.code == 0, ended
        assert not set(ended.out + ended.err) & set("\x1b\x07")
    assert digest(path) == digest(back) == before
    assert ropepatch("inspect", "--json", "--", path).document["schema"]


def test_input_as_output(model: Path, tmp_path: Path) -> None:
    """The input is not its own output, by whatever name; a folder is not written into itself."""
    before = digest(model)
    for name in (model, tmp_path / "." / "model.gguf", tmp_path / "link.gguf"):
        if not name.exists():
            name.symlink_to(model.name)
        assert "exists already" in told(ropepatch(*APPLY, model, "-o", name), 5)
    folder = tiny.write_hf(tmp_path / "hf", tiny.ModelSpec(layers=1, hidden=64, vocab=300))
    content = sorted(path.name for path in folder.iterdir())
    assert "exists already" in told(ropepatch(*APPLY, folder, "-o", folder), 5)
    (folder / "deeper").mkdir()
    for inside in (folder / "out", folder / "deeper" / "out", tmp_path / "hf" / ".." / "hf" / "out"):
        assert "lies inside of the input" in told(ropepatch(*APPLY, folder, "-o", inside), 2)
    (folder / "deeper").rmdir()
    assert digest(model) == before
    assert sorted(path.name for path in folder.iterdir()) == content


def test_a_link_as_input(model: Path, tmp_path: Path) -> None:
    """Through a symbolic link a copy stands beside the link; in place the link becomes a file, its target stays."""
    store = tmp_path / "blobs"
    store.mkdir()
    blob = model.rename(store / "0123abcd")
    before = digest(blob)
    link = tmp_path / "model.gguf"
    link.symlink_to("blobs/0123abcd")
    assert ropepatch(*APPLY, link).code == 0
    assert (tmp_path / "model-yarn-4x.gguf").is_file()
    assert link.is_symlink()
    assert ropepatch(*APPLY, "--in-place", link).code == 0
    assert not link.is_symlink()
    assert digest(blob) == before != digest(link)
    assert ropepatch("revert", "--in-place", link).code == 0
    assert digest(link) == before
    assert [path.name for path in store.iterdir()] == ["0123abcd"]


def test_results_on_a_read_only_disk(tmp_path: Path) -> None:
    """What verify found is shown though its statement cannot be kept; an audit's page is refused before measuring."""
    with mounts.mounted("tmpfs", tmp_path) as place:
        model = tiny.write_gguf(place / "model.gguf", tiny.ModelSpec(layers=1, hidden=64, vocab=300))
        assert ropepatch(*APPLY, model).code == 0
        output = place / "model-yarn-4x.gguf"
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        ended = ropepatch("verify", output)

        assert ended.code == 0, ended.err
        assert "2 layers, cpu" in ended.out
        assert "warning: the statement was not written: " in ended.err
        assert "read-only file system" in told(ropepatch("verify", output, "--record", "-q"), 3)
        page = ("--lengths", "16k", "--samples", 200, "--html", place / "page.html")
        assert "nothing can be written there" in told(ropepatch("audit", model, *page), 3)


def test_a_read_only_disk(tmp_path: Path) -> None:
    """On a read-only mount nothing is written, in place or beside; elsewhere a copy can be."""
    with mounts.mounted("tmpfs", tmp_path) as place:
        model = tiny.write_gguf(place / "model.gguf", tiny.ModelSpec(layers=1, hidden=64, vocab=300))
        before = digest(model)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        for options in ((), ("--in-place",)):
            assert "read-only file system" in told(ropepatch(*APPLY, *options, model), 3)
        assert ropepatch(*APPLY, model, "-o", tmp_path / "out.gguf").code == 0
        assert digest(model) == before
        assert [path.name for path in place.iterdir()] == ["model.gguf"]


def test_a_file_that_may_not_change(model: Path, tmp_path: Path) -> None:
    """An immutable file is not changed in place, not even by root, and can be copied."""
    if shutil.which("chattr") is None or os.geteuid() != 0:
        pytest.skip("chattr needs root")
    if subprocess.run(["chattr", "+i", str(model)], capture_output=True, check=False).returncode:
        pytest.skip("chattr +i: this file system has no immutable files")
    before = digest(model)
    try:
        assert "not permitted" in told(ropepatch(*APPLY, "--in-place", model), 3)
        assert ropepatch(*APPLY, model).code == 0
    finally:
        subprocess.run(["chattr", "-i", str(model)], check=True)
    assert digest(model) == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.gguf",
        "model-yarn-4x.gguf",
        "model-yarn-4x.ropepatch.json",
    }


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that any user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("options", [(), ("--in-place",)], ids=["copy", "in place"])
def test_another_user(shared: Path, options: tuple[str, ...]) -> None:
    """Who may read but not write a file and its folder is told so, and changes nothing."""
    if shutil.which("setpriv") is None or os.geteuid() != 0:
        pytest.skip("to give up privileges needs root and setpriv")
    model = tiny.write_gguf(shared / "model.gguf", tiny.ModelSpec(layers=1, hidden=64, vocab=300))
    before = digest(model)
    program = [sys.executable, "-m", "ropepatch"]
    for path in (shared, model):
        os.chown(path, NOBODY, NOBODY)
    # root without its privileges: files of others are closed to it as to anybody
    alone = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*alone, *program, *map(str, arguments)]
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )

    assert run("inspect", model).returncode == 0
    ended = run(*APPLY, *options, model)
    assert ended.returncode == 3
    assert ended.stderr.startswith("ropepatch: ")
    assert "permission denied" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert digest(model) == before
    assert [path.name for path in shared.iterdir()] == ["model.gguf"]
    model.chmod(0o600)
    assert "permission denied" in run("inspect", model).stderr


IN_THE_MIDDLE = """
import os, signal, sys
from ropepatch.storage import in_place
whole, number = in_place.apply, int(sys.argv.pop())
def stopped(*arguments, **options):
    whole(*arguments, **options)
    os.kill(os.getpid(), number)
in_place.apply = stopped
from ropepatch.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_place(number: signal.Signals, code: int, model: Path) -> None:
    """Ctrl-C after the bytes have changed and before the manifest stands: the file is as it was, nothing beside it."""
    before = digest(model)
    command = [sys.executable, "-c", IN_THE_MIDDLE, *APPLY, "--in-place", str(model), str(int(number))]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert digest(model) == before
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def test_killed_before_the_manifest(model: Path) -> None:
    """After a kill between output and manifest the commands say so, and recover clears the way."""
    code = """
import os, signal, sys
from ropepatch import manifest
manifest.build = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
from ropepatch.cli import main
main(sys.argv[1:])
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, *APPLY, str(model)], env=env, capture_output=True, check=False)
    target = model.with_name("model-yarn-4x.gguf")
    assert target.exists()
    assert f"ropepatch recover {target} removes it" in told(ropepatch("inspect", target), 3)
    assert "ropepatch recover removes it" in told(ropepatch(*APPLY, model), 3)
    assert ropepatch("recover", target, "--json").document["removed"] == [str(target)]
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]
    assert ropepatch(*APPLY, model).code == 0


def test_no_sync_goes_with_new_files_only(model: Path) -> None:
    """In place it is a usage error; a copy without it is the same file."""
    for also in ((), ("--dry-run",)):
        ended = ropepatch(*APPLY, "--in-place", "--no-sync", *also, model)
        assert "--no-sync goes with a new file only" in told(ended, 2)
    one, other = (model.with_name(name) for name in ("one.gguf", "other.gguf"))
    assert ropepatch(*APPLY, "--no-sync", "-o", one, model).code == 0
    assert ropepatch(*APPLY, "--sync", "-o", other, model).code == 0
    assert digest(one) == digest(other)
    assert "goes with a new file" in told(ropepatch("revert", "--in-place", "--no-sync", one), 2)
    assert ropepatch("revert", "--no-sync", one).code == 0
