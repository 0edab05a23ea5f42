"""Publishing: what is sent, copied and kept, in one commit, and what happens when it cannot be done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropepatch import schemas
from tests.support import tiny
from tests.support.command import ROOT, ropepatch
from tests.support.hub_models import random_gguf
from tests.support.hub_server import READER, WRITER, HubServer
from tests.support.shell import Shell

TINY = ROOT / "fixtures" / "tiny-llama"
YARN = ("--method", "yarn", "--factor", "4")
CARD = b"---\nlicense: mit\nlanguage: en\n---\n# Tiny\n\nA small model.\n"
WEIGHTS = (TINY / "model.safetensors").read_bytes()


@pytest.fixture
def base(hub: HubServer) -> HubServer:
    """The server with nothing but a small base."""
    hub.store.repos.clear()
    files = {name: TINY / name for name in ("config.json", "model.safetensors")}
    hub.store.seed("org/base", {**files, "README.md": CARD, "tokenizer.json": b"{}\n", "onnx/model.bin": b"o" * 500})
    hub.reset()
    return hub


@pytest.fixture
def output(base: HubServer, shell: Shell, tmp_path: Path) -> Path:
    """The base with YaRN in a folder here, its weights linked from the cache."""
    done = shell.run("apply", "hf://org/base", *YARN, "-o", tmp_path / "out", "-q")
    assert done.code == 0, done.err
    base.reset()
    return tmp_path / "out"


@pytest.fixture(params=["xet", "lfs"])
def either(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Both ways of large files."""
    return request.getfixturevalue("shell" if request.param == "xet" else "lfs_shell")


def validate(document: dict[str, object]) -> None:
    """Hold a document against the schema that it names."""
    schemas.validator(str(document["schema"]).removeprefix("ropepatch.").removesuffix("/1")).validate(document)


def files_of(hub: HubServer, repo: str, branch: str = "main") -> dict[str, bytes]:
    """What a repository holds."""
    found = hub.store.repos[repo]
    commit = found.commits[found.branches[branch]]
    return {name: b"".join(hub.store.read(entry, 0, entry.size)) for name, entry in commit.items()}


def test_weights_stay_on_the_hub(base: HubServer, either: Shell) -> None:
    """A config patch is published in one commit whose weights the server copied from the patched commit."""
    done = either.run("apply", "org/base", *YARN, "--to", "org/yarn", "--json")

    assert done.code == 0, done.err
    validate(done.document)
    assert {item["path"]: item["action"] for item in done.document["files"]} == {
        "README.md": "upload",
        "config.json": "upload",
        "ropepatch.json": "upload",
        "model.safetensors": "copy",
        "onnx/model.bin": "copy",
        "tokenizer.json": "copy",
    }
    commit = base.store.repos["org/base"].branches["main"]
    assert done.document["files"][-1]["origin"].startswith(f"hf://org/base@{commit}/")
    assert [one.path for one in base.asked("POST .*/commit/")] == ["/api/models/org/yarn/commit/main"]
    assert base.received < 100_000  # the weights alone have 376,848 bytes
    assert sum(one.sent for one in base.asked("GET /cdn/")) <= 65536  # the header of the safetensors
    assert not base.asked("PUT |xet-write-token|objects/batch")
    published = files_of(base, "org/yarn")
    assert published["model.safetensors"] == WEIGHTS
    assert published["onnx/model.bin"] == b"o" * 500
    assert json.loads(published["config.json"])["max_position_embeddings"] == 8192


