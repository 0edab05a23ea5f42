"""The command line: one file a command, each loaded when it is needed."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from ropepatch._version import __version__

# No matrix here is large enough for OpenBLAS's threads, and each of them costs at the start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

#: in the order of the help; each is a module here that holds `command`
COMMANDS = (
    "inspect",
    "freqs",
    "methods",
    "explain",
    "plan",
    "apply",
    "diff",
    "doctor",
    "verify",
    "audit",
    "search",
    "revert",
    "replay",
    "recover",
    "push",
    "manifest",
    "card",
    "completion",
)

_EPILOG = """\b
Exit codes:
  0    done
  1    findings: diff differs, doctor has errors, a verification failed,
       plan says DEGRADES, some of a list failed
  2    usage: options or parameters that cannot be used
  3    the input cannot be read or patched, or a file not written
  4    network, Hub or permission
  5    the output exists already
  70   an internal error (--debug shows the traceback)
  130  interrupted

With --json an error is one JSON object on stderr.
"""


class Program(click.Group):
    """The group of commands; knows their names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of the command; None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        if ctx.resilient_parsing:  # a shell asks what could follow
            from ropepatch.cli import _completion

            return _completion.enrich(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a suggestion for a mistyped name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(name.lower(), COMMANDS, n=1)
            suggestion = f" (did you mean {near[0]!r}?)" if near else f"; the commands are: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command {name!r}{suggestion}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> Any:
        """Run the program; ends the process with one of the exit codes of the help."""
        from ropepatch.cli import _errors

        _collect_less()
        arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
        name = prog_name or "ropepatch"
        if "_ROPEPATCH_COMPLETE" in os.environ:
            from ropepatch.cli import _completion

            _completion.register()
        self._main_shell_completion(extra, name)
        sys.exit(_errors.guarded(lambda: self._run(name, arguments), arguments))

    def _run(self, name: str, arguments: list[str]) -> Any:
        with self.make_context(name, arguments) as ctx:
            return self.invoke(ctx)


def _collect_less() -> None:
    """Most of a short command is imports: going through what they made, again and again and once more at the end,
    would take a fifth of its time and find no garbage."""
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)


@click.group(cls=Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ropepatch")
def main() -> None:
    """Read, explain, rewrite and prove the RoPE of a checkpoint.

    REF is a .gguf, a .safetensors, a config.json, a params.json, a folder that holds one, or hf://org/repo on the Hub
    (hf://org/repo@revision/file). No command changes its input unless --in-place is given.

    \b
    Examples:
      ropepatch inspect model.gguf
      ropepatch plan model.gguf --length 131072
      ropepatch apply --method yarn --factor 4 model.gguf
      ropepatch diff model.gguf model-yarn-4x.gguf
      ropepatch revert model-yarn-4x.gguf
    """
