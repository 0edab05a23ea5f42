"""Writes docs/runtimes.md from the predictions, so that the page cannot say what the program does not.

Run it after a change in ropepatch/runtimes. `--check` compares instead of writing; it exits 1 when stale.
"""

from __future__ import annotations

import gzip
import importlib
import json
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from _page import ROOT, row, rule, run

CASES = ROOT / "tests" / "data" / "runtimes" / "cases.json.gz"
sys.path.insert(0, str(ROOT))

from ropepatch import runtimes  # noqa: E402
from ropepatch.methods.linear import Linear  # noqa: E402
from ropepatch.methods.longrope import LongRope  # noqa: E402
from ropepatch.methods.yarn import Yarn  # noqa: E402
from ropepatch.profile import RopeGroup, RopeProfile, Source  # noqa: E402
from ropepatch.report.text import number  # noqa: E402
from ropepatch.runtimes.base import Behaviour  # noqa: E402
from ropepatch.runtimes.comparison import Cell, Row, dotted, matrix  # noqa: E402

INTRODUCTION = """\
# Runtimes

<!-- Written by `make docs` from ropepatch/runtimes. Change the predictions, not this page. -->

The same `config.json` gives different models on different engines. `ropepatch freqs REF --all-runtimes` shows what each
of them makes of a checkpoint, `ropepatch freqs REF --runtime vllm@0.29` the numbers, and
`ropepatch diff A B --runtime-a transformers --runtime-b llama.cpp` why two of them differ. A runtime is written with
or without a release; releases that read files alike form one span.
"""
MATRIX = """\
## What they make of the same config

{count} spellings of RoPE (their texts stand [below](#the-spellings)), each as every known span of releases reads it,
against transformers {reference}; where that does not load the file, against the first that does. All of them agree on
{agreeing} of the {count}.

* `=`: the same frequencies and attention scale, in a short context and in the declared one (four times the declared one
  for dynamic NTK).
* `×4`: the largest ratio between two frequencies of a pair; `×∞` where one of them stands still.
* `A=1`: another attention scale.
* `32p`: so many pairs rotate, and another number in the reference.
* `short`, `long`: only there.
* `-`: it does not load the file.

The recordings of eleven releases behind this table are part of the tests (`tests/runtimes/test_recorded.py`), and
`make conformance` runs vLLM's and mlx-lm's own classes on the same files.
"""


def load() -> dict[str, dict[str, Any]]:
    with gzip.open(CASES, "rt", encoding="utf-8") as stream:
        return dict(json.load(stream))


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def kind_of(config: dict[str, Any]) -> str:
    rope = rope_of(config)
    return str(rope.get("rope_type", rope.get("type", "default")))


def long_length(config: dict[str, Any]) -> int:
    declared = int(config["max_position_embeddings"])
    return declared * 4 if kind_of(config) == "dynamic" else declared


def spans(form: str) -> list[tuple[str, Behaviour]]:
    """Every span of releases of every runtime that reads a format."""
    found = [(name, span) for name in runtimes.names() for span in runtimes.behaviours(name)]
    return [(name, span) for name, span in found if form in runtimes.get(name).reads_formats]


def spec(name: str, span: Behaviour) -> str:
    return f"{name}@{dotted(span.newest)}"


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


class Readings:
    """The rows of every case, short and long, by the runtime's spec."""

    def __init__(self, cases: dict[str, dict[str, Any]]) -> None:
        self.cases = cases
        self.spans = spans("hf")
        specs = [spec(*item) for item in self.spans]
        self.rows: dict[str, dict[str, tuple[Row, Row]]] = {}
        for case, config in cases.items():
            short, long = (matrix(None, config, at, specs) for at in (None, long_length(config)))
            self.rows[case] = {one.runtime: (one, two) for one, two in zip(short, long, strict=True)}

    def of(self, name: str, span: Behaviour) -> dict[str, tuple[Row, Row]]:
        """A span's rows by case."""
        return {case: rows[spec(name, span)] for case, rows in self.rows.items()}

    def agreeing(self) -> int:
        """How many cases all spans read alike."""
        return sum(all(mark(*pair) == "=" for pair in rows.values()) for rows in self.rows.values())


def mark(short: Row, long: Row) -> str:
    """A cell of the matrix."""
    if short.reason is not None or long.reason is not None:
        return "-"
    marks = [_mark(next(iter(one.cells.values()))) for one in (short, long)]
    if marks[0] == marks[1]:
        return marks[0]
    return ", ".join(f"{when} {text}" for when, text in zip(("short", "long"), marks, strict=True) if text != "=")


def _mark(cell: Cell) -> str:
    if cell.same:
        return "="
    pairs, ratio = cell.prediction.inv_freq.size, cell.ratio
    parts = [f"{pairs}p"] if ratio is None else [f"×{ratio:.3g}".replace("inf", "∞")] if cell.pair is not None else []
    if abs(cell.prediction.attention_scale - cell.reference.attention_scale) > 1e-6:
        parts.append(f"A={number(cell.prediction.attention_scale, 5)}")
    return " ".join(parts)


