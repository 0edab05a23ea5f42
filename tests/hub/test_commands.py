"""Commands that need more of a model on the Hub than its metadata: what they find, what they fetch, where they stop."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ropepatch
from ropepatch import schemas
from tests.support.command import ROOT
from tests.support.command import ropepatch as run
from tests.support.hub_server import READER, HubServer
from tests.support.shell import Shell

FIXTURES = ROOT / "fixtures"
ALPHABET = ("--alphabet", "bos=0,filler=1-40,key=41-72,value=73-136")
AUDIT = ("--method", "yarn", "--factor", 4, "--lengths", "256,512", "--depths", "0:0.9:2", "--samples", 2, *ALPHABET)
SEARCH = ("--factor", 2, "--budget", 4, "--samples", 2, "--held-out", 1, *ALPHABET)


@pytest.fixture(scope="module")
def outputs(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patched fixtures, here and on the Hub: org/out with files that nobody asks for, and one GGUF of two."""
    here = tmp_path_factory.mktemp("outputs")
    ropepatch.open(FIXTURES / "tiny-llama").patch("yarn", 4.0).write(here / "out")
    ropepatch.open(FIXTURES / "tiny-llama.gguf").patch("yarn", 4.0).write(here / "out.gguf")
    ropepatch.open(FIXTURES / "tiny-retriever.gguf").patch("yarn", 4.0).write(here / "F32.gguf")
    others = {"README.md": b"# card\n", "notes.txt": b"n" * 5000, "onnx/model.onnx": b"o" * 5000}
    server.store.seed("org/out", {path.name: path for path in (here / "out").iterdir()} | others)
    ggufs: dict[str, Path] = {path.name: path for path in here.glob("out.*") if path.is_file()}
    server.store.seed("org/out-GGUF", {**ggufs, "other.gguf": FIXTURES / "tiny-retriever.gguf"})
    server.store.seed("org/tiny", {path.name: path for path in (FIXTURES / "tiny-llama").iterdir()})
    quantised = {name: FIXTURES / f"tiny-retriever{name}.gguf" for name in ("", "-Q8_0")}
    server.store.seed("org/retriever", {f"m{name}.gguf": path for name, path in quantised.items()})
    server.store.seed("org/record", {"F32.ropepatch.json": here / "F32.ropepatch.json"})
    return here


@pytest.fixture
def hub(outputs: Path, server: HubServer) -> HubServer:
    """The server with those models, an empty log and no faults."""
    server.reset()
    return server


def fetched(hub: HubServer) -> set[str]:
    """The files of which anything was moved."""
    names = {re.sub(r".*/resolve/[0-9a-f]{40}/", "", one.path) for one in hub.asked("GET .*/resolve/")}
    return {name.replace("%2F", "/") for name in names}


def without(document: Any, *names: str) -> Any:
    """A document without what differs between a model here and there."""
    if isinstance(document, dict):
        return {key: without(value, *names) for key, value in document.items() if key not in names}
    return [without(item, *names) for item in document] if isinstance(document, list) else document


def test_verify(hub: HubServer, lfs_shell: Shell) -> None:
    """A GGUF is held against the manifest beside it on the Hub; its neighbour is not fetched, nothing written."""
    done = lfs_shell.run("verify", "hf://org/out-GGUF/out.gguf")

    assert done.code == 0, done.out + done.err
    assert "frequencies are the manifest's" in done.out
    assert "statement" not in done.out
    assert fetched(hub) == {"out.gguf", "out.ropepatch.json"}
    assert lfs_shell.run("verify", "hf://org/out-GGUF/out.gguf", "--record").code == 2


