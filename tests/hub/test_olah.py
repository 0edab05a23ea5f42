"""Reading through olah, a mirror that this project did not write, in front of the test Hub."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import ROOT, ropepatch
from tests.support.hub_server import HubServer

TINY = ROOT / "fixtures" / "tiny-llama"
#: a Python that has olah, where this one has not
PYTHON = os.environ.get("ROPEPATCH_OLAH_PYTHON") or (sys.executable if importlib.util.find_spec("olah") else None)


@pytest.fixture(scope="module")
def mirror(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The mirror's address."""
    if PYTHON is None:
        pytest.skip(
            "olah is not installed (make test does that), and ROPEPATCH_OLAH_PYTHON names no Python that has it"
        )
    here = tmp_path_factory.mktemp("olah")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = f"127.0.0.1:{probe.getsockname()[1]}"
    upstream = f"127.0.0.1:{server.port}"
    options = {"host": "127.0.0.1", "port": own.split(":")[1], "hf-scheme": "http", "hf-netloc": upstream}
    options |= {"hf-lfs-netloc": f"localhost:{server.port}", "mirror-netloc": own, "mirror-lfs-netloc": own}
    options |= {"repos-path": str(here / "repos"), "log-path": str(here / "logs")}
    arguments = [item for name, value in options.items() for item in (f"--{name}", value)]
    with open(here / "out", "w") as out:
        running = subprocess.Popen([PYTHON, "-m", "olah.server", *arguments], cwd=here, stdout=out, stderr=out)
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", int(options["port"])), 1).close()
            break
        except OSError:
            assert running.poll() is None, (here / "out").read_text()
            time.sleep(0.2)
    yield f"http://{own}"
    running.terminate()
    running.wait(timeout=30)


def test_through_a_mirror(server: HubServer, mirror: str, home: Path, tmp_path: Path) -> None:
    """Folder and GGUF have the profiles of the local files, and a download through the mirror is patched."""
    server.store.seed("org/olah", {name: TINY / name for name in ("config.json", "model.safetensors")})
    server.store.seed("org/olah-gguf", {"m.gguf": ROOT / "fixtures" / "tiny-llama.gguf"})
    env = server.env(home) | {"HF_ENDPOINT": mirror}

    for remote, local in (("org/olah", TINY), ("org/olah-gguf", ROOT / "fixtures" / "tiny-llama.gguf")):
        done = ropepatch("diff", f"hf://{remote}", local, env=env)
        assert done.code == 0, done.err
    written = ropepatch("apply", "org/olah", "--method", "yarn", "--factor", 4, "-o", tmp_path / "out", "-q", env=env)
    assert written.code == 0, written.err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (TINY / "model.safetensors").read_bytes()
