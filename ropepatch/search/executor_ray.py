"""Pieces of work on a Ray cluster: a worker is an actor that makes its model once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ropepatch.errors import RopepatchError, UsageError
from ropepatch.search.executor_local import Job
from ropepatch.verify import engines

#: how often a worker that is lost is started again, and what it was doing done again
RETRIES = 3


class RayExecutor:
    """Workers on the cluster that ``RAY_ADDRESS`` names, or on one that is started here.

    Each has one GPU where the cluster has any, else one CPU. Ray itself starts a lost worker again and repeats what it
    was doing; results come back in order.

    Args:
        make: makes the worker; it is called once on each.
        workers: how many; default one a GPU, without GPUs one a CPU.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, make: Callable[[], Any], workers: int | None = None) -> None:
        with engines.needs("ray", "ray"):
            import ray
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            _connect(ray, workers)
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        count = workers or gpus or max(1, int(there.get("CPU", 1)))
        actor = ray.remote(max_restarts=RETRIES, max_task_retries=RETRIES, num_cpus=1, num_gpus=1 if gpus else 0)(
            _Worker
        )
        self.actors = [actor.remote(make, not gpus) for _ in range(count)]
        self.environment: dict[str, Any] = {"executor": f"ray {ray.__version__}", "workers": count}

    def run(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """The results, in the order of the jobs.

        Raises:
            RopepatchError: a worker was lost too often; or what the work itself raised.
        """
        from ray.util import ActorPool

        shared: dict[int, Any] = {}

        def sent(actor: Any, job: Job) -> Any:
            method, arguments = job
            # A job's first argument is the same for many: it goes to the store once.
            head = arguments[0]
            if id(head) not in shared:
                shared[id(head)] = head, self._ray.put(head)
            return actor.call.remote(method, shared[id(head)][1], *arguments[1:])

        try:
            yield from ActorPool(self.actors).map(sent, jobs)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, RopepatchError) else error from None
        except self._ray.exceptions.RayActorError as error:
            raise RopepatchError(
                f"a Ray worker was lost {RETRIES + 1} times: {' '.join(str(error).split())[:200]}",
                hint="what was measured until then is in the journal; --resume goes on",
            ) from None

    def pids(self) -> list[int]:
        """The workers' processes, each on its own machine."""
        found: list[int] = self._ray.get([actor.pid.remote() for actor in self.actors])
        return found

    def close(self) -> None:
        """Let the workers go, and the cluster where it was started here."""
        for actor in self.actors:
            self._ray.kill(actor)
        self.actors = []
        if self._started:
            self._ray.shutdown()


class _Worker:
    """Lives on the cluster."""

    def __init__(self, make: Callable[[], Any], one_thread: bool) -> None:
        if one_thread:
            import torch

            torch.set_num_threads(1)
        self.worker = make()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.worker, method)(*arguments)

    def pid(self) -> int:
        return os.getpid()


def _connect(ray: Any, workers: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if address:
        options = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    elif workers:
        options["num_cpus"] = max(workers, 1)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster can be used: {' '.join(str(error).split())[:200]}") from None