def test_manifest_names_everything(base: HubServer, shell: Shell) -> None:
    """The published manifest has digests of all inputs, by the Hub's own records, and of all outputs but the card."""
    assert shell.run("apply", "hf://org/base@main", *YARN, "--to", "org/yarn", "-q").code == 0

    published = files_of(base, "org/yarn")
    record = json.loads(published["ropepatch.json"])
    validate(record)
    commit = base.store.repos["org/base"].branches["main"]
    inputs = {one["name"]: one for one in record["predicate"]["buildDefinition"]["resolvedDependencies"]}
    outputs = {one["name"]: one["digest"] for one in record["subject"]}
    recorded = base.store.repos["org/base"].commits[commit]
    for name in ("config.json", "model.safetensors", "tokenizer.json", "onnx/model.bin"):
        assert inputs[name]["uri"] == f"hf://org/base@{commit}/{name}"
    assert inputs["model.safetensors"]["digest"] == {"sha256": recorded["model.safetensors"].sha256}
    assert inputs["tokenizer.json"]["digest"] == {"gitBlob": recorded["tokenizer.json"].oid}
    assert outputs["model.safetensors"] == inputs["model.safetensors"]["digest"]
    assert set(outputs) == set(published) - {"README.md", ".gitattributes", "ropepatch.json"}
    assert record["predicate"]["buildDefinition"]["externalParameters"]["ref"] == f"hf://org/base@{commit}"


def test_card(base: HubServer, shell: Shell) -> None:
    """The card keeps the base's body and licence and names the base."""
    shell.run("apply", "hf://org/base", *YARN, "--to", "org/yarn", "-q")

    text = files_of(base, "org/yarn")["README.md"].decode()
    assert "license: mit" in text
    assert "base_model: org/base" in text
    assert "A small model." in text
    assert "yarn" in text


def test_read_back_by_hf(base: HubServer, either: Shell, home: Path, tmp_path: Path) -> None:
    """What was published is downloaded by the unmodified hf client, and has the frequencies of the patch."""
    assert either.run("apply", "hf://org/base", *YARN, "--to", "org/yarn", "-q").code == 0
    target = tmp_path / "back"
    _hf(base, home, "download", "org/yarn", "--local-dir", target)

    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    diff = either.run("diff", "hf://org/yarn", target)
    assert diff.code == 0, diff.out
    assert either.run("revert", target, "-o", tmp_path / "undone").code == 0
    assert (tmp_path / "undone" / "config.json").read_bytes() == (TINY / "config.json").read_bytes()


def _hf(hub: HubServer, home: Path, *arguments: object) -> str:
    """The unmodified command of huggingface_hub."""
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", *map(str, arguments)]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), **hub.env(home)}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def test_output_with_weights(base: HubServer, output: Path, either: Shell) -> None:
    """Linked weights that the base has on the Hub are not sent either, and again is nothing to do."""
    first = either.run("push", output, "--to", "org/yarn", "--json")

    assert first.code == 0, first.err
    validate(first.document)
    assert {item["path"] for item in first.document["files"] if item["action"] == "copy"} == {
        "model.safetensors",
        "onnx/model.bin",
    }
    assert base.received < 100_000
    base.reset()
    again = either.run("push", output, "--to", "org/yarn")
    assert again.code == 0, again.err
    assert f"nothing changed: org/yarn has all of it at {first.document['commit'][:12]}" in again.out
    assert not base.asked("POST ")


def test_again_in_one_go(base: HubServer, shell: Shell) -> None:
    """The same patch a second time is recognised although its manifest has another time in it."""
    shell.run("apply", "hf://org/base", *YARN, "--to", "org/yarn", "-q")
    head = base.store.repos["org/yarn"].branches["main"]
    done = shell.run("apply", "hf://org/base", *YARN, "--to", "org/yarn", "--json")

    assert done.document["changed"] is False
    assert done.document["commit"] == head
    other = shell.run("apply", "hf://org/base", "--method", "linear", "--factor", "2", "--to", "org/yarn", "--json")
    assert other.document["changed"] is True


