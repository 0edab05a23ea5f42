"""A process that is killed at any step of any write leaves the old file or the new one, and what recover restores."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf  # noqa: F401  (a fork must not have to import it)
import pytest

import ropepatch
from ropepatch import output
from ropepatch.bundle import bundle_of
from ropepatch.errors import InputError
from ropepatch.naming import journals
from ropepatch.storage import in_place, journal, moving
from tests.storage.test_in_place import GROWING, OLD, force, spliced
from tests.support import faults, tiny

SPEC = tiny.ModelSpec(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, intermediate=64, vocab=400, context=256)

Tree = dict[str, str]


def tree(root: Path) -> Tree:
    """sha256 of everything below a folder by relative name."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def restore(saved: Path, place: Path) -> None:
    """Put a saved folder back as it was."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved, place)


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("kind", [in_place.RANGE, in_place.SHIFT, in_place.REWRITE])
def test_killed_in_a_change_in_place(tmp_path: Path, kind: str, torn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever way the body moves, each kill leaves a file that recover makes the old one, or the new one."""
    force(kind, monkeypatch)
    monkeypatch.setattr(moving, "CHUNK", 100_000)
    path, place = tmp_path / "model.bin", tmp_path / "the.ropepatch-journal"
    new = spliced(OLD, GROWING)

    def work() -> None:
        with journal.change(place, {path.name: GROWING}, []):
            pass

    outcomes = set()
    steps = 0
    for _ in faults.kill_points(work, lambda: path.write_bytes(OLD), torn=torn):
        journal.recover(place)
        assert not place.exists()
        found = path.read_bytes()
        assert found in (OLD, new)
        outcomes.add(found == new)
        steps += 1
    assert outcomes == {False, True}
    assert steps > 8


