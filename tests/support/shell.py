"""One process that runs many commands, each with fresh streams: starting Python and the Hub's client costs a second.

What huggingface_hub reads when it is imported (endpoint, home, offline) is that of the process; the token is read at
each request and may differ between commands.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.command import ROOT, Ended


class Shell:
    """A running process; a command is answered before the next is taken."""

    def __init__(self, env: dict[str, str]) -> None:
        surroundings = {
            **{k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"},
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
            **env,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.shell"],
            cwd=ROOT,
            env=surroundings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, cwd: Path | None = None, **env: str) -> Ended:
        """Run a command, with some of the environment changed for it alone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"arguments": [*map(str, arguments)], "cwd": str(cwd or ROOT), "env": env}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        os.chdir(asked["cwd"])
        before = {name: os.environ.get(name) for name in asked["env"]}
        os.environ.update(asked["env"])
        answers.write(json.dumps(_one(asked["arguments"])) + "\n")
        answers.flush()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _one(arguments: list[str]) -> dict[str, object]:
    from ropepatch.cli import main
    from ropepatch.hub import mirror

    out, err, code = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8"), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        mirror.forget()
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return {"code": code, "out": texts[0], "err": texts[1]}


if __name__ == "__main__":
    _serve()