def test_branch(base: HubServer, output: Path, shell: Shell) -> None:
    """A branch of one's own repository gets the small files that differ, and everybody can read it there."""
    done = shell.run("push", output, "--branch", "yarn-128k", "--json")

    assert done.code == 0, done.err
    assert [i["path"] for i in done.document["files"] if i["action"] == "upload"] == ["config.json", "ropepatch.json"]
    assert base.received < 30_000
    assert files_of(base, "org/base")["config.json"] == (TINY / "config.json").read_bytes()
    assert files_of(base, "org/base", "yarn-128k")["model.safetensors"] == WEIGHTS
    assert shell.run("diff", "hf://org/base@yarn-128k", output).code == 0
    again = shell.run("push", output, "--branch", "yarn-128k")
    assert "nothing changed" in again.out


def test_branch_in_one_go(base: HubServer, shell: Shell) -> None:
    """apply --branch patches the repository that it read, beside its main branch."""
    done = shell.run("apply", "hf://org/base", *YARN, "--branch", "long")

    assert done.code == 0, done.err
    assert json.loads(files_of(base, "org/base", "long")["config.json"])["rope_scaling"]["rope_type"] == "yarn"


def test_pull_request(base: HubServer, output: Path, shell: Shell) -> None:
    """Who may only read proposes the change: a pull request of the small files, on the commit that was patched."""
    done = shell.run("push", output, "--pr", "--json", HF_TOKEN=READER)

    assert done.code == 0, done.err
    assert done.document["pull_request"].endswith("/org/base/discussions/1")
    assert done.document["parent"] == base.store.repos["org/base"].branches["main"]
    assert json.loads(files_of(base, "org/base", "refs/pr/1")["config.json"])["max_position_embeddings"] == 8192
    assert base.received < 30_000


def test_dry_run(base: HubServer, output: Path, shell: Shell) -> None:
    """A dry run says what would be done, and asks without writing anything."""
    done = shell.run("push", output, "--to", "org/yarn", "--dry-run", "--json")
    direct = shell.run("apply", "hf://org/base", *YARN, "--to", "org/yarn", "--dry-run")

    validate(done.document)
    assert done.document["created"] is True
    assert done.document["commit"] is None
    assert "would publish in org/yarn (new)" in direct.out
    assert not [one for one in base.log if one.method != "GET"]


def test_a_folder_takes_what_is_published(base: HubServer, shell: Shell, tmp_path: Path) -> None:
    """-o may name a folder that is there, as without publishing: the file in it is what is published."""
    model = tiny.write_gguf(tmp_path / "model.gguf", tiny.ModelSpec(layers=1, hidden=64, vocab=300))
    (place := tmp_path / "place").mkdir()
    done = shell.run("apply", model, *YARN, "--to", "org/yarn", "-o", f"{place}/", "--json")

    assert done.code == 0, done.err
    assert "model-yarn-4x.gguf" in {item["path"] for item in done.document["files"]}
    assert files_of(base, "org/yarn")["model-yarn-4x.gguf"] == (place / "model-yarn-4x.gguf").read_bytes()


def test_config_only(base: HubServer, shell: Shell) -> None:
    """Without weights only what describes the model is published; a gated base is not asked for more."""
    base.store.repos["org/base"].gated = True
    done = shell.run("apply", "hf://org/base", *YARN, "--to", "org/yarn", "--config-only", "--private")

    assert done.code == 0, done.err
    assert set(files_of(base, "org/yarn")) == {
        ".gitattributes", "README.md", "config.json", "ropepatch.json", "tokenizer.json",
    }  # fmt: skip
    assert base.store.repos["org/yarn"].private
    assert "the weights stay with the base" in done.err
    assert not base.asked("lfs-files/duplicate")


def test_gguf_in_one_go(base: HubServer, either: Shell, tmp_path: Path) -> None:
    """A GGUF on the Hub is patched and published under a name that says how, and nothing stays here."""
    base.store.seed("org/gguf", {"m-Q8_0.gguf": ROOT / "fixtures" / "tiny-llama.gguf", "x-F16.gguf": b"GGUF"})
    done = either.run("apply", "hf://org/gguf/m-Q8_0.gguf", *YARN, "--to", "org/long", cwd=tmp_path)

    assert done.code == 0, done.err
    assert set(files_of(base, "org/long")) == {
        ".gitattributes", "README.md", "m-Q8_0-yarn-4x.gguf", "m-Q8_0-yarn-4x.ropepatch.json",
    }  # fmt: skip
    assert not list(tmp_path.iterdir())
    assert either.run("diff", "hf://org/long", ROOT / "fixtures" / "tiny-llama.gguf").code == 1