def test_verify_offline(hub: HubServer, home: Path) -> None:
    """What hf download has fetched is verified without a request; what is not there is one line."""
    env = hub.env(home)
    hf = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", "org/out"]
    subprocess.run(hf, env={"PATH": "/usr/bin:/bin", **env}, check=True, capture_output=True)
    hub.reset()
    offline = env | {"HF_HUB_OFFLINE": "1"}
    done = run("verify", "hf://org/out", env=offline)

    assert done.code == 0, done.err
    assert "frequencies are the manifest's" in done.out
    assert not list(home.rglob("*ropepatch-verify*"))
    assert run("manifest", "verify", "hf://org/out", env=offline).code == 0
    card = run("card", "hf://org/out", "--repo", "me/x", env=offline)
    assert "# x" in card.out
    for command in (("verify",), ("audit", *AUDIT), ("plan", "--length", 4096), ("manifest", "verify")):
        missing = run(*command, "hf://org/retriever/m.gguf", env=offline)
        assert missing.code == 4, missing.err
        assert "is not in the cache, and HF_HUB_OFFLINE forbids to ask for it" in missing.err
        assert missing.err.count("\n") == 1
    assert not hub.log


def test_audit(hub: HubServer, lfs_shell: Shell) -> None:
    """An audit of a model on the Hub measures what one of the same file here does."""
    there = lfs_shell.run("audit", "hf://org/retriever/m.gguf", *AUDIT, "--json")
    moved = fetched(hub)
    here = lfs_shell.run("audit", FIXTURES / "tiny-retriever.gguf", *AUDIT, "--json")

    assert there.code == 0, there.err
    assert moved == {"m.gguf"}
    changing = ("ref", "seconds", "started", "finished", "environment", "tokens_per_second")
    assert without(there.document, *changing) == without(here.document, *changing)


def test_search(hub: HubServer, lfs_shell: Shell, tmp_path: Path) -> None:
    """A search on a model on the Hub finds the factors that one on the same file finds, and names the place."""
    there = lfs_shell.run("search", "hf://org/retriever/m.gguf", *SEARCH, "-o", tmp_path / "there.json", "--json")
    moved = fetched(hub)
    here = lfs_shell.run("search", FIXTURES / "tiny-retriever.gguf", *SEARCH, "-o", tmp_path / "here.json", "--json")

    assert there.code == here.code == 0, there.err
    assert moved <= {"m.gguf"}
    commit = hub.store.repos["org/retriever"].branches["main"]
    found, wanted = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("there", "here"))
    assert found["long_factor"] == wanted["long_factor"]
    assert there.document["ref"] == f"hf://org/retriever@{commit}/m.gguf"


