"""Options that every command has, or several, and the types of numbers that many take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from ropepatch.cli._output import Output

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}


def number_of_tokens(text: str) -> int:
    """``4k`` is 4096, ``1m`` 1048576.

    Raises:
        ValueError: it is no number of tokens.
    """
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in ("k", "m") else (text, "")
    try:
        return round(float(number) * _UNITS[unit])
    except OverflowError:
        raise ValueError(text) from None


def tokens(text: str) -> int:
    """The type of an option that is a length, from 1 token on; ``8,192`` is one, too."""
    try:
        found = number_of_tokens(text.replace(",", ""))
    except ValueError:
        raise click.BadParameter(f"{text!r:.40} is no number of tokens; 4k is 4096") from None
    if found < 1:
        raise click.BadParameter(f"{text!r:.40} is less than one token")
    return found


def factor(text: str) -> float:
    """The type of an option that says how many times a context grows: ``4`` or ``4x``; its range is the method's."""
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise click.BadParameter(f"{text!r:.40} is no number") from None


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


device = click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
dtype = click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)
alphabet = click.option("--alphabet", metavar="IDS", help="Token ids: bos=0,filler=1-40,key=41-72,value=73-136.")


def memory_limit(what: str) -> Callable[..., Any]:
    """``--memory GIB``; ``what`` it bounds."""
    return click.option("--memory", type=click.FloatRange(min=0, min_open=True), metavar="GIB", help=what)


def gibibytes(memory: float | None) -> int | None:
    """What ``--memory`` says, in bytes."""
    return round(memory * (1 << 30)) if memory else None


def running(*, bounded: str, where: str) -> Callable[..., Any]:
    """The options of long work: seed, device, dtype, memory, and who does it.

    Args:
        bounded: what ``--memory`` bounds.
        where: what ``--executor`` says where to do, as its help begins.
    """
    executor = click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help=f"{where}; ray: the cluster of RAY_ADDRESS, or one on this machine.",
    )
    options = (
        click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True),
        device,
        dtype,
        memory_limit(bounded),
        executor,
        click.option("--workers", type=click.IntRange(1, 4096), help="For ray; default: one a GPU, else one a CPU."),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add
