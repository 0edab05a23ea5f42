"""How commands end that cannot do their work: exit code, one clear line, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.command import ROOT, Ended, ropepatch
from tests.support.gguf_split import split

APPLY = ("apply", "--method", "yarn", "--factor", 4)


def one_line(ended: Ended, code: int) -> str:
    """The error's line, after checking that it is the only one and no traceback."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert ended.err.startswith("ropepatch: ")
    assert ended.err.count("\n") == 1, ended.err
    return ended.err


@pytest.mark.parametrize("command", [("inspect",), ("freqs",), APPLY, ("revert",)])
def test_missing_file(command: tuple[object, ...], tmp_path: Path) -> None:
    """A file that is not there is named."""
    assert "gone.gguf: no such file" in one_line(ropepatch(*command, "gone.gguf", cwd=tmp_path), 3)


@pytest.mark.parametrize("command", [("inspect",), ("freqs",), APPLY])
def test_no_rope(command: tuple[object, ...], no_rope: Path) -> None:
    """A model without rotary embedding is refused with that reason, and nothing is written."""
    message = one_line(ropepatch(*command, no_rope), 3)

    assert "'gpt2' has no rotary position embedding" in message
    assert list(no_rope.parent.iterdir()) == [no_rope]


@pytest.mark.corpus
def test_real_gpt2() -> None:
    """The published GPT-2 vocabulary file is refused for the same reason."""
    corpus = os.environ.get("ROPEPATCH_CORPUS")
    if not corpus:
        pytest.skip("ROPEPATCH_CORPUS is not set")
    message = one_line(ropepatch("inspect", Path(corpus) / "gguf" / "gpt-2.gguf"), 3)

    assert "no rotary position embedding" in message


@pytest.mark.parametrize("size", [3, 20, 400, 9000])
@pytest.mark.parametrize("command", [("inspect",), APPLY])
def test_truncated(command: tuple[object, ...], size: int, model: Path) -> None:
    """A GGUF that ends within its header is refused, and no output is left."""
    model.write_bytes(model.read_bytes()[:size])
    one_line(ropepatch(*command, model), 3)

    assert list(model.parent.iterdir()) == [model]


def test_truncated_data(model: Path) -> None:
    """A GGUF that lacks the end of its tensors is not patched."""
    model.write_bytes(model.read_bytes()[:-1000])
    one_line(ropepatch(*APPLY, model), 3)

    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model", b"GGML" + bytes(64)])
def test_not_a_gguf(content: bytes, model: Path) -> None:
    """Another file under the name of a GGUF is refused."""
    model.write_bytes(content)

    one_line(ropepatch("inspect", model), 3)


@pytest.mark.parametrize("existing", ["model-yarn-4x.gguf", "model-yarn-4x.ropepatch.json"])
def test_existing_output(existing: str, model: Path) -> None:
    """An output or manifest that exists is not overwritten, and nothing else is written."""
    taken = model.with_name(existing)
    taken.write_text("mine")
    message = one_line(ropepatch(*APPLY, model), 5)

    assert existing in message
    assert "-o" in message
    assert taken.read_text() == "mine"
    assert sorted(model.parent.iterdir()) == sorted([model, taken])


