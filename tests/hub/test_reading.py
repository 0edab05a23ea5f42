"""Commands on models that are on the Hub: what they move, what they say, and where they stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ropepatch import schemas
from tests.support.command import ROOT, Ended, ropepatch
from tests.support.hub_models import LLAMA_8B, VOCABULARIES, sparse_gguf, sparse_safetensors
from tests.support.hub_server import READER, WRITER, HubServer
from tests.support.shell import Shell

TINY = ROOT / "fixtures" / "tiny-llama"
#: what a command may move of a model of 40 GB, and how many requests are a handful
BYTES, REQUESTS = 8_000_000, 9


@pytest.fixture(scope="session")
def models(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> HubServer:
    """The server with a small folder, a model of 40 GB in either format, and a repository of many GGUFs."""
    here = tmp_path_factory.mktemp("models")
    for name in VOCABULARIES:
        assert sparse_gguf(here / f"{name}.gguf", vocabulary=name) > BYTES
        server.store.sparse(f"org/{name}", "big.gguf", here / f"{name}.gguf")
    sparse_safetensors(here / "big")
    for path in sorted((here / "big").glob("*.safetensors")):
        server.store.sparse("org/big", path.name, path)
    server.store.seed("org/big", {path.name: path for path in (here / "big").glob("*.json")})
    folder = {name: TINY / name for name in ("config.json", "model.safetensors")}
    server.store.seed("org/tiny", {**folder, "README.md": b"---\nlicense: mit\n---\n# Tiny\n"})
    gguf = (ROOT / "fixtures" / "tiny-llama.gguf").read_bytes()
    names = ("m-Q8_0.gguf", "m-F16.gguf", "mmproj-m.gguf")
    server.store.seed("org/many", dict.fromkeys(names, gguf))
    server.store.seed("org/one-gguf", {"m.gguf": gguf, "README.md": b"# one\n"})
    return server


@pytest.fixture
def hub(models: HubServer) -> HubServer:
    """The server with its models, an empty log and no faults."""
    models.reset()
    return models


def run(hub: HubServer, home: Path, *arguments: object, **more: str) -> Ended:
    """A command in a process of its own that knows this Hub alone."""
    return ropepatch(*arguments, env=hub.env(home) | more)


@pytest.mark.parametrize("ref", ["hf://org/big", *(f"hf://org/{name}" for name in VOCABULARIES)])
@pytest.mark.parametrize(
    "command",
    [("inspect",), ("freqs", "--length", 32768), ("diff",), ("doctor",), ("plan", "--length", 65536)],
    ids=lambda command: command[0],
)
def test_forty_gigabytes(hub: HubServer, shell: Shell, ref: str, command: tuple[object, ...]) -> None:
    """A command that reads metadata moves less than 8 MB of a model of 40 GB, in a handful of requests.

    The headers of the GGUFs are longer than that.
    """
    done = shell.run(command[0], ref, *command[1:], "--json")

    assert done.code == 0, done.err
    assert done.document["schema"].startswith("ropepatch.")
    assert hub.sent < BYTES
    assert len(hub.log) <= REQUESTS
    assert len(hub.asked("/config.json")) == (1 if ref == "hf://org/big" else 0)
    assert not hub.asked("HEAD ")


def test_same_as_local(hub: HubServer, shell: Shell) -> None:
    """A model on the Hub and the same files here have one profile, apart from their names."""
    for remote, local in (("org/tiny", TINY), ("hf://org/one-gguf", ROOT / "fixtures" / "tiny-llama.gguf")):
        there = shell.run("inspect", remote, "--json").document
        here = shell.run("inspect", local, "--json").document

        assert there["source"].pop("ref").startswith("hf://org/")
        del here["source"]["ref"]
        assert there == here


def test_late_keys_and_factors(hub: HubServer, shell: Shell) -> None:
    """Frequency factors behind a vocabulary of 201,088 tokens and their merges are read, values and all."""
    profile = shell.run("inspect", "hf://org/gpt-oss", "--json").document

    scaling = profile["groups"]["default"]["scaling"]
    assert scaling["method"] == "factors"
    assert scaling["long"][0] == pytest.approx(1.0)
    assert scaling["long"][-1] == pytest.approx(4.0)


def test_revision_once(hub: HubServer, shell: Shell) -> None:
    """The revision is resolved by one request, everything else asks for the commit, and the profile names it."""
    done = shell.run("inspect", "hf://org/tiny@main", "--json")

    commit = hub.store.repos["org/tiny"].branches["main"]
    assert done.document["source"]["ref"] == f"hf://org/tiny@{commit}"
    assert len(hub.asked("/api/models/org/tiny")) == 1
    assert all(commit in one.path for one in hub.asked("/resolve/"))


def test_token_stays(hub: HubServer, home: Path) -> None:
    """The token goes to the Hub, not to the host that it redirects to, and is neither printed nor written."""
    done = run(hub, home, "inspect", "hf://org/llama-3", "--debug", "--json")

    assert done.code == 0, done.err
    assert hub.asked("GET /cdn/")  # which answers 400 to a request with a token
    assert WRITER not in done.out + done.err
    assert not [path for path in home.rglob("*") if path.is_file() and WRITER.encode() in path.read_bytes()]


def test_many_ggufs(hub: HubServer, shell: Shell) -> None:
    """Where a repository holds several models, they are listed and one has to be named."""
    done = shell.run("inspect", "hf://org/many")

    assert done.code == 2
    assert "m-F16.gguf" in done.err
    assert "m-Q8_0.gguf" in done.err
    assert "mmproj" not in done.err
    assert shell.run("inspect", "hf://org/many/m-F16.gguf").code == 0


def test_all_ggufs(hub: HubServer, shell: Shell) -> None:
    """--all looks at every GGUF of a repository at one commit, for inspect and doctor; a projector is none."""
    rows = shell.run("inspect", "hf://org/many", "--all", "--json", "--jobs", 2).document["rows"]
    reports = shell.run("doctor", "org/many", "--all", "--json").document

    commit = hub.store.repos["org/many"].branches["main"]
    wanted = [f"hf://org/many@{commit}/{name}" for name in ("m-F16.gguf", "m-Q8_0.gguf")]
    assert [row["ref"] for row in rows] == wanted
    assert [row["error"] for row in rows] == [None, None]
    assert [report["ref"] for report in reports["reports"]] == wanted
    schemas.validator("examinations").validate(reports)


ERRORS = {
    "missing": ("hf://org/none", {}, "no such repository"),
    "guessed": ("nobody/none", {}, "there is no such path, and on the Hub there is no such repository"),
    "revision": ("hf://org/tiny@v9", {}, "there is no revision 'v9'"),
    "file": ("hf://org/tiny/confg.json", {}, "did you mean config.json?"),
    "private": ("hf://org/secret", {"HF_TOKEN": READER}, "or it is private"),
    "gated": ("hf://org/gated", {"HF_TOKEN": READER}, "is gated"),
    "no token": ("hf://org/gated", {"HF_TOKEN": ""}, "is gated"),
    "offline": ("hf://org/tiny", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    "no server": ("hf://org/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(hub: HubServer, shell: Shell, home: Path, case: str) -> None:
    """What cannot be had is one line that says why, and exit code 4."""
    ref, options, wanted = ERRORS[case]
    hub.store.seed("org/secret", {"config.json": b"{}"}, private=True)
    hub.store.seed("org/gated", {"config.json": json.dumps(LLAMA_8B).encode()}, gated=True)
    own = {"HF_HUB_OFFLINE", "HF_ENDPOINT"} & set(options)  # read when the client is imported
    done = run(hub, home, "inspect", ref, **options) if own else shell.run("inspect", ref, **options)

    assert done.code == 4, done.err
    assert wanted in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("adapter_config.json", "adapter_model.safetensors"), "is an adapter, which has no RoPE of its own"),
        (("consolidated.00.pth", "tokenizer.model"), "holds consolidated.00.pth and no params.json"),
        (("README.md",), "holds no config.json, params.json, GGUF or safetensors file"),
    ],
)
def test_repositories_without_a_model(hub: HubServer, shell: Shell, names: tuple[str, ...], wanted: str) -> None:
    """An adapter, weights without their config and a repository of neither are told apart by their names alone."""
    hub.store.repos.pop("org/other", None)
    hub.store.seed("org/other", dict.fromkeys(names, b"{}"))
    done = shell.run("inspect", "hf://org/other")

    assert done.code == 3, done.err
    assert wanted in done.err
    assert done.err.count("\n") == 1
    assert not hub.asked("/resolve/")


FAULTS = {
    "rate": ({"status": 429, "headers": {"Retry-After": "60"}}, 4, "wait 60 s"),
    "down": ({"status": 503, "times": 99}, 4, "failed with 503"),
    "no ranges": ({"whole": True, "times": 9}, 4, "part of a file"),
    "passing": ({"status": 502, "times": 1}, 0, ""),
    "cut once": ({"cut": 1000, "times": 1}, 0, ""),
    "cut": ({"cut": 1000, "times": 99}, 4, "cannot be reached"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(hub: HubServer, shell: Shell, case: str) -> None:
    """A fault that passes is tried again; one that stays is one line, exit code 4."""
    fault, code, wanted = FAULTS[case]
    hub.fail("GET", "/cdn/", **fault)
    done = shell.run("inspect", "hf://org/llama-3/big.gguf", "--json")

    assert done.code == code, done.err
    assert wanted in done.err
    assert done.err.count("\n") == (1 if code else 0)
    assert hub.sent < BYTES


def test_hostile_header(hub: HubServer, shell: Shell, tmp_path: Path) -> None:
    """A header that declares more than there is ends in one line, as for a local file, whatever its size says."""
    lying = b"GGUF" + (3).to_bytes(4, "little") + (1 << 60).to_bytes(8, "little") + (5).to_bytes(8, "little")
    endless = tmp_path / "endless.gguf"
    with open(endless, "wb") as file:
        key = b"tokenizer.ggml.tokens"
        file.write(b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little"))
        file.write(len(key).to_bytes(8, "little") + key + (9).to_bytes(4, "little") + (8).to_bytes(4, "little"))
        file.write((1 << 29).to_bytes(8, "little"))  # half a milliard of empty texts
        file.truncate(8 << 30)
    hub.store.seed("org/hostile", {"lying.gguf": lying + bytes(64), "config.json": b"[" * 100_000})
    hub.store.sparse("org/hostile", "endless.gguf", endless)

    for ref, wanted in (("lying.gguf", "declares"), ("config.json", "nested"), ("endless.gguf", "too many texts")):
        done = shell.run("inspect", f"hf://org/hostile/{ref}")
        assert done.code == 3, done.err
        assert wanted in done.err
        assert ref in done.err
        assert "hf://org/hostile@" in done.err
        assert done.err.count("\n") == 1


def test_snapshot_offline(hub: HubServer, home: Path) -> None:
    """What hf download has fetched is read from the cache: no file is fetched again, and offline nothing is asked."""
    env = hub.env(home)
    hf = [sys.executable, "-m", "huggingface_hub.cli.hf"]
    subprocess.run([*hf, "download", "org/tiny"], env={"PATH": "/usr/bin:/bin", **env}, check=True, capture_output=True)
    hub.reset()
    online = run(hub, home, "inspect", "org/tiny", "--json")

    assert online.code == 0, online.err
    assert len(hub.log) == 1  # what the branch is now
    hub.reset()
    offline = run(hub, home, "inspect", "org/tiny", "--json", HF_HUB_OFFLINE="1")
    assert offline.code == 0, offline.err
    assert offline.document == online.document
    assert not hub.log
