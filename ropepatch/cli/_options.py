"""Options that every command has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from ropepatch.cli._output import Output


def standard(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``, ``--quiet`` and ``--debug``; the command gets an :class:`Output` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress, notes or hints.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, quiet: bool, debug: bool, **options: Any) -> Any:
        return function(Output(as_json, quiet), *args, **options)

    return wrapped


def examples(*lines: str) -> str:
    """An epilog of command lines."""
    return "\n".join(("\b", "Examples:", *(f"  ropepatch {line}" for line in lines)))
