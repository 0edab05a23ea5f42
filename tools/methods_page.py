"""Writes docs/methods.md from the registry of methods, so that the page cannot say what the program does not.

Run it after a change of a method's parameters or texts. `--check` compares instead of writing; it exits 1 when stale.
"""

from __future__ import annotations

import sys
import textwrap
from typing import Any

from _page import ROOT, row, run

sys.path.insert(0, str(ROOT))

from ropepatch.report import catalogue

INTRODUCTION = """\
# Methods

<!-- Written by `make docs` from the registry. Change ropepatch/methods, not this page. -->

What `ropepatch explain METHOD` says, for every method. `ropepatch methods` prints the short table, and both take
`--json`. Which one fits a situation stands in the [guide](guide.md#choose-a-method). "Reach" and "fine-tuning" repeat
what papers and releases report; ropepatch has not measured them.

In the formulas, θ is the base, d the number of rotated dimensions, i the index of a pair, T the original context in
tokens, s the factor, λ = 2π / inv_freq a wavelength in tokens, r = T / λ the turns of a pair over the original context,
and m the attention scale, a factor on cos and sin (so that attention logits scale with its square).

`METHOD+resonance` puts Resonance RoPE on top of another method.
"""
WORDS = {"key": "key", "base": "base", "factors": "factors", None: "no"}


def overview(entries: list[dict[str, Any]]) -> list[str]:
    """One row a method."""
    lines = [row("method", "what it is", "Hugging Face config", "GGUF"), row("---", "---", "---", "---")]
    for entry in entries:
        name, written = entry["name"], entry["written"]
        ways = [WORDS[written[form]] if entry["applicable"] else "read" for form in ("hf", "gguf")]
        lines.append(row(f"[`{name}`](#{name})", entry["title"], *ways))
    return lines


def legend() -> list[str]:
    """What the words of the overview stand for, by format."""
    spelled = catalogue.SPELLED
    lines = [row("word", "Hugging Face config", "GGUF"), row("---", "---", "---")]
    lines += [row(f"`{word}`", spelled["hf"][word], spelled["gguf"][word]) for word in spelled["hf"]]
    return [*lines, row("`read`", "read and kept; no method to apply", "read and kept; no method to apply")]


def where(entry: dict[str, Any], form: str) -> str:
    if not entry["applicable"]:
        return "read and kept, not applied"
    return catalogue.SPELLED[form].get(entry["written"][form], "cannot be written")


def section(name: str) -> list[str]:
    """A method at length."""
    entry = catalogue.explain(name)
    lines = [
        f"## {name}",
        "",
        f"**{entry['title']}**",
        "",
        "```text",
        entry["formula"],
        "```",
        "",
        textwrap.fill(entry["about"], 120, break_on_hyphens=False),
        "",
        f"* Paper or source: {entry['paper']}",
        f"* Reach: {entry['reach']}",
        f"* Fine-tuning: {entry['fine_tuning']}",
        f"* In a Hugging Face config: {where(entry, 'hf')}",
        f"* In a GGUF: {where(entry, 'gguf')}",
        "",
    ]
    if not entry["parameters"]:
        return [*lines, "No parameters."]
    lines += [row("parameter", "type", "default", "given with"), row("---", "---", "---", "---")]
    for item in entry["parameters"]:
        given = f"`{item['option']}`".replace(" or ", "` or `") if item["option"] else "-"
        lines.append(row(f"`{item['name']}`", item["type"], catalogue.default_text(item), given))
    return lines


def page() -> str:
    """The whole page as Markdown."""
    entries = catalogue.methods()["methods"]
    lines = [INTRODUCTION, *overview(entries), "", *legend()]
    for entry in entries:
        lines += ["", *section(entry["name"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run("docs/methods.md", page, "the registry"))