@pytest.mark.parametrize("kind", [in_place.RANGE, in_place.SHIFT, in_place.REWRITE])
def test_killed_while_it_recovers(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An undo that is killed can be undone again, from the start, the middle and the end of the change."""
    force(kind, monkeypatch)
    monkeypatch.setattr(moving, "CHUNK", 100_000)
    path, place = tmp_path / "model.bin", tmp_path / "the.ropepatch-journal"

    def work() -> None:
        with journal.change(place, {path.name: GROWING}, []):
            os.kill(os.getpid(), 9)

    def prepare() -> None:
        path.write_bytes(OLD)
        assert faults.in_fork(work) == faults.KILLED
        assert place.exists()

    for _ in faults.kill_points(lambda: journal.recover(place), prepare, torn=True):
        journal.recover(place)
        assert path.read_bytes() == OLD
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model.bin"]


def make(kind: str, folder: Path) -> Path:
    """A checkpoint in a folder of its own."""
    folder.mkdir()
    if kind == "hf":
        return tiny.write_hf(folder / "model", SPEC)
    return tiny.write_gguf(folder / "model.gguf", SPEC)


def patched(ref: Path, method: str = "yarn", **options: Any) -> None:
    """Patch, without the readers of the verification, which have no part in this."""
    ropepatch.open(ref).patch(method, 4.0, existing="replace").write(verify=False, **options)


def vouched(ref: Path, method: str = "yarn") -> None:
    """Patch in place; a verification and a signature of what is there then stand beside it."""
    patched(ref, method, in_place=True)
    ref.with_name("model.ropepatch-verify.json").write_text("{}\n")
    ref.with_name("model.model.sig").write_text("signed\n")


WORKS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Path], Any]]] = {
    "a first patch in place": ("gguf", lambda _: None, lambda ref: patched(ref, in_place=True)),
    "one that adds a tensor": ("gguf", lambda _: None, lambda ref: patched(ref, "mrrope-pro", in_place=True)),
    "a second patch in place": (
        "gguf",
        vouched,
        lambda ref: patched(ref, "ntk", in_place=True),
    ),
    "a revert in place": (
        "gguf",
        lambda ref: vouched(ref, "mrrope-pro"),
        lambda ref: ropepatch.revert(ref, in_place=True),
    ),
    "a folder in place": ("hf", lambda _: None, lambda ref: patched(ref, in_place=True)),
    "a new file": ("gguf", lambda _: None, lambda ref: patched(ref, output=ref.with_name("out.gguf"))),
    "a new folder": ("hf", lambda _: None, lambda ref: patched(ref, output=ref.with_name("out"))),
    "a revert to a new file": (
        "gguf",
        lambda ref: patched(ref, in_place=True),
        lambda ref: ropepatch.revert(ref, output=ref.with_name("out.gguf")),
    ),
}


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("name", WORKS)
def test_killed_in_a_write(tmp_path: Path, name: str, torn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill at any step and a recover, files and manifest are those of before or those of after, together."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setattr("ropepatch.manifest.uuid.uuid4", lambda: "the same")
    kind, before, work = WORKS[name]
    place, saved = tmp_path / "place", tmp_path / "saved"
    ref = make(kind, place)
    before(ref)
    shutil.copytree(place, saved)
    old = tree(place)
    work(ref)
    new = tree(place)
    assert old != new
    outcomes = set()
    for _ in faults.kill_points(lambda: work(ref), lambda: restore(saved, place), torn=torn):
        for interrupted in (ref, place):  # a new file's journal stands beside it
            ropepatch.recover(interrupted)
        found = {path: digest for path, digest in tree(place).items() if ".part" not in path}
        assert found in (old, new)
        assert "new" in name or found.keys() == tree(place).keys()
        assert ropepatch.open(ref).profile
        outcomes.add(found == new)
    assert outcomes == {False, True}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("name", ["a first patch in place", "a revert in place", "a new file", "a folder in place"])
def test_a_call_that_fails(tmp_path: Path, name: str, number: int) -> None:
    """A full, broken or read-only disk at any step: everything is as before, with no stray file, or wholly done."""
    kind, before, work = WORKS[name]
    place, saved = tmp_path / "place", tmp_path / "saved"
    ref = make(kind, place)
    before(ref)
    shutil.copytree(place, saved)
    old = tree(place)
    caught = 0
    for step in range(1000):
        restore(saved, place)

        def attempt(step: int = step) -> None:
            def fail(*_: Any) -> None:
                raise OSError(number, os.strerror(number))

            seen = faults.wrap(step, fail)
            try:
                work(ref)
            except OSError as error:
                os._exit(3 if error.errno == number else 4)
            os._exit(0 if len(seen) <= step else 5)

        status = faults.in_fork(attempt)
        assert status in (0, 3, 5)  # 5: a step whose failure does not matter, such as flushing a folder
        if status == 3:
            caught += 1
            for interrupted in (ref, place):
                ropepatch.recover(interrupted)
            if number != errno.EIO or "place" not in name:
                assert tree(place) == old
        if status == 0:
            break
    assert caught > 2


def interrupted(tmp_path: Path) -> Path:
    """A GGUF whose first patch in place was killed after its bytes had changed."""
    ref = make("gguf", tmp_path / "place")

    def work() -> None:
        kernel_write = output.manifest.build

        def die(*_: Any, **__: Any) -> Any:
            os.kill(os.getpid(), 9)
            return kernel_write

        output.manifest.build = die  # type: ignore[assignment]
        patched(ref, in_place=True)

    assert faults.in_fork(work) == faults.KILLED
    assert journals(ref)
    return ref


def test_an_interrupted_file_is_not_read(tmp_path: Path) -> None:
    """Every reader says in one line that the change was interrupted and what restores the file, which it does."""
    before = make("gguf", tmp_path / "other")
    ref = interrupted(tmp_path)
    for act in (lambda: ropepatch.open(ref), lambda: ropepatch.open(ref.parent), lambda: ropepatch.revert(ref)):
        with pytest.raises(InputError, match=r"a change of it was interrupted; ropepatch recover .*restores it from"):
            act()
    assert ropepatch.recover(ref) == [ref]
    assert ropepatch.recover(ref) == []
    assert ref.read_bytes() == before.read_bytes()
    assert not bundle_of(ref).manifest.exists()


def test_an_unfinished_output_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output whose writer was killed before its manifest stood is refused, removed by recover, and made anew."""
    ref = make("gguf", tmp_path / "place")
    target = ref.with_name("out.gguf")

    def work() -> None:
        output.manifest.build = lambda *_, **__: os.kill(os.getpid(), 9)  # type: ignore[assignment,misc]
        patched(ref, output=target)

    assert faults.in_fork(work) == faults.KILLED
    assert target.exists()
    assert not bundle_of(target).manifest.exists()
    for act in (lambda: ropepatch.open(target), lambda: patched(ref, output=target)):
        with pytest.raises(InputError, match="its writing was interrupted before it was checked; ropepatch recover"):
            act()
    assert ropepatch.open(ref).profile
    assert ropepatch.recover(target) == [target]
    assert [path.name for path in ref.parent.iterdir()] == [ref.name]
    assert faults.in_fork(work) == faults.KILLED
    target.unlink()
    patched(ref, output=target)  # nothing of the killed one is left but its journal
    assert bundle_of(target).manifest.exists()
    assert not journals(target)


def test_somebody_elses_file_is_not_removed(tmp_path: Path) -> None:
    """Where an interrupted write's output should be stands another file: recover says so and leaves it."""
    ref = make("gguf", tmp_path / "place")
    target = ref.with_name("out.gguf")

    def work() -> None:
        with journal.announced(bundle_of(target).journal, {target.name: 1234}, []):
            os.kill(os.getpid(), 9)

    assert faults.in_fork(work) == faults.KILLED
    target.write_bytes(b"mine")
    with pytest.raises(InputError, match="it is another file"):
        ropepatch.recover(target)
    assert target.read_bytes() == b"mine"


def test_two_processes_write_one_output(tmp_path: Path) -> None:
    """While one process writes a file, another that would write the same is refused and names the first."""
    ref = make("gguf", tmp_path / "place")
    target = ref.with_name("out.gguf")
    with journal.announced(bundle_of(target).journal, {target.name: 1234}, []):

        def work() -> None:
            journal._OURS.clear()
            with pytest.raises(InputError, match=f"is being changed by process {os.getppid()}"):
                patched(ref, output=target)

        assert faults.in_fork(work) == 0
    patched(ref, output=target)


def test_two_processes_on_one_file(tmp_path: Path) -> None:
    """While one process changes a file, another's change, reading and recovery are refused, naming the first."""
    ref = make("gguf", tmp_path / "place")
    patch = ropepatch.open(ref).patch("yarn", 4.0)
    with journal.change(bundle_of(ref).journal, {ref.name: GROWING[:0]}, []):

        def work() -> None:
            journal._OURS.clear()
            for act in (
                lambda: patch.write(in_place=True),
                lambda: ropepatch.open(ref),
                lambda: ropepatch.recover(ref),
            ):
                with pytest.raises(InputError, match=f"is being changed by process {os.getppid()}"):
                    act()

        assert faults.in_fork(work) == 0
    ropepatch.open(ref)


def test_a_journal_from_elsewhere_stays_below_its_folder(tmp_path: Path) -> None:
    """A journal that names a file outside of its folder, or is torn, restores nothing."""
    ref = interrupted(tmp_path)
    place = bundle_of(ref).journal
    good, before = place.read_bytes(), ref.read_bytes()
    for bad in (good.replace(b'"model.gguf"', b'"../other.gguf"'), good[:-1], good[:200], b"", b"[]\n", good + b"x"):
        place.write_bytes(bad)
        with pytest.raises(InputError, match="is not a whole journal"):
            ropepatch.recover(ref)
        assert ref.read_bytes() == before
    place.write_bytes(good)
    ropepatch.recover(ref)


def test_a_file_that_changed_since_is_left_alone(tmp_path: Path) -> None:
    """Something else under the name is no state of the change: recover says so and keeps the journal."""
    ref = interrupted(tmp_path)
    ref.write_bytes(b"something else")
    with pytest.raises(InputError, match="neither the file before the interrupted change"):
        ropepatch.recover(ref)
    assert ref.read_bytes() == b"something else"
    assert journals(ref)
