"""Every way in which a command can end, as an exit code and at most one line on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from ropepatch import errors
from ropepatch.errors import RopepatchError, UsageError

#: sysexits.h: internal software error
INTERNAL = 70
INTERRUPTED = 130
#: what a shell reports for a program that a closed pipe ended
BROKEN_PIPE = 141
TERMINATED = 143


class _Internal(RopepatchError):
    exit_code = INTERNAL


class _Interrupted(RopepatchError):
    exit_code = INTERRUPTED


def guarded(call: Callable[[], Any], arguments: Sequence[str]) -> int:
    """Run ``call`` and return the exit code; an error is printed as one line, or as JSON where that was asked for.

    Args:
        call: the command; what it returns, if anything, is the exit code.
        arguments: the command line, read for ``--json`` and ``--debug`` because parsing itself may fail.
    """
    # a copy: click takes out of the list what it has read
    options = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    _tolerant_streams()
    with _sigterm_unwinds():
        try:
            result = call()
            sys.stdout.flush()
            return result if isinstance(result, int) else 0
        except click.exceptions.Exit as end:
            return end.exit_code
        except BrokenPipeError:
            _abandon_stdout()
            return BROKEN_PIPE
        except (Exception, KeyboardInterrupt) as error:
            found = _reported(error)
            if "--debug" in options:
                import traceback

                traceback.print_exc()
            _report(found, as_json="--json" in options)
            if isinstance(error, OSError):
                _abandon_stdout()  # it may be the one that could not be written
            return found.exit_code


def _reported(error: BaseException) -> RopepatchError:
    """Any exception as the error that the command line reports."""
    known = errors.translated(error)
    if known is not None:
        return known
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "ropepatch"
        what, hint = _one_line(error.format_message()).rstrip("."), f"see {command} --help"
        if isinstance(error, click.NoSuchOption) and error.ctx:
            what = _elsewhere(error.option_name, error.ctx) or what
        return UsageError(what, hint=hint)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _Interrupted("interrupted")
    if isinstance(error, click.ClickException):
        return UsageError(_one_line(error.format_message()))
    return _Internal(
        f"internal error: {type(error).__name__}: {_one_line(str(error))}",
        hint="this is a fault of ropepatch; --debug shows the traceback",
    )


def _elsewhere(option: str, ctx: click.Context) -> str | None:
    """What to say of an option that other commands have; None where none has it."""
    program = ctx.find_root().command
    assert isinstance(program, click.Group)
    commands = {name: program.get_command(ctx, name) for name in program.list_commands(ctx)}
    having = [name for name, one in commands.items() if one and any(option in item.opts for item in one.params)]
    if ctx.parent is None and having:
        return f"{option} follows the command: ropepatch {having[0]} {option}"
    return f"{ctx.info_name} has no option {option}, which is one of {', '.join(having)}" if having else None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _report(error: RopepatchError, *, as_json: bool) -> None:
    from ropepatch.report.text import clean

    with contextlib.suppress(OSError):
        if as_json:
            document = error.to_json()
            document["error"] = str(document["error"]).lstrip("_")
            print(json.dumps(document), file=sys.stderr)
            return
        colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        label = "\x1b[31mropepatch:\x1b[0m" if colour else "ropepatch:"
        print(label, clean(error), file=sys.stderr)


def _tolerant_streams() -> None:
    """A name or formula that the terminal's encoding lacks is escaped, not an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """A polite kill runs the clean-up of a half-written output, as Ctrl-C does."""

    def end(*_: Any) -> None:
        raise SystemExit(TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _abandon_stdout() -> None:
    """Keep the interpreter from failing on a broken stdout once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