def test_already_scaled(model: Path) -> None:
    """A scaled checkpoint is not scaled again by accident; the message names the ways out."""
    ropepatch(*APPLY, model, "--in-place")
    message = one_line(ropepatch(*APPLY, model), 3)

    assert "yarn 4x" in message
    assert "--existing replace" in message
    assert "--existing compose" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("apply", "--method", "yran", "--factor", 4), "did you mean 'yarn'?"),
        (("apply", "--method", "yarn+resonanse", "--factor", 4), "did you mean 'resonance'?"),
        (("aply", "--method", "yarn"), "did you mean 'apply'?"),
        (("explain",), "did you mean 'yarn'?"),
        (("apply", "--factor", 4), "--method"),
        (("apply", "--method", "yarn"), "--factor or --length"),
        (("apply", "--method", "yarn", "--factor", 0.5), "at least 1"),
        (("apply", "--method", "yarn", "--factor", "nan"), "factor"),
        (("apply", "--method", "yarn", "--factor", 4, "--length", 4096), "--length 4096"),
        ((*APPLY, "--set", "beta_fats=16"), "beta_fast"),
        ((*APPLY, "--set", "beta_fast=often"), "must be a number"),
        ((*APPLY, "--set", "beta_fast"), "KEY=VALUE"),
        ((*APPLY, "--set", "factor=2"), "--factor"),
        ((*APPLY, "--set", "existing=replace"), "--existing"),
        ((*APPLY, "--group", "sliding"), "default"),
        ((*APPLY, "--in-place", "-o", "x.gguf"), "exclude each other"),
        ((*APPLY, "--factors", "f.json"), "longrope"),
        (("apply", "--method", "proportional", "--factor", 4), "not applied"),
        (("diff", "--length", 0, "other.gguf"), "--length"),
        (("freqs", "--length", "4x"), "4k is 4096"),
        (("plan", "--length", "8k", "--method", "yarn", "--target-gamma", 0.5), "base of theta"),
        (("apply", "--method", "theta"), "--set rope_theta=VALUE"),
        (("inspect", "--csv", "--json"), "exclude each other"),
        (("freqs", "--plot", "--json"), "--plot"),
        (("freqs", "--runtime", "vlm"), "vlm"),
        (("apply", "yarn", "--factor", 4), "--method yarn"),
        (("freqs", "--factor", 4), "freqs has no option --factor, which is one of apply, audit, search; see"),
        (("--quiet", "inspect"), "--quiet follows the command: ropepatch inspect --quiet"),
        (("inspect", "--nope"), "No such option '--nope'; see ropepatch inspect --help"),
        (("apply", "--method", "yarn", "--length", 1024), "less than the 2048 tokens"),
        ((*APPLY, "-o", "a.gguf", "-o", "b.gguf"), "one output"),
        ((*APPLY, "-o", ""), "-o is empty"),
        ((*APPLY, "-o", "-"), "stdout"),
        ((*APPLY, "-o", "out.safetensors"), "the output is a .gguf file"),
    ],
)
def test_usage_errors(arguments: tuple[object, ...], expected: str, model: Path) -> None:
    """What cannot be asked for is refused with 2, naming what can."""
    reference = "yarm" if arguments[0] == "explain" else model
    ended = ropepatch(*arguments, reference)

    assert ended.code == 2, ended.err
    assert expected in ended.err
    assert ended.err.count("\n") == 1
    assert list(model.parent.iterdir()) == [model]


def test_output_as_an_argument(model: Path) -> None:
    """A second argument that is not there is an output without its -o, not a patch that lacks its options."""
    ended = ropepatch(*APPLY, model, "out.gguf", cwd=model.parent)

    assert ended.code == 2
    assert "-o out.gguf" in ended.err
    assert list(model.parent.iterdir()) == [model]


def test_folder_as_a_file(tmp_path: Path) -> None:
    """A folder is not written under the name of a GGUF: nothing would be converted."""
    folder = tiny.write_hf(tmp_path / "model", tiny.ModelSpec(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32))
    ended = ropepatch(*APPLY, folder, "-o", tmp_path / "out.gguf")

    assert ended.code == 2
    assert "convert_hf_to_gguf.py" in ended.err
    assert list(tmp_path.iterdir()) == [folder]


def test_in_the_store_of_ollama(model: Path) -> None:
    """Nothing is written beside a blob of Ollama, which would delete it; elsewhere it is."""
    blob = model.rename(model.with_name(f"sha256-{'0' * 64}"))
    refused = ropepatch(*APPLY, blob)

    assert refused.code == 2
    assert "Ollama deletes" in refused.err
    assert "-o ./model-yarn-4x.gguf" in refused.err
    assert list(blob.parent.iterdir()) == [blob]
    (elsewhere := model.parent / "mine").mkdir()
    assert ropepatch(*APPLY, blob, "-o", elsewhere / "model.gguf", "--quiet").code == 0


def test_lengths_in_thousands(model: Path) -> None:
    """A length may be written as 8k, as 8,192 or as 8192: all are the same context."""
    found = [ropepatch("freqs", model, "--length", text, "--json") for text in ("8k", "8,192", "8192")]

    assert [one.document["length"] for one in found] == [8192] * 3
    assert len({one.out for one in found}) == 1


