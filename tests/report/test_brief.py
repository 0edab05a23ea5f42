"""The brief: self-contained, harmless whatever a file says, and true to the plan."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ropepatch
from ropepatch.report import brief, svg
from tests.planner.test_cost import LLAMA2_7B
from tests.support.command import ROOT
from tests.support.command import inside as run

_VOID = {"meta", "line", "rect", "polyline"}


class Tree(HTMLParser):
    """Collects tags, attributes and text, and that every element is closed where it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Tree:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert tree.open == []
    return tree


def llama(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA2_7B), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("length", [2048, 16384, 65536])
def test_html_is_self_contained(length: int, tmp_path: Path) -> None:
    """The page is well-formed, runs nothing, loads nothing, and draws its plots inside."""
    page = parsed(brief.written(ropepatch.plan(llama(tmp_path), length), html=True))

    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert page.tags.count("svg") == (4 if length > 4096 else 3)


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    """Verdict, reasons, command, cache and rollback of the plan stand in both forms."""
    plan = ropepatch.plan(llama(tmp_path / "m"), 65536)
    page, text = parsed(brief.written(plan, html=True)).text, brief.written(plan, html=False).replace("\\", "")

    assert plan.command is not None
    for part in ("Proposed: yarn, 16 times the 4,096", plan.verdict, plan.command,
                 *(reason.text for reason in plan.reasons), "32 GiB", "2309.00071",
                 f"ropepatch revert {tmp_path / 'm-yarn-16x'}", "--metric-percentiles 50,90,95,99"):  # fmt: skip
        assert part in page, part
        assert part in text, part


def test_commands_can_be_pasted(tmp_path: Path) -> None:
    """Every command survives a shell, with a name that holds blanks and quotes."""
    ref = llama(tmp_path / "it's a model")
    plan = ropepatch.plan(ref, 16384)

    assert ref in shlex.split(plan.command or "")
    assert ref in shlex.split(brief.audit_command(plan))
    assert f"{ref}-yarn-4x" in shlex.split(brief.benchmark_command(plan, "vllm"))


def test_audit_command_is_one(tmp_path: Path) -> None:
    """The audit's own parser takes the command that the brief proposes."""
    from ropepatch.cli.audit import command

    words = shlex.split(brief.audit_command(ropepatch.plan(llama(tmp_path), 16384)))
    given = command.make_context("audit", words[2:]).params

    assert given["ref"] == str(tmp_path)
    assert (given["methods"], given["factors"]) == (("yarn",), ("4",))


def test_commands_run_as_printed(tmp_path: Path) -> None:
    """The change and the way back of a brief, pasted into a shell, lead to the file that was there before."""
    shutil.copytree(ROOT / "fixtures" / "tiny-llama", tmp_path / "model")
    ended = run("plan", "model", "--length", 8192, "--brief", "b.md", cwd=tmp_path)
    assert ended.code == 0, ended.err
    lines = (tmp_path / "b.md").read_text("utf-8").splitlines()
    for verb in ("apply", "revert"):
        words = shlex.split(next(line for line in lines if line.startswith(f"ropepatch {verb} ")))
        ended = run(*words[1:], cwd=tmp_path)
        assert ended.code == 0, ended.err

    before, after = (tmp_path / name / "config.json" for name in ("model", "model-yarn-4x-reverted"))
    assert after.read_bytes() == before.read_bytes()


def test_wide_tables_name_their_cells(tmp_path: Path) -> None:
    """Where a screen has no room for columns, each cell of a wide table says what it is."""
    text = brief.written(ropepatch.plan(llama(tmp_path), 16384), html=True)

    assert '<td data-label="never trained">16.3%</td>' in text
    assert text.count('class="wide"') == 4
    assert "attr(data-label)" in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Markup and control characters in what a file or its name says reach neither form as such."""
    ref = llama(tmp_path / "<b onclick=x>`|[a](b)\x1b[31m</b>")
    plan = ropepatch.plan(ref, 16384)
    page = parsed(brief.written(plan, html=True))
    text = brief.written(plan, html=False)

    assert "b" not in page.tags
    assert "\x1b" not in page.text + text
    title = text.splitlines()[0]
    assert re.search(r"(?<!\\)[<|`\[]", title) is None


def test_axis_covers_the_data() -> None:
    """Every point of a line lies inside the drawing, over twelve powers of ten and with pairs that stand still."""
    series = svg.Series("x", "a", [10.0**-i for i in range(12)] + [0.0])
    drawn = svg.lines("t", "d", [series], [svg.Level("<level>", 100.0)], "unit")
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]+)"', drawn)[0].split()]

    assert len(points) == 12
    assert all(0 <= x <= svg.WIDTH and 0 <= y <= svg.HEIGHT for x, y in points)
    assert "&lt;level&gt;" in drawn


def test_command_writes_it(tmp_path: Path) -> None:
    """--brief writes the form that the name asks for, and nothing over a file that is there."""
    model = ROOT / "fixtures" / "tiny-llama.gguf"
    for name, start in (("a.html", "<!doctype html>"), ("a.md", "# tiny-llama.gguf at 8,192 tokens")):
        ended = run("plan", model, "--length", 8192, "--brief", tmp_path / name)
        assert ended.code == 0, ended.err
        assert (tmp_path / name).read_text("utf-8").startswith(start)
    assert run("plan", model, "--length", 8192, "--brief", tmp_path / "a.md").code == 5
    assert run("plan", model, "--length", 8192, "--brief", tmp_path / "a.pdf").code == 2
    assert run("plan", model, "--length", 8192, "--brief", tmp_path / "no" / "a.md").code == 3
