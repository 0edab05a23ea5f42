"""Patched GGUF go as the few chunks that are new: measured on what the store of the test Hub grows by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ropepatch import schemas
from ropepatch.report import push_tables
from tests.support.command import ROOT, ropepatch
from tests.support.hub_models import random_gguf
from tests.support.hub_server import READER, HubServer

#: what the machine that publishes has done before, and which bytes of the base were on the Hub in another file
MACHINES = {
    "sent the base": ("same", 0, (0, 0)),
    "knows nothing": ("another", 0, (0, 0)),
    "broke off an upload of the base": ("another", 8 << 20, (0, 0)),
    "knows nothing; the base shares tensors": ("another", 0, (8 << 20, 56 << 20)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GGUF of 64 MB without repetitions, and the same with YaRN."""
    folder = tmp_path_factory.mktemp("large")
    random_gguf(folder / "m.gguf")
    done = ropepatch("apply", folder / "m.gguf", "--method", "yarn", "--factor", "4", "-o", folder / "p.gguf", "-q")
    assert done.code == 0, done.err
    return folder / "m.gguf", folder / "p.gguf"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patched GGUF just large enough to be sent as chunks."""
    folder = tmp_path_factory.mktemp("small")
    random_gguf(folder / "m.gguf", 12)
    done = ropepatch("apply", folder / "m.gguf", "--method", "yarn", "--factor", "4", "-o", folder / "p.gguf", "-q")
    assert done.code == 0, done.err
    return folder / "p.gguf"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A server of its own, so that no test finds what another has sent."""
    running = HubServer(tmp_path / "hub")
    yield running
    running.close()


def published(hub: HubServer, repo: str) -> dict[str, bytes]:
    """What a repository's main branch holds."""
    found = hub.store.repos[repo]
    files = found.commits[found.branches["main"]]
    return {name: b"".join(hub.store.read(entry, 0, entry.size)) for name, entry in files.items()}


@pytest.mark.parametrize("case", MACHINES)
def test_new_chunks_only(hub: HubServer, tmp_path: Path, models: tuple[Path, Path], case: str) -> None:
    """A GGUF with a new header sends less than 1 % of its bytes, whatever the machine that sends it has done before."""
    machine, broken_off, (start, end) = MACHINES[case]
    base, patched = models
    if end:
        hub.store.seed("org/other", {"other.bin": base.read_bytes()[start:end]})
    hub.store.seed("org/gguf", {"m.gguf": base})
    if machine == "another":
        hub.store.another_machine()
    if broken_off:
        hub.store.broken_off(base, broken_off)
    before = hub.store.cas_bytes()
    done = ropepatch("push", patched, "--to", "org/patched", "--json", env=hub.env(tmp_path / "home"))
    sent = hub.store.cas_bytes() - before

    assert done.code == 0, done.err
    assert 0 < sent < 0.01 * patched.stat().st_size
    schemas.validator("push").validate(done.document)
    assert done.document["chunk_bytes"] == pytest.approx(sent, abs=1000)  # lists are kept with an index behind them
    files = published(hub, "org/patched")
    assert set(files) == {".gitattributes", "README.md", "p.gguf", "p.ropepatch.json"}
    assert files["p.gguf"] == patched.read_bytes()


