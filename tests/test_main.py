"""The end of the process: at once, with nothing lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.command import ROOT

MODEL = "fixtures/tiny-retriever.gguf"
#: set up before the program starts, in its process
PREPARED = {
    "a function that hears of the end": "import atexit; atexit.register(print, 'heard')",
    "a thread that is left": "import threading; threading.Timer(0.3, print, ['heard']).start()",
    "a library with an end of its own": (
        "import sys, types, atexit; sys.modules['torch'] = types.ModuleType('torch'); atexit.register(print, 'heard')"
    ),
}


def run(before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, after something else in the same process."""
    program = (
        f"{before}\nimport sys; from ropepatch.__main__ import start; sys.argv = {['ropepatch', *arguments]}; start()"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("before", PREPARED)
def test_what_wants_to_hear_of_the_end_hears(before: str) -> None:
    """Output is whole and the code is right; then comes what was registered, or still runs."""
    plain = run("", "inspect", MODEL)
    ended = run(PREPARED[before], "inspect", MODEL)

    assert plain.returncode == ended.returncode == 0
    assert ended.stdout == plain.stdout + "heard\n"
    assert plain.stdout.rstrip()


@pytest.mark.parametrize(("arguments", "code"), [(("inspect", "nothing"), 3), (("inspect",), 2), (("--version",), 0)])
def test_exit_codes_are_kept(arguments: tuple[str, ...], code: int) -> None:
    """The code is the command's, also of an error and of what click answers itself."""
    assert run("", *arguments).returncode == code


def test_python_is_not_taken_apart() -> None:
    """What Python would do last, after everything that was registered, does not happen."""
    marked = "import builtins\nclass Last:\n    def __del__(self): print('last')\nbuiltins.last = Last()"
    assert "last" in subprocess.run([sys.executable, "-c", marked], capture_output=True, text=True, check=True).stdout
    assert "last" not in run(marked, "--version").stdout
