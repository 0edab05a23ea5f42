"""Pieces of work in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

#: as the command line calls them
EXECUTORS = ("local", "ray")
#: the method of a worker that is called, and its arguments
Job = tuple[str, tuple[Any, ...]]


class Executor(Protocol):
    """Runs pieces of work on workers that are all made alike."""

    #: what runs them, for the record
    environment: dict[str, Any]

    def run(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """The results, in the order of the jobs."""

    def close(self) -> None:
        """Let the workers go."""


class LocalExecutor:
    """One worker, in this process; made when the first work comes.

    Args:
        make: makes the worker.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._worker = make, None
        self.environment: dict[str, Any] = {"executor": "local", "workers": 1}

    def run(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """Each when it is asked for."""
        if self._worker is None:
            self._worker = self._make()
        for method, arguments in jobs:
            yield getattr(self._worker, method)(*arguments)

    def close(self) -> None:
        """Let the worker go."""
        self._worker = None
