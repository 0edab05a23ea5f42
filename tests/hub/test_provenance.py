"""Outputs on the Hub held against their manifests: by the Hub's own digests, without moving the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

import ropepatch
from tests.support.command import ROOT
from tests.support.hub_server import HubServer
from tests.support.shell import Shell

FIXTURES = ROOT / "fixtures"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixtures, patched and signed where there is something to sign with: out/, out.gguf."""
    here = tmp_path_factory.mktemp("outputs")
    ropepatch.open(FIXTURES / "tiny-llama").patch("yarn", 4.0).write(here / "out")
    ropepatch.open(FIXTURES / "tiny-llama.gguf").patch("yarn", 4.0).write(here / "out.gguf")
    return here


def seeded(hub: HubServer, name: str, outputs: Path, *, changed: dict[str, bytes] | None = None) -> str:
    """A repository that holds an output with its manifest; returns its ref."""
    if name.startswith("gguf"):
        files = {path.name: path.read_bytes() for path in outputs.glob("out.*") if path.is_file()}
    else:
        files = {path.name: path.read_bytes() for path in (outputs / "out").iterdir()}
    hub.store.seed(f"org/{name}", {**files, "README.md": b"# card\n", ".gitattributes": b"", **(changed or {})})
    return f"hf://org/{name}"


@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_an_output_on_the_hub_holds(hub: HubServer, shell: Shell, outputs: Path, kind: str) -> None:
    """Digests, exchanged bytes, edits and frequencies hold, and no request asks for the weights."""
    ref = seeded(hub, f"{kind}-good", outputs)
    hub.reset()

    ended = shell.run("manifest", "verify", ref, "--json")

    found = {check["name"]: check["result"] for check in ended.document["checks"]}
    assert (ended.code, ended.err) == (0, "")
    assert found["digests"] == found["edits"] == found["frequencies"] == "PASSED"
    assert found["input"] == ("SKIPPED" if kind == "gguf" else "PASSED")
    assert found["tensor data"] == "SKIPPED"
    assert ended.document["manifest"].startswith(ref)
    weights = (FIXTURES / "tiny-llama.gguf").stat().st_size
    assert kind == "gguf" or hub.sent < weights / 4
    assert "yarn 4x" in shell.run("manifest", "show", ref).out


def test_a_changed_weight_is_found_by_the_hubs_digest(hub: HubServer, shell: Shell, outputs: Path) -> None:
    """Another weight file in the repository has another sha256 in the Hub's records."""
    data = bytearray((outputs / "out" / "model.safetensors").read_bytes())
    data[-2] ^= 1
    ref = seeded(hub, "folder-bad", outputs, changed={"model.safetensors": bytes(data)})

    ended = shell.run("manifest", "verify", ref)

    assert ended.code == 1
    assert "✗  digests" in ended.out
    assert "model.safetensors" in ended.out


def test_a_repository_without_a_manifest(hub: HubServer, shell: Shell) -> None:
    """It is one line that names the place."""
    hub.store.seed("org/plain", {"config.json": (FIXTURES / "tiny-llama" / "config.json").read_bytes()})

    ended = shell.run("manifest", "verify", "hf://org/plain")

    assert ended.code == 3
    assert "there is no manifest" in ended.err
    assert "hf://org/plain" in ended.err