@pytest.mark.parametrize("record", ["hf://org/record/F32.ropepatch.json", "F32.ropepatch.json", "F32.gguf"])
def test_replay(hub: HubServer, shell: Shell, outputs: Path, tmp_path: Path, record: str) -> None:
    """A manifest there or here does to another quantisation on the Hub what it does to the same file here."""
    named = record if record.startswith("hf:") else outputs / record
    seen = shell.run("replay", named, "hf://org/retriever/m-Q8_0.gguf", "--dry-run", "--json")
    assert seen.code == 0, seen.err
    schemas.validator("patch").validate(seen.document)
    done = shell.run("replay", named, "hf://org/retriever/m-Q8_0.gguf", "-o", tmp_path / "there.gguf", "-q")
    local = shell.run("replay", named, FIXTURES / "tiny-retriever-Q8_0.gguf", "-o", tmp_path / "here.gguf", "-q")

    assert done.code == local.code == 0, done.err
    assert (tmp_path / "there.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()


def test_card(hub: HubServer, shell: Shell, outputs: Path, tmp_path: Path) -> None:
    """The card of an output on the Hub is that of the same files here; of weights the header is fetched."""
    there = shell.run("card", "hf://org/out", "--base-ref", "org/base")
    moved = fetched(hub)
    (tmp_path / "README.md").write_text("# card\n")
    options = ("--base-ref", "org/base", "--repo", "org/out", "--base-card", tmp_path / "README.md")
    here = shell.run("card", outputs / "out", *options)

    assert there.code == 0, there.err
    assert there.out == here.out
    assert moved == {"config.json", "model.safetensors", "ropepatch.json", "README.md"}
    assert hub.sent < 100_000  # the weights have 376,848 bytes, their header is looked at


def test_plan(hub: HubServer, shell: Shell) -> None:
    """A plan for a model on the Hub is that for the same files here."""
    there = shell.run("plan", "hf://org/tiny", "--length", 8192, "--json")
    here = shell.run("plan", FIXTURES / "tiny-llama", "--length", 8192, "--json")

    assert there.code == 0, there.err
    commit = hub.store.repos["org/tiny"].branches["main"]
    place = f"hf://org/tiny@{commit}"
    assert place in there.out
    output = str(FIXTURES / "tiny-llama-yarn-4x")  # beside the input; of one on the Hub in the folder one is in
    assert there.out.replace(place, "REF").replace("tiny-yarn-4x", "OUT") == here.out.replace(output, "OUT").replace(
        str(FIXTURES / "tiny-llama"), "REF"
    )


def test_manifest_of_a_place(hub: HubServer, shell: Shell) -> None:
    """manifest verify takes the input from the Hub too, by its records; only files that the manifest names are read."""
    done = shell.run("manifest", "verify", "hf://org/out", "--input", "hf://org/tiny", "--json")
    found = {check["name"]: check for check in done.document["checks"]}

    assert done.code == 0, done.out
    assert found["given input"]["result"] == "PASSED"
    assert "2 files" in found["given input"]["detail"]
    assert "notes.txt" in found["other files"]["detail"]
    assert "notes.txt" not in fetched(hub)
    other = shell.run("manifest", "verify", "hf://org/out", "--input", "hf://org/out")
    assert other.code == 1
    assert "✗  given input  is not what was patched: config.json" in other.out
    shown = shell.run("manifest", "show", "hf://org/record/F32.ropepatch.json")
    assert "yarn 4x" in shown.out


COMMANDS: dict[str, tuple[object, ...]] = {
    "verify": ("verify", "REF"),
    "audit": ("audit", "REF", *AUDIT),
    "search": ("search", "REF", *SEARCH),
    "manifest": ("manifest", "verify", "REF"),
    "show": ("manifest", "show", "REF"),
    "replay": ("replay", "REF", "hf://org/tiny"),
    "replay on": ("replay", "RECORD", "REF"),
    "card": ("card", "REF"),
    "plan": ("plan", "REF", "--length", 4096),
    "apply": ("apply", "REF", "--method", "yarn", "--factor", 4),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_had(hub: HubServer, shell: Shell, outputs: Path, tmp_path: Path, command: str) -> None:
    """Missing, private and gated models, and a server that limits, are one line and exit code 4 in every command."""
    config = {"config.json": FIXTURES / "tiny-llama" / "config.json"}
    hub.store.seed("org/secret", dict(config), private=True)
    hub.store.seed("org/gated", dict(config), gated=True)
    for name, wanted in (("none", "no such repository"), ("secret", "or it is private"), ("gated", "is gated")):
        words = [{"REF": f"hf://org/{name}", "RECORD": outputs / "out"}.get(str(w), w) for w in COMMANDS[command]]
        done = shell.run(*words, cwd=tmp_path, HF_TOKEN=READER)
        assert done.code == 4, done.out + done.err
        assert wanted in done.err
        assert done.err.count("\n") == 1
    hub.fail("GET", "/api/models/org/tiny", 429, times=9)
    words = [{"REF": "hf://org/tiny", "RECORD": outputs / "out"}.get(str(w), w) for w in COMMANDS[command]]
    limited = shell.run(*words, cwd=tmp_path)
    assert limited.code == 4, limited.err
    assert "rate limit" in limited.err
    assert limited.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["push --to org/x", "revert", "recover", "manifest sign --key k.pem"])
def test_works_on_files_that_are_here(hub: HubServer, shell: Shell, command: str) -> None:
    """What changes or sends files says that they have to be downloaded first, and how."""
    done = shell.run(*command.split(), "hf://org/out")

    assert done.code == 2
    assert "hf://org/out is on the Hub" in done.err
    assert "hf download org/out --local-dir out" in done.err
    assert not hub.log
