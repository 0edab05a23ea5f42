"""Searches and audits on a real local Ray: the same results as one process, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ray")

import torch

import ropepatch
from ropepatch import schemas
from ropepatch.errors import InputError
from ropepatch.search import executor_ray
from ropepatch.search.executor_local import LocalExecutor
from tests.support.command import ROOT

FIXTURE = ROOT / "fixtures" / "tiny-retriever"
LETTERS = "bos=0,filler=1-40,key=41-72,value=73-136"
SMALL: dict[str, Any] = {"alphabet": LETTERS, "budget": 24, "samples": 2, "held_out": 1, "device": "cpu"}


class Worker:
    """Counts how often it was made, in a file, and what it is asked to do."""

    def __init__(self, path: str) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write("made\n")

    def add(self, a: int, b: int) -> int:
        """A sum."""
        return a + b

    def refuse(self, what: str) -> None:
        """An error of our own."""
        raise InputError(f"cannot {what}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of two CPUs on this machine."""
    import ray

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=1 << 27
    )
    yield ray
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, one killed in the middle: the candidates and their scores are those of one process."""
    made: list[Any] = []
    begin = executor_ray.RayExecutor.__init__

    def watched(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(executor_ray.RayExecutor, "__init__", watched)
    killed: list[int] = []

    def kill(line: str) -> None:
        if not killed and "8 of 24" in line:
            pid = made[0].pids()[0]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = ropepatch.search(FIXTURE, 2, **SMALL, short="ones")
    finally:
        torch.set_num_threads(threads)
    spread = ropepatch.search(FIXTURE, 2, **SMALL, short="ones", executor="ray", workers=2, progress=kill)

    assert len(killed) == 1
    assert spread.environment["workers"] == 2
    assert spread.environment["executor"].startswith("ray ")
    assert spread.results["long"].tried == alone.results["long"].tried
    assert spread.finals == alone.finals
    assert spread.held_out == alone.held_out


@pytest.mark.usefixtures("cluster")
def test_workers_are_made_once_and_errors_come_back(tmp_path: Any) -> None:
    """Many pieces of work make a worker once; results keep their order; an error is raised as it was."""
    import functools

    path = tmp_path / "made"
    runs = executor_ray.RayExecutor(functools.partial(Worker, str(path)), 1)
    try:
        jobs = [("add", (index, 1000)) for index in range(12)]
        assert list(runs.run(jobs)) == list(LocalExecutor(functools.partial(Worker, str(path))).run(jobs))
        assert path.read_text("utf-8").splitlines() == ["made"] * 2
        with pytest.raises(InputError, match="cannot do that"):
            list(runs.run([("refuse", ("do that",))]))
    finally:
        runs.close()


@pytest.mark.usefixtures("cluster")
def test_an_audit_on_ray_has_the_same_cells() -> None:
    """What two workers measure is what one process measures, in the same order, on every variant."""
    options: dict[str, Any] = {
        "variant": ("yarn:2", "self-extend:group=4,window=64"), "lengths": (256, 512), "samples": 2,
        "depths": (0.0, 0.5), "task": ("passkey",), "alphabet": LETTERS, "device": "cpu",
    }  # fmt: skip
    alone = ropepatch.audit(FIXTURE, **options)
    spread = ropepatch.audit(FIXTURE, **options, executor="ray", workers=2)

    assert len(spread.cells) == 3 * 2 * 2
    for one, other in zip(alone.cells, spread.cells, strict=True):
        assert {k: v for k, v in one.items() if k not in ("seconds", "log_probability")} == {
            k: v for k, v in other.items() if k not in ("seconds", "log_probability")
        }
        assert one["log_probability"] == pytest.approx(other["log_probability"], abs=1e-4)
    assert spread.environment["workers"] == 2
    schemas.validator("audit").validate(json.loads(json.dumps(spread.to_json())))
