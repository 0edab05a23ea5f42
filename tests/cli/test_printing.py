"""What people see: widths, colours, hostile texts; and how little has to be imported for it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ropepatch.cli import COMMANDS
from tests.support.command import ROOT, ropepatch

HEAVY = ("torch", "transformers", "huggingface_hub", "matplotlib", "scipy", "xllamacpp")
PROBE = """
import sys
from ropepatch.cli import main
try:
    main(sys.argv[1:])
finally:
    print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""


def modules_after(*arguments: object) -> set[str]:
    """The modules that a run has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), *((name, "--help") for name in COMMANDS)])
def test_help_imports_next_to_nothing(arguments: tuple[str, ...]) -> None:
    """Help of the program and of every command needs neither numpy nor rich."""
    assert not modules_after(*arguments) & {*HEAVY, "numpy", "gguf", "rich", "jsonschema", "safetensors"}


def test_inspect_imports_little(model: Path) -> None:
    """inspect of a GGUF imports numpy and rich, but no engine."""
    assert not modules_after("inspect", model) & {*HEAVY, "jsonschema", "safetensors"}


def test_plan_imports_little(folder: Path) -> None:
    """A plan needs numpy and rich, and neither engines nor the schemas nor safetensors."""
    assert not modules_after("plan", folder, "--length", 8192) & {*HEAVY, "jsonschema", "safetensors", "gguf"}


def test_package_imports_next_to_nothing() -> None:
    """import ropepatch alone does not import numpy, and its names are there all the same."""
    program = "import sys, ropepatch; print('numpy' in sys.modules, callable(ropepatch.open), dir(ropepatch))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("False True ")
    assert "'diff'" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """Each command's help has a description and an example of itself, and fits 80 columns without breaking words."""
    ended = ropepatch(name, "--help", env={"COLUMNS": "80"})

    assert ended.code == 0
    assert f"ropepatch {name} " in ended.out.split("Examples:")[1] or name == "methods"
    listed = ropepatch("--help", env={"COLUMNS": "80"}).out
    assert re.search(rf"^  {name} +\S.*[^.]\.$", listed, re.MULTILINE), "the summary is cut in the listing"


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_width(columns: int, model: Path) -> None:
    """No line of a table is wider than the terminal, and keys are not broken at 80 columns."""
    width = {"COLUMNS": str(columns)}
    ropepatch("apply", "--method", "yarn", "--factor", 4, model)
    other = model.with_name("model-yarn-4x.gguf")
    shown = {
        "inspect": ropepatch("inspect", other.name, cwd=model.parent, env=width).out,
        "freqs": ropepatch("freqs", other, env=width).out,
        "plot": ropepatch("freqs", other, "--plot", env=width).out,
        "methods": ropepatch("methods", env=width).out,
        "explain": ropepatch("explain", "yarn", env=width).out,
        "plan": ropepatch("plan", model.name, "--length", 16384, cwd=model.parent, env=width).out,
        "gamma": ropepatch("explain", "gamma", env=width).out,
        "dry run": ropepatch("apply", "--method", "llama3", "--factor", 4, model, "--dry-run", env=width).out,
    }

    for name, text in shown.items():
        tables = [line for line in text.splitlines() if not line.startswith(str(model.parent))]
        assert max(map(len, tables)) <= columns, name
    assert "original_max_position_embeddings" in shown["inspect"]
    assert "llama.rope.scaling.original_context_length" in shown["dry run"]


def test_long_lists_are_shortened(model: Path) -> None:
    """A tensor of factors is shown by its ends and its size."""
    ended = ropepatch("apply", "--method", "mrrope-pro", "--factor", 4, model, "--dry-run")

    assert re.search(r"rope_freqs\.weight +- +\[1 1 … 4\] \(32 values\)|\[1, 1 … 4\] \(32 values\)", ended.out), (
        ended.out
    )


