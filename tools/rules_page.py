"""Writes docs/rules.md from the doctor's rules, so that the page cannot say what the program does not.

Run it after a change in ropepatch/doctor/rules. `--check` compares instead of writing; it exits 1 when stale.
"""

from __future__ import annotations

import re
import sys
import textwrap

from _page import ROOT, row, rule, run

sys.path.insert(0, str(ROOT))

from ropepatch import doctor, runtimes
from ropepatch.report.findings import FORMATS

INTRODUCTION = """\
# Rules

<!-- Written by `make docs` from ropepatch/doctor/rules. Change the rules, not this page. -->

What `ropepatch doctor REF` looks for. `ropepatch explain RP201` prints one rule, `doctor --for vllm,llama.cpp`
holds a checkpoint against some engines alone, and `doctor --fix -o OUT` writes what can be mended without a choice.
`apply` runs the rules on what it is about to write.

* `error`: an engine refuses the checkpoint, aborts on it, or passes the setting over.
* `warning`: an engine computes something else than the file says, or serves fewer tokens.
* `info`: worth knowing.

What concerns superseded releases alone is information, and an error that some current engine does not share a warning,
unless that engine was asked for with `--for`. "fix" says whether `doctor --fix` mends it. A finding names the
engines that it makes a difference to, which is computed for each checkpoint.
"""
KINDS = {
    "1": "Spelling and layout of a config.json",
    "2": "Contexts",
    "3": "YaRN, dynamic NTK, magnitudes",
    "4": "LongRoPE",
    "5": "What is left to the engines",
    "6": "Keys of a GGUF",
    "7": "Tensors of a GGUF",
    "8": "Files beside a config.json, or in its place",
}


def readers() -> list[str]:
    """Which engines the rules hold each format against."""
    lines = [row("looks at", "held against"), rule(2)]
    for form, words in FORMATS.items():
        found = [name for name in runtimes.names() if form in runtimes.get(name).reads_formats]
        lines.append(row(words, ", ".join(found) or "no engine: what is said holds for all that read it"))
    return lines


def formats(one: doctor.Rule) -> str:
    """What it looks at."""
    return ", ".join(FORMATS[name] for name in one.formats)


def linked(upstream: tuple[str, ...]) -> str:
    """The threads, as links."""
    made = []
    for name in upstream:
        repository, _, number = name.partition("#")
        made.append(f"[{name}](https://github.com/{repository}/issues/{number})")
    return ", ".join(made)


def section(one: doctor.Rule) -> list[str]:
    """One rule: what it says, what would work, where it was discussed."""
    lines = [f"#### {one.code}", "", f"**{one.title}** ({one.severity}; {formats(one)})", ""]
    lines += [*textwrap.wrap(re.sub(r"\*", r"\\*", one.why), 120, break_long_words=False, break_on_hyphens=False), ""]
    lines.append(f"Fix: {one.fix}." + (" `doctor --fix` does it." if one.automatic else ""))
    if one.upstream:
        lines += ["", f"Upstream: {linked(one.upstream)}"]
    return lines


def page() -> str:
    """The whole page as Markdown."""
    found = doctor.rules()
    lines = [INTRODUCTION, *readers(), ""]
    for digit, title in KINDS.items():
        of_kind = [one for one in found if one.code[2] == digit]
        lines += [f"## {title}", "", row("rule", "severity", "what", "looks at", "fix"), rule(5)]
        for one in of_kind:
            link = f"[{one.code}](#{one.code.lower()})"
            lines.append(row(link, one.severity, one.title, formats(one), "yes" if one.automatic else "no"))
        lines.append("")
    lines.append("## Each in words")
    for one in found:
        lines += ["", *section(one)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run("docs/rules.md", page, "the doctor's rules"))