#: what the Hub does when it is asked for a chunk, and between which shares of the file go out
ANSWERS: dict[str, tuple[dict[str, Any], float, float]] = {
    "late": ({"act": lambda: time.sleep(1.5), "times": 99}, 0.0, 0.01),
    "never": ({"status": 404, "times": 99}, 0.99, 1.03),  # with the beginning of the base
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers(hub: HubServer, tmp_path: Path, small: Path, case: str) -> None:
    """A late answer about known chunks is waited for; where none comes the whole file goes out, and that is told."""
    fault, least, most = ANSWERS[case]
    hub.store.seed("org/gguf", {"m.gguf": small.with_name("m.gguf")})
    hub.wire = True
    hub.fail("GET", "/cas/v1/chunks/", **fault)
    done = ropepatch("push", small, "--to", "org/patched", env=hub.env(tmp_path / "home"))
    sent = sum(one.received for one in hub.asked("POST /cas/v1/") if one.status == 200)

    assert done.code == 0, done.err
    assert len(hub.asked("GET /cas/v1/chunks/")) >= 2
    assert least < sent / small.stat().st_size < most
    assert f"of patched ones the new chunks, {push_tables.size(sent)})" in done.out
    found = hub.store.repos["org/patched"]
    assert "p.gguf" in found.commits[found.branches["main"]]


def test_another_release_of_the_client(hub: HubServer, tmp_path: Path, small: Path) -> None:
    """A client that notes otherwise what it has sent sends the file itself: more bytes, and the same commit."""
    script = (
        "import sys\n"
        "from ropepatch.cli import main\n"
        "from ropepatch.hub import chunks\n"
        "chunks.MARKS = {'_sent_already': True}\n"
        "main(sys.argv[1:])\n"
    )
    words = [sys.executable, "-c", script, "push", str(small), "--to", "org/plain"]
    surroundings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env = {**surroundings, "PYTHONPATH": str(ROOT), **hub.env(tmp_path / "home")}
    ended = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    assert "of large ones the chunks that the Hub has not" in ended.stdout
    assert len(hub.asked("/xet-write-token/")) == 2  # once by the client
    assert published(hub, "org/plain")["p.gguf"] == small.read_bytes()


#: what goes wrong, what of it is told, and whether the chunks had been sent by then
FAULTS = {
    "no right to send": ("GET", "/xet-write-token/", {"status": 500, "times": 99}, "failed with 500", False),
    "no permission": ("GET", "/xet-write-token/", {"status": 403, "times": 99}, "no permission", False),
    "cut": ("GET", "/xet-write-token/", {"cut": 1, "times": 99}, "cannot be reached", False),
    "chunks refused": ("POST", "/cas/v1/xorbs/", {"status": 403, "times": 99}, "the upload failed", False),
    "commit": ("POST", "/commit/", {"status": 500, "times": 99}, "failed with 500", True),
}


@pytest.mark.parametrize("case", FAULTS)
def test_nothing_half_published(hub: HubServer, tmp_path: Path, small: Path, case: str) -> None:
    """A GGUF that cannot be sent or committed is one line and exit code 4, and the repository made for it is gone."""
    method, path, fault, told, sent = FAULTS[case]
    hub.store.seed("org/gguf", {"m.gguf": small})
    before = hub.store.cas_bytes()
    hub.wire = path.startswith("/cas/")
    hub.fail(method, path, **fault)
    done = ropepatch("push", small, "--to", "org/new", env=hub.env(tmp_path / "home"))

    assert done.code == 4, done.err
    assert told in done.err
    assert done.err.count("\n") == 1
    assert "org/new" not in hub.store.repos
    assert (hub.store.cas_bytes() > before) is sent
    assert len(hub.asked(f"{method} .*{path}")) <= (1 if hub.wire else 3)  # hf_xet left alone asks for minutes


def test_passing_failure(hub: HubServer, tmp_path: Path, small: Path) -> None:
    """A server that fails once to give the right to send is asked again."""
    hub.fail("GET", "/xet-write-token/", 503)
    done = ropepatch("push", small, "--to", "org/new", env=hub.env(tmp_path / "home"))

    assert done.code == 0, done.err
    assert [one.status for one in hub.asked("/xet-write-token/")] == [503, 200]


def test_pull_request(hub: HubServer, tmp_path: Path, small: Path) -> None:
    """Who may only read proposes a GGUF, as its new chunks."""
    hub.store.seed("org/gguf", {"m.gguf": small.with_name("m.gguf")})
    before = hub.store.cas_bytes()
    done = ropepatch("push", small, "--to", "org/gguf", "--pr", "--json", env=hub.env(tmp_path / "home", READER))

    assert done.code == 0, done.err
    assert done.document["pull_request"].endswith("/org/gguf/discussions/1")
    assert 0 < done.document["chunk_bytes"] < 0.01 * small.stat().st_size
    assert hub.store.cas_bytes() - before == pytest.approx(done.document["chunk_bytes"], abs=1000)
    assert len(hub.asked("/xet-write-token/")) == 1


def test_interrupted(hub: HubServer, tmp_path: Path, small: Path) -> None:
    """Ctrl-C while the Hub takes its time to answer ends it at once, and leaves no repository behind."""
    asked, over = threading.Event(), threading.Event()

    def late() -> None:
        asked.set()
        over.wait(60)

    hub.wire = True
    hub.fail("GET", "/cas/v1/chunks/", act=late, times=9)
    surroundings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env = {**surroundings, "PYTHONPATH": str(ROOT), **hub.env(tmp_path / "home")}
    words = [sys.executable, "-m", "ropepatch", "push", str(small), "--to", "org/new"]
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=20)[1]
    finally:
        over.set()
        process.kill()

    assert process.returncode == 130
    assert told == "ropepatch: interrupted\n"
    assert "org/new" not in hub.store.repos
