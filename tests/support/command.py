"""Running the program as a user does: in a process of its own, with nothing but its streams and exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as JSON; fails when anything else is in it."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Standard error as one JSON object."""
        return json.loads(self.err)


def inside(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Ended:
    """The same in this process: where the streams are not the point, it saves the start of another one.

    Files, exit code and what is printed are those of the program; what only a process has (signals, a terminal, what it
    imports, an encoding) needs `ropepatch`.
    """
    from ropepatch.cli import main

    surroundings = {**_surroundings(), **(env or {})}
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    here = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - surroundings.keys():
            patch.delenv(name)
        for name, value in surroundings.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        patch.setattr(sys, "stdin", io.StringIO())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([str(argument) for argument in arguments])
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    assert Path.cwd() == here
    return Ended(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def ropepatch(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Ended:
    """Run ``python -m ropepatch`` with ``arguments``."""
    done = subprocess.run(
        [sys.executable, "-m", "ropepatch", *map(str, arguments)],
        cwd=cwd,
        env={**_surroundings(), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


#: what would change an output, or keep a command from asking the test Hub
_UNSET = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "HF_HUB_OFFLINE")


def _surroundings() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in _UNSET}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
