"""Running commands on files that may be hostile: what each said, how it ended, and what it took.

All of them run in forks of one child process, which this file is: a fork starts where the program is imported already.
A command that goes wild is stopped by the system, long before it takes the machine with it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY, SECONDS = 4 << 30, 20


@dataclass(frozen=True)
class Outcome:
    """Exit code (negative: the signal), output, seconds of processor time and the largest resident set in MiB."""

    code: int
    out: str
    err: str
    seconds: float
    mib: float


def run(commands: Sequence[Sequence[str]]) -> list[Outcome]:
    """Run each command line of ropepatch."""
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    return [Outcome(*row) for row in json.loads(done.stdout)]


def _one(arguments: Sequence[str]) -> tuple[int, str, str, float, float]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            os._exit(_call(arguments))
        _, status, usage = os.wait4(child, 0)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    seconds = usage.ru_utime + usage.ru_stime
    return os.waitstatus_to_exitcode(status), texts[0], texts[1], seconds, usage.ru_maxrss / 1024


def _call(arguments: Sequence[str]) -> int:
    from ropepatch import cli

    code = 1
    try:
        code = int(cli.main(list(arguments)) or 0)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import numpy  # noqa: F401

    import ropepatch.checkpoint
    import ropepatch.cli.apply
    import ropepatch.cli.inspect  # noqa: F401

    print(json.dumps([_one(command) for command in json.load(sys.stdin)]))