def test_patch_for_another_checkpoint(model: Path) -> None:
    """A patch whose old values are not there is refused, and no output is left."""
    plan = model.with_name("patch.json")
    plan.write_text(ropepatch(*APPLY, model, "--dry-run", "--json").out, encoding="utf-8")
    ropepatch("apply", "--method", "linear", "--factor", 2, model, "--in-place")
    before = sorted(model.parent.iterdir())
    one_line(ropepatch("apply", plan, model), 3)

    assert sorted(model.parent.iterdir()) == before


@pytest.mark.parametrize(
    "text", ["{}", "[]", "", "{", '{"schema": "ropepatch.patch/1"}', '{"schema": "ropepatch.manifest/1"}']
)
def test_record_that_is_none(text: str, model: Path) -> None:
    """A file that is neither manifest nor patch is refused by name."""
    record = model.with_name("record.json")
    record.write_text(text)

    assert "record.json" in one_line(ropepatch("replay", record, model), 3)


@pytest.mark.parametrize("name", ["model-yarn-4x.gguf", "model-yarn-4x.ropepatch.json"])
def test_output_instead_of_its_manifest(name: str, model: Path) -> None:
    """An output and its manifest are the same to what reads the manifest, and to what is repeated from it."""
    shutil.copy(model, sibling := model.with_name("sibling.gguf"))
    assert ropepatch(*APPLY, model).code == 0
    record = model.with_name(name)

    assert ropepatch("manifest", "verify", record).code == 0
    assert ropepatch("replay", record, sibling, "-q").out.strip() == str(model.with_name("sibling-yarn-4x.gguf"))
    model.with_name("model-yarn-4x.gguf").unlink()
    assert "model-yarn-4x" in one_line(ropepatch("manifest", "verify", record), 3)


@pytest.mark.parametrize("command", ["manifest show", "replay"])
def test_record_of_what_was_never_patched(command: str, model: Path) -> None:
    """Where there is no manifest, what writes one is named."""
    ended = ropepatch(*command.split(), model, *([model] if command == "replay" else []))

    assert "model.ropepatch.json: there is no manifest; apply writes one" in one_line(ended, 3)


def test_shards_in_a_folder(model: Path, tmp_path: Path) -> None:
    """A folder whose GGUF files are the shards of one model names it; several models are listed, each once."""
    (folder := tmp_path / "folder").mkdir()
    split(shutil.copy(model, folder / "big.gguf"), 3)
    (folder / "big.gguf").unlink()
    (folder / "mmproj-big.gguf").write_bytes(b"another architecture")

    assert ropepatch("inspect", folder, "--json").document["source"]["format"] == "gguf"
    for name in "abcdef":
        shutil.copy(model, folder / f"{name}.gguf")
    message = one_line(ropepatch("inspect", folder), 3)
    assert (
        "holds 7 GGUF models; name one: a.gguf, b.gguf, big-00001-of-00003.gguf, c.gguf, d.gguf and 2 more" in message
    )


@pytest.mark.parametrize(
    ("option", "name", "code", "said"),
    [
        ("--html", "page.html", 5, "page.html: exists already"),
        ("--html", "model.gguf", 2, "ends with .html"),
        ("--png", "model.gguf", 2, "ends with .png"),
        ("--html", "no/page.html", 3, "no: no such directory"),
        ("--journal", "model.gguf", 5, "exists already"),
    ],
)
def test_an_audit_writes_over_nothing(option: str, name: str, code: int, said: str, model: Path) -> None:
    """Where a page or picture cannot go is said before anything is measured, and what is there stays."""
    (page := model.with_name("page.html")).write_text("a page of somebody's")
    before = model.read_bytes()
    ended = ropepatch("audit", model, "--lengths", "2k", "--samples", 1, option, name, cwd=model.parent)

    assert said in one_line(ended, code)
    assert model.read_bytes() == before
    assert page.read_text() == "a page of somebody's"
    assert sorted(model.parent.iterdir()) == sorted([model, page])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("inspect", "--from", "model.gguf"), 3, "model.gguf: is no text"),
        (("inspect", "--all", "gone"), 3, "gone: no such file"),
        (("inspect", "--all", "hf://org/repo"), 4, "HF_HUB_OFFLINE forbids"),
        (("card", "out.gguf", "--audit", "out.ropepatch.json"), 3, "is no audit"),
        (("card", "out.gguf", "--repo", "bad"), 2, "write org/name"),
        (("push", "out.gguf", "--to", "bad"), 2, "write org/name"),
        (("push", "out.gguf", "--to", "me/x"), 4, "me/x: HF_HUB_OFFLINE forbids"),
        (("manifest", "verify", "out.gguf", "--input", "gone.gguf"), 3, "gone.gguf: no such file"),
    ],
)
def test_what_is_no_input(arguments: tuple[str, ...], code: int, said: str, model: Path) -> None:
    """A list, an audit, a repository and a base that are none are told from findings, by name."""
    ropepatch(*APPLY, model, "-o", model.with_name("out.gguf"), "-q")

    assert said in one_line(ropepatch(*arguments, cwd=model.parent, env={"HF_HUB_OFFLINE": "1"}), code)


