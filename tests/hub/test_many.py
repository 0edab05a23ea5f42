"""Whole repositories at once, and publishing from a job that holds no token."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ropepatch import schemas
from tests.support.command import ROOT, ropepatch
from tests.support.hub_server import EXCHANGED, JOB, HubServer
from tests.support.shell import Shell

MODEL = ROOT / "fixtures" / "tiny-llama.gguf"


@pytest.fixture
def many(hub: HubServer) -> HubServer:
    """A repository of two GGUFs and a card, and one that a job may publish to."""
    hub.store.repos.clear()
    hub.store.seed("org/many", {"m-F32.gguf": MODEL, "m-copy.gguf": MODEL, "README.md": b"# Many\n"})
    hub.store.seed("org/keyless", {"README.md": b"# Keyless\n"})
    hub.reset()
    return hub


def test_a_repository_of_many_files_is_patched_at_once(many: HubServer, shell: Shell, tmp_path: Path) -> None:
    """apply --all takes a repository: every GGUF of one commit, outputs in a folder; the second run skips them all."""
    words = ("apply", "hf://org/many", "--all", "--method", "yarn", "--factor", "4", "-o", tmp_path, "--json")
    first, second = (shell.run(*words).document for _ in range(2))

    schemas.validator("batch").validate(first)
    assert [item["status"] for item in first["results"]] == ["written", "written"]
    assert [item["status"] for item in second["results"]] == ["skipped", "skipped"]
    commit = many.store.repos["org/many"].branches["main"]
    assert [item["ref"] for item in first["results"]] == [
        f"hf://org/many@{commit}/{name}" for name in ("m-F32.gguf", "m-copy.gguf")
    ]
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == ["m-F32-yarn-4x.gguf", "m-copy-yarn-4x.gguf"]


def test_hundreds_of_refs(many: HubServer, shell: Shell, tmp_path: Path) -> None:
    """inspect --csv goes through a list of hundreds, several at a time: a line each, in their order, failures too."""
    config = json.loads((ROOT / "fixtures" / "tiny-llama" / "config.json").read_text())
    names = [f"org/model-{number}" for number in range(200)]
    for number, name in enumerate(names):
        if number != 77:
            data = json.dumps({**config, "max_position_embeddings": 1024 + number}).encode()
            many.store.seed(name, {"config.json": data})
    (tmp_path / "list").write_text("# all of them\n" + "\n".join(f"hf://{name}" for name in names))
    many.reset()
    done = shell.run("inspect", "--csv", "--from", tmp_path / "list", "--jobs", 8)
    rows = list(csv.DictReader(io.StringIO(done.out)))

    assert done.code == 1, done.err
    assert [re.sub(r"hf://|@.*", "", row["ref"]) for row in rows] == names
    assert [row["declared_context"] for row in rows if not row["error"]] == [
        str(1024 + number) for number in range(200) if number != 77
    ]
    assert "no such repository" in rows[77]["error"]
    assert len(many.log) == 2 * 199 + 1


def test_a_job_publishes_without_a_stored_token(many: HubServer, tmp_path: Path) -> None:
    """The action's script exchanges the job's identity for a token of one repository, and publishes with it."""
    done = ropepatch("apply", "--method", "yarn", "--factor", "4", MODEL, "-o", tmp_path / "out.gguf")
    assert done.code == 0, done.err
    job = {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{many.endpoint}/ci/id-token",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": JOB,
        "ROPEPATCH_PYTHON": sys.executable,
        "ROPEPATCH_PATH": str(tmp_path / "out.gguf"),
        "ROPEPATCH_PUSH_TO": "org/keyless",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GITHUB_"))}
    surroundings = {**kept, "PYTHONPATH": str(ROOT), **many.env(tmp_path / "home", None), **job}
    script = ["bash", str(ROOT / "tools" / "action.sh")]

    ended = subprocess.run(script, env=surroundings, capture_output=True, text=True, timeout=300, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    repo = many.store.repos["org/keyless"]
    assert {"out.gguf", "out.ropepatch.json"} <= set(repo.commits[repo.branches["main"]])
    assert [one.status for one in many.asked("/ci/id-token|/oauth/token")] == [200, 200]
    assert EXCHANGED not in ended.stdout + ended.stderr + json.dumps(sorted(map(str, tmp_path.rglob("*"))))
    refused = {**surroundings, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "somebody else"}
    again = subprocess.run(script, env=refused, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 4, again.stdout + again.stderr