# what cannot be done


REFUSED = {
    "no target": (("push", "OUT"), 2, "push needs --to org/name"),
    "own main": (("push", "OUT", "--to", "org/base"), 2, "is the base itself"),
    "both": (("push", "OUT", "--branch", "x", "--pr"), 2, "exclude each other"),
    "name": (("push", "OUT", "--to", "noslash"), 2, "names no repository"),
    "no manifest": (("push", TINY, "--to", "org/x"), 3, "there is no manifest"),
    "missing": (("push", "nowhere", "--to", "org/x"), 3, "no such file"),
    "namespace": (("push", "OUT", "--to", "other/x"), 4, "no permission"),
    "reader": (("push", "OUT", "--branch", "x", "READER"), 4, "no permission"),
    "no token": (("push", "OUT", "--to", "org/x", "NONE"), 4, "token is not accepted"),
    "pr nowhere": (("push", "OUT", "--to", "org/none", "--pr"), 4, "no such repository"),
    "alone": (("apply", "hf://org/base", *YARN, "--private"), 2, "--private goes with --to"),
    "in place": (("apply", "hf://org/base", *YARN, "--in-place"), 2, "not changed in place"),
    "signed": (
        ("apply", "hf://org/base", *YARN, "--to", "org/x", "--sign", "k"),
        2,
        "--sign first, then ropepatch push",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(base: HubServer, output: Path, shell: Shell, case: str) -> None:
    """What cannot be published is one line, the right exit code, and leaves nothing behind."""
    arguments, code, wanted = REFUSED[case]
    token = {"READER": READER, "NONE": ""}.get(arguments[-1], WRITER)
    before = {name: dict(repo.branches) for name, repo in base.store.repos.items()}
    done = shell.run(*(output if a == "OUT" else a for a in arguments if a not in ("READER", "NONE")), HF_TOKEN=token)

    assert done.code == code, done.err
    assert wanted in done.err
    assert done.err.count("\n") == 1
    assert {name: dict(repo.branches) for name, repo in base.store.repos.items()} == before


FAULTS = {
    "rate": ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "30"}}, "wait 30 s"),
    "failure": ("POST", "/commit/", {"status": 500, "times": 99}, "failed with 500"),
    "cut": ("POST", "/lfs-files/duplicate", {"cut": 1, "times": 99}, "cannot be reached"),
    "moved": ("POST", "/commit/", {"status": 412}, "has moved on"),
    "card": ("POST", "/validate-yaml", {"status": 500, "times": 99}, "failed with 500"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_nothing_half_published(base: HubServer, output: Path, shell: Shell, case: str) -> None:
    """A publication that fails on the way is one line and exit code 4, and the repository made for it is gone."""
    method, path, fault, wanted = FAULTS[case]
    base.fail(method, path, **fault)
    done = shell.run("push", output, "--to", "org/new")

    assert done.code == 4, done.err
    assert wanted in done.err
    assert done.err.count("\n") == 1
    assert "org/new" not in base.store.repos


def test_another_region(base: HubServer, output: Path, shell: Shell) -> None:
    """Weights that the server will not copy across regions are told, and --config-only publishes without them."""
    base.store.repos["org/base"].region = "eu"
    done = shell.run("push", output, "--to", "org/new")

    assert done.code == 4, done.err
    assert "another storage region" in done.err
    assert "--config-only" in done.err
    assert done.err.count("\n") == 1
    assert "org/new" not in base.store.repos
    assert shell.run("apply", "hf://org/base", *YARN, "--to", "org/new", "--config-only", "-q").code == 0


def test_offline(base: HubServer, output: Path, tmp_path: Path) -> None:
    """Offline nothing can be published, which is one line; nothing is asked."""
    base.reset()
    done = ropepatch("push", output, "--to", "org/new", env=base.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "1"})

    assert done.code == 4, done.err
    assert "HF_HUB_OFFLINE" in done.err
    assert done.err.count("\n") == 1
    assert not base.log


