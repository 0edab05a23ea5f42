"""The test Hub, one for a session, and a home of its own for each client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import HubServer
from tests.support.shell import Shell

pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """The server, with nothing in it."""
    running = HubServer(tmp_path_factory.mktemp("hub"))
    yield running
    running.close()


@pytest.fixture
def hub(server: HubServer) -> HubServer:
    """The server with an empty log and no faults."""
    server.reset()
    return server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """HF_HOME of one client."""
    return tmp_path / "home"


@pytest.fixture(scope="session")
def shell(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A process that runs commands against the server, one after another."""
    running = Shell(server.env(tmp_path_factory.mktemp("home")))
    yield running
    running.close()


@pytest.fixture(scope="session")
def lfs_shell(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The same without Xet: large files go by LFS."""
    running = Shell(server.env(tmp_path_factory.mktemp("home-lfs"), xet=False))
    yield running
    running.close()
