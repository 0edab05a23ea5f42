"""The program ``ropepatch``, also as ``python -m ropepatch``."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

from ropepatch.cli import main

#: they hold threads, children and devices of their own, and end with Python
_THEIR_OWN_END = ("torch", "xllamacpp", "hf_xet", "ray", "matplotlib")


def start() -> NoReturn:
    """Run the command line and end the process.

    Taking apart what Python has loaded is a tenth of a short command. So where nothing but this thread is left, the
    functions that want to hear of the end are called, and the system takes the rest.
    """
    try:
        main()
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
        if threading.active_count() == 1 and isinstance(code, int) and not sys.modules.keys() & set(_THEIR_OWN_END):
            atexit._run_exitfuncs()
            _flushed_exit(code)
        raise
    sys.exit(0)


def _flushed_exit(code: int) -> None:
    """End at once; returns where a stream cannot be written, of which Python tells at its ordinary end."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


if __name__ == "__main__":
    start()
