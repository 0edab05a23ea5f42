"""Writes docs/cli.md from the commands themselves, so that the reference cannot say what the program does not.

Run it after a change of a command's options or help. `--check` compares instead of writing; it exits 1 if they differ.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator

from _page import ROOT, run

PROGRAM = "ropepatch"
WIDTH = 80

# Help texts are wrapped and coloured by what these say; the page must not depend on who makes it.
for variable in ("FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(variable, None)
os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1", TERM="dumb", LC_ALL="C.UTF-8")
sys.path.insert(0, str(ROOT))

import click  # noqa: E402


def command_group() -> click.Group:
    """The click group behind the console script: `ropepatch.cli.main`, or the group that this function runs."""
    module = importlib.import_module(f"{PROGRAM}.cli")
    groups = [module.main, *vars(module).values()]
    for candidate in groups:
        if isinstance(candidate, click.Group):
            return candidate
    raise SystemExit(f"{PROGRAM}.cli holds no click group")


def walk(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yields (full name, help text at 80 columns) of a command and of all below it, in the group's order."""
    own = command.context_settings  # as main() passes them on
    context = click.Context(command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH, color=False, **own)
    with context:
        yield context.command_path, click.unstyle(command.get_help(context))
        if not isinstance(command, click.Group):
            return
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None and not child.hidden:
                yield from walk(child, child_name, context)


def anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def reference() -> str:
    """The whole page as Markdown."""
    entries = list(walk(command_group(), PROGRAM))
    lines = [
        "# Command line reference",
        "",
        "<!-- Written by `make docs` from the commands. Change the commands, not this page. -->",
        "",
        "What each command says to `--help`, at 80 columns.",
        "",
        *(f"* [`{path}`](#{anchor(path)})" for path, _ in entries),
    ]
    for path, text in entries:
        body = [line.rstrip() for line in text.strip().splitlines()]
        lines += ["", f"## {path}", "", "```text", f"$ {path} --help", *body, "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run("docs/cli.md", reference, "the commands"))
