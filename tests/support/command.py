"""Running the program as a user does: in a process of its own, with nothing but its streams and exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def ropepatch(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Ended:
    """Run ``python -m ropepatch`` with ``arguments``."""
    surroundings = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    surroundings |= {"PYTHONPATH": str(ROOT), "COLUMNS": "100", **(env or {})}
    done = subprocess.run(
        [sys.executable, "-m", "ropepatch", *map(str, arguments)],
        cwd=cwd,
        env=surroundings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)
