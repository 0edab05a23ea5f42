"""Killing a process, or failing its system calls, at any step that changes the disk.

The work runs in a fork, whose functions of the `os` module are wrapped: at the wanted step the process kills itself
(before the call, or half way through what it writes), or the call fails.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from ropepatch.storage import kernel

#: the calls that change a disk, and where they are looked up
STEPS: tuple[tuple[Any, str], ...] = (
    (os, "pwrite"),
    (os, "write"),
    (os, "ftruncate"),
    (os, "fsync"),
    (os, "replace"),
    (os, "rename"),
    (os, "link"),
    (os, "unlink"),
    (os, "mkdir"),
    (os, "copy_file_range"),
    (kernel, "_fallocate"),
)
KILLED = -signal.SIGKILL


def wrap(step: int, fault: Callable[[str, tuple[Any, ...]], None]) -> list[str]:
    """Call ``fault`` before the given step (from 0) of this process; returns the list of steps that will grow."""
    seen: list[str] = []

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) == step + 1:
                fault(name, arguments)
            return original(*arguments, **options)

        return call

    for module, name in STEPS:
        setattr(module, name, wrapped(name, getattr(module, name)))
    return seen


def killed_at(step: int, work: Callable[[], object], *, torn: bool = False) -> bool:
    """Do ``work`` in a process that is killed with signal 9 before a step; False when it has fewer steps.

    With ``torn`` a write gets half of its bytes to the disk before.
    """
    write, pwrite = os.write, os.pwrite

    def die(name: str, arguments: tuple[Any, ...]) -> None:
        if torn and name in ("write", "pwrite"):
            half = bytes(arguments[1])[: len(arguments[1]) // 2]
            write(arguments[0], half) if name == "write" else pwrite(arguments[0], half, arguments[2])
        os.kill(os.getpid(), signal.SIGKILL)

    return in_fork(lambda: (wrap(step, die), work())) == KILLED


def in_fork(work: Callable[[], object]) -> int:
    """The exit status of a fork that does ``work``: 0, 1 for an exception, or a negative signal number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_points(work: Callable[[], object], prepare: Callable[[], object], *, torn: bool = False) -> Iterator[int]:
    """Every step at which ``work`` was killed, one after the other, each time after ``prepare``.

    At the end the work is done once without being killed; that step is yielded, too.
    """
    step = 0
    while True:
        prepare()
        killed = killed_at(step, work, torn=torn)
        yield step
        if not killed:
            return
        step += 1