def table(found: Readings) -> list[str]:
    heads = [f"{runtimes.get(name).abbreviation or name} {span.label}" for name, span in found.spans]
    lines = [row("case", *heads), rule(len(heads) + 1)]
    for case, rows in found.rows.items():
        lines.append(row(f"`{case}`", *(mark(*rows[spec(*item)]) for item in found.spans)))
    return lines


def spelled(config: dict[str, Any]) -> str:
    """What of a case's text concerns RoPE, lists by their length."""
    keys = ("model_type", "max_position_embeddings", "original_max_position_embeddings", "rope_theta")
    keys += ("partial_rotary_factor", "rope_scaling", "rope_parameters")
    text = json.dumps({key: config[key] for key in keys if key in config}, default=str)
    shortened = re.sub(r"\[[^\]]*\]", lambda found: f"[{found[0].count(',') + 1} numbers]", text)
    return f"`{shortened}`"


def about(name: str) -> str:
    """The first line of a runtime's module: its name and upstream files."""
    module = importlib.import_module(type(runtimes.get(name)).__module__)
    return (module.__doc__ or "").strip().split("\n\n")[0].replace("``", "`")


def section(name: str, found: Readings) -> list[str]:
    """A runtime: its releases, when it switches, what it refuses and ignores."""
    engine = runtimes.get(name)
    lines = [
        f"### {name}",
        "",
        about(name),
        "",
        f"Reads: {' and '.join(FORMATS[form] for form in engine.reads_formats)}.",
    ]
    lines += ["", row("releases", "predicted as"), rule(2)]
    lines += [row(span.label, dotted(span.newest)) for span in runtimes.behaviours(name)]
    newest = runtimes.behaviours(name)[-1]
    switches = gguf_switches(name) if "gguf" in engine.reads_formats else hf_switches(found, name, newest)
    lines += ["", *wrapped(f"* Frequencies change: {switches}.")]
    if "hf" in engine.reads_formats:
        lines += hf_details(found, name, newest)
    return lines


FORMATS = {"hf": "`config.json`", "gguf": "GGUF"}


def hf_switches(found: Readings, name: str, span: Behaviour) -> str:
    """Rope types and when their frequencies change."""
    when: dict[str, dict[str, None]] = {}
    for case, (short, _) in found.of(name, span).items():
        for cell in short.cells.values():
            if cell.prediction.switches != "never":
                when.setdefault(cell.prediction.switches, {})[kind_of(found.cases[case])] = None
    return "; ".join(f"{moment} for {listed(kinds)}" for moment, kinds in when.items()) or "never"


def gguf_switches(name: str) -> str:
    """The same for a GGUF: predicted of three profiles."""
    methods = (Linear(4.0), Yarn(4.0, 4096), LongRope((1.0,) * 48, (4.0,) * 48, 4096))
    when: dict[str, list[str]] = {}
    for method in methods:
        group = RopeGroup(rope_theta=1e4, rotary_dim=96, head_dim=96, scaling=method)
        profile = RopeProfile(Source("model.gguf", "gguf", "phi3"), {"default": group}, 4096, 16384)
        made = runtimes.predict(name, profile, None, None)["default"]
        if made.switches != "never":
            notes = "".join(f" ({note})" for note in made.notes if "allocated" in note)
            when.setdefault(made.switches, []).append(f"`{method.name}`{notes}")
    return "; ".join(f"{moment} for {', '.join(kinds)}" for moment, kinds in when.items()) or "never"


def hf_details(found: Readings, name: str, span: Behaviour) -> list[str]:
    """What the newest span refuses, ignores and says about the cases."""
    reasons: dict[str, list[str]] = {}
    ignored: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    prefix = f"{name} {dotted(span.newest)} "
    for case, pair in found.of(name, span).items():
        for one in pair:
            if one.reason is not None:
                reasons.setdefault(one.reason.removeprefix(prefix), []).append(case)
            for key in one.ignored:
                ignored.setdefault(key, []).append(case)
            for note in one.notes:
                notes.setdefault(re.sub(r"(?<![\d.])\d{4,}\b", "N", note), []).append(case)
    lines: list[str] = []
    for title, entries in (("Refuses", reasons), ("Ignores", ignored), ("Notes", notes)):
        if entries:
            lines += [f"* {title}:"]
            for text, cases in entries.items():
                said = f"`{text}`" if title == "Ignores" else text
                lines += wrapped(f"  * {said} ({listed(cases)})")
    return lines


def wrapped(text: str) -> list[str]:
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    """The whole page as Markdown."""
    cases = load()
    found = Readings(cases)
    newest = dotted(runtimes.get("transformers").version)
    introduction = MATRIX.format(count=len(cases), reference=newest, agreeing=found.agreeing())
    lines = [INTRODUCTION, introduction, *table(found), "", "## The runtimes"]
    lines += ["", "What each refuses, ignores and notes is that of its newest span on the spellings of the table."]
    for name in runtimes.names():
        lines += ["", *section(name, found)]
    lines += [
        "",
        "## The spellings",
        "",
        "All on a model of 32 heads of 128 dimensions.",
        "",
    ]
    lines += [row("case", "what the file says"), rule(2)]
    lines += [row(f"`{case}`", spelled(config)) for case, config in cases.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run("docs/runtimes.md", page, "the predictions"))