def test_answer_lost(base: HubServer, output: Path, shell: Shell) -> None:
    """Where the answer to the commit is lost, that is said, and another run finds that all is there."""
    base.fail("POST", "/commit/", cut=10)
    done = shell.run("push", output, "--to", "org/new")

    assert done.code == 4
    assert "whether the commit was made is not known" in done.err
    assert "nothing changed" in shell.run("push", output, "--to", "org/new").out


def test_upload_fails(base: HubServer, lfs_shell: Shell, tmp_path: Path) -> None:
    """A server that fails in the middle of a large upload leaves no commit."""
    path = tmp_path / "m.gguf"
    shutil.copy(ROOT / "fixtures" / "tiny-llama.gguf", path)
    lfs_shell.run("apply", path, "--method", "ntk", "--factor", "3", "-o", tmp_path / "p.gguf", "-q")
    base.fail("PUT", "/lfs/", 500, times=99)
    done = lfs_shell.run("push", tmp_path / "p.gguf", "--to", "org/new")

    assert done.code == 4, done.err
    assert done.err.count("\n") == 1
    assert "org/new" not in base.store.repos


def test_somebody_was_faster(base: HubServer, output: Path, shell: Shell) -> None:
    """A commit that lands between looking and publishing stops the publication: theirs stays, ours is not there."""
    assert shell.run("push", output, "--to", "org/yarn", "-q").code == 0
    repo = base.store.repos["org/yarn"]
    theirs: list[str] = []

    def other() -> None:
        theirs.append(repo.add("main", dict(repo.commits[repo.branches["main"]]), "theirs"))

    base.fail("POST", "/preupload/", act=other)
    (output / "tokenizer.json").write_text('{"changed": 1}\n')
    done = shell.run("push", output, "--to", "org/yarn")

    assert done.code == 4, done.err
    assert "has moved on" in done.err
    assert repo.branches["main"] == theirs[0]


def test_base_moved_before_pull_request(base: HubServer, output: Path, shell: Shell) -> None:
    """A pull request on a main branch that has moved since the patch is refused before anything is asked to change."""
    base.store.seed("org/base", {"tokenizer.json": b'{"new": 1}\n'})
    done = shell.run("push", output, "--pr")

    assert done.code == 4
    assert "has moved on since" in done.err
    assert not base.asked("POST ")


def test_token_nowhere(base: HubServer, output: Path, shell: Shell, home: Path) -> None:
    """The token is in no output, no file, no log and nothing that is published."""
    texts = []
    for options in (("--to", "org/yarn", "--json"), ("--branch", "b"), ("--to", "other/x", "--debug")):
        done = shell.run("push", output, *options)
        texts.append(done.out + done.err)
    random_gguf(home.with_name("m.gguf"), 12)
    words = ("apply", home.with_name("m.gguf"), *YARN, "--to", "org/gguf", "--debug")
    sent = ropepatch(*words, env=base.env(home))  # large enough for chunks of its own, with a home for it alone
    assert sent.code == 0, sent.err
    texts += [sent.out, sent.err]
    for repo in base.store.repos:
        texts += [data.decode("latin-1") for data in files_of(base, repo).values()]
    places = (output, home, base.store.root)
    found = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert any("log" in path.parts[-2] for path in found)  # hf_xet keeps one

    assert not [text for text in texts if WRITER in text]
    assert not [path for path in found if WRITER.encode() in path.read_bytes()]