@pytest.mark.parametrize("arguments", [("--json",), ("--json", "inspect", "gone"), ("inspct", "--json")])
def test_usage_errors_before_a_command_are_json_too(arguments: tuple[str, ...]) -> None:
    """An error that ends the reading of the command line itself is one JSON object where that was asked for."""
    assert ropepatch(*arguments).error["exit_code"] == 2


def test_manifest_alone() -> None:
    """The group's name alone shows what it can do."""
    ended = ropepatch("manifest")

    assert (ended.code, ended.err) == (0, "")
    assert "manifest verify model-yarn-4x/" in ended.out


def test_revert_needs_the_manifest(model: Path) -> None:
    """Without a manifest there is nothing to revert by."""
    assert "manifest" in one_line(ropepatch("revert", model), 3)


def test_unwritable_place(model: Path) -> None:
    """A folder that is not there is named."""
    assert "no such" in one_line(ropepatch(*APPLY, model, "-o", model.parent / "no" / "out.gguf"), 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_under_stdout(model: Path) -> None:
    """A full disk under the output is one line, not a traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ropepatch", "inspect", str(model)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "no space left" in done.stderr


def test_reader_that_stops_early(model: Path) -> None:
    """A closed pipe ends the program as a shell expects, without a word."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "ropepatch", "freqs", str(model)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (141, "")


INTERRUPT = """
import os, signal, sys
from ropepatch.storage import ranges
name, whole = sys.argv.pop(), ranges.copy_range
def slow(*arguments, **options):
    whole(*arguments, **options)
    os.kill(os.getpid(), getattr(signal, name))
ranges.copy_range = slow
from ropepatch.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupted(name: str, code: int, model: Path) -> None:
    """Ctrl-C and a polite kill in the middle of writing leave nothing behind."""
    assert hasattr(signal, name)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, *map(str, APPLY), str(model), name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert list(model.parent.iterdir()) == [model]


FAULT = """
import sys
import ropepatch.checkpoint
def broken(ref):
    raise ZeroDivisionError("of our own")
ropepatch.checkpoint.open = broken
from ropepatch.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("debug", [False, True])
def test_internal_error(debug: bool, model: Path) -> None:
    """A fault of the program is one line with exit code 70; --debug shows where it is."""
    done = subprocess.run(
        [sys.executable, "-c", FAULT, "inspect", str(model), *(["--debug"] if debug else [])],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 70
    assert "internal error: ZeroDivisionError: of our own" in done.stderr
    assert ("Traceback" in done.stderr) is debug


@pytest.mark.parametrize(
    "command",
    [("inspect", ""), (*APPLY, ""), (*APPLY, "--in-place", ""), ("revert", "--in-place", ""), ("recover", "")],
    ids=lambda command: f"{command[0]}{' in place' * ('--in-place' in command)}",
)
def test_an_empty_ref_is_not_this_folder(tmp_path: Path, command: tuple[object, ...]) -> None:
    """What a shell makes of a variable that is not set is refused, and the folder stays as it is."""
    model = tiny.write_hf(tmp_path / "model", tiny.ModelSpec(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32))
    before = {path.name: path.read_bytes() for path in model.iterdir()}

    done = ropepatch(*command, cwd=model)

    assert (done.code, done.out) == (2, "")
    assert "REF is empty" in done.err
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