def test_plot_shows_both_spectra(model: Path) -> None:
    """The plot has a column a pair, the scaled pairs above the unscaled ones, and a line for the trained context."""
    ropepatch("apply", "--method", "linear", "--factor", 4, model, "-o", model.with_name("b.gguf"))
    lines = ropepatch("freqs", model.with_name("b.gguf"), "--plot").out.splitlines()
    rows = [line.split("┤", 1)[1] for line in lines if "┤" in line]

    for column in range(32):
        marks = "".join(row[column] if column < len(row) else " " for row in rows)
        assert marks.index("●") < marks.index("·")
    assert any("trained 2,048" in row for row in rows)


def test_quiet_apply_prints_the_output_alone(model: Path) -> None:
    """With --quiet there is the new file's path on stdout and nothing else anywhere."""
    ended = ropepatch("apply", "--method", "yarn", "--factor", 4, model, "--quiet")

    assert (ended.code, ended.out.strip(), ended.err) == (0, str(model.with_name("model-yarn-4x.gguf")), "")


def test_notes_go_to_stderr(model: Path) -> None:
    """What changed is on stdout; notes and hints are on stderr."""
    ended = ropepatch("apply", "--method", "yarn", "--factor", 4, model)

    assert "llama.rope.scaling.type" in ended.out
    assert "model-yarn-4x.ropepatch.json" in ended.out
    assert "hint: " not in ended.out
    assert "note: " in ended.err
    assert f"ropepatch revert {model.with_name('model-yarn-4x.gguf')}" in ended.err


def test_hostile_metadata_is_shown_harmless(hostile: Path) -> None:
    """Control characters, markup and direction marks of a file are shown, not obeyed."""
    ended = ropepatch("inspect", hostile, env={"FORCE_COLOR": "1"})

    text = re.sub(r"\x1b\[[0-9;]*m", "", ended.out + ended.err)
    assert ended.code == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "[bold]loud[/bold] :smile: \\u202egnp.exe\\x0asecond line" in text
    assert "\x1b[31mred" not in ended.out


def in_terminal(*arguments: object, **env: str) -> str:
    """What a run prints on a terminal."""
    ours, theirs = pty.openpty()
    surroundings = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ropepatch", *map(str, arguments)],
        env={**surroundings, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    process.wait(timeout=60)
    return b"".join(pieces).decode()


def test_colour_is_for_terminals(model: Path) -> None:
    """A terminal gets colours, NO_COLOR takes them away, a pipe never has them."""
    colours = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")
    applied = ("apply", "--method", "yarn", "--factor", 4, model)

    assert colours.search(in_terminal(*applied, "-o", model.with_name("1.gguf")))
    assert not colours.search(in_terminal(*applied, "-o", model.with_name("2.gguf"), NO_COLOR="1"))
    assert "\x1b" not in ropepatch(*applied, "-o", model.with_name("3.gguf")).out


def test_narrow_encoding(model: Path) -> None:
    """A terminal that knows ASCII only gets escapes instead of an error."""
    ended = ropepatch("explain", "linear", env={"PYTHONIOENCODING": "ascii"})

    assert ended.code == 0
    assert "\\u03b8" in ended.out


def test_prose_is_wrapped_between_words_on_a_terminal(model: Path) -> None:
    """Notes and sentences fit the width; a hint keeps its command on one line, and a pipe gets whole lines."""
    arguments = ("apply", "--method", "yarn", "--factor", 4, "--dry-run", model)
    lines = in_terminal(*arguments, COLUMNS="60", NO_COLOR="1").replace("\r", "").split("\n")
    note = next(index for index, line in enumerate(lines) if line.startswith("note: do not use"))

    assert lines[note + 1].startswith("  ")
    assert all(len(line) <= 60 for line in lines[note : note + 3])
    assert any(line.startswith("hint: nothing was written") and len(line) > 60 for line in lines)
    assert "note: do not use --context-shift, --cache-reuse or --grp-attn-n with this file: llama" in (
        ropepatch(*arguments).err
    )
