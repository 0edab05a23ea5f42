"""``ropepatch.audit``: every variant, task and length, in an order that has something to show early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ropepatch import checkpoint
from ropepatch.audit import tasks, variants
from ropepatch.audit.alphabets import alphabet_of
from ropepatch.audit.cells import Work, measure
from ropepatch.audit.engine import Engine, opened
from ropepatch.audit.journal import Journal
from ropepatch.audit.result import Audit
from ropepatch.audit.variants import Variant
from ropepatch.audit.worker import Worker
from ropepatch.checkpoint import Checkpoint
from ropepatch.errors import UsageError
from ropepatch.search.executor_local import EXECUTORS, Executor, Job
from ropepatch.verify.promise import trained_context

DEPTHS = (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)
_MOST_LENGTH = 1 << 24
#: changes when the same seed gives other texts
_TEXTS = 2


def auto_lengths(trained: int, chosen: Sequence[Variant]) -> tuple[int, ...]:
    """Half the trained context, and doublings up to the longest that any variant declares."""
    longest = max([trained, *(variant.profile.declared_context or trained for variant in chosen)])
    found, length = [], max(trained // 2, 1)
    while length <= longest:
        found.append(length)
        length *= 2
    return tuple(found)


def audit(
    ref: str | Path | Checkpoint,
    *,
    base: str | Path | Checkpoint | None = None,
    methods: Sequence[str] = (),
    factor: float | Sequence[float] | None = None,
    variant: Sequence[str] = (),
    lengths: Sequence[int] | None = None,
    depths: Sequence[float] = DEPTHS,
    samples: int = 32,
    task: Sequence[str] = ("passkey", "multikey", "absent"),
    alphabet: str | None = None,
    seed: int = 1,
    engine: str = "torch",
    url: Sequence[str] = (),
    served_model: str | None = None,
    api_key: str | None = None,
    concurrency: int = 4,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    executor: str = "local",
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Measure what a checkpoint finds, beside its base and with each method, length by length and depth by depth.

    Args:
        ref: the checkpoint.
        base: what it is an extension of; default itself without its scaling.
        methods: methods to try on the base, each by each factor.
        factor: the extension, or several.
        variant: more to compare: ``yarn:4``, ``yarn:4:beta_fast=16``, or another checkpoint.
        lengths: tokens of the texts; default half the trained context and doublings up to the longest declared one.
        depths: where the block stands, 0 at the beginning and 1 at the query.
        samples: texts in each cell.
        task: names from ``ropepatch.audit.tasks.TASKS``.
        alphabet: token ids to use, ``bos=0,filler=1-40,key=41-72,value=73-136``; default drawn from the vocabulary.
        seed: of the texts; all variants get the same ones.
        engine: a name from ``ropepatch.audit.engine.NAMES``.
        url: for ``http``: servers of what is compared, ``URL`` or ``NAME=URL``; ``none`` and ``base`` are baselines.
        served_model: the model's name on the servers; default the first that each lists.
        api_key: sent to the servers.
        concurrency: requests that a server gets at once.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        limit: bytes that may be taken; default what is free. Cells that do not fit are reported as such.
        journal: a file that each cell is appended to.
        resume: go on with that file.
        executor: ``local``, or ``ray``: the cluster that ``RAY_ADDRESS`` names, or one on this machine.
        workers: for ``ray``: how many; default one a GPU, or one a CPU.
        progress: called with a line before each length and variant.

    Returns:
        The result; where it was interrupted from the keyboard, what there was until then.

    Raises:
        UsageError: lengths, depths, tasks, variants or the alphabet cannot be used.
        InputError: the checkpoint cannot be run.
    """
    model = _opened(ref, weights=engine != "http")
    factors = [factor] if isinstance(factor, (int, float)) else list(factor or ())
    chosen = variants.resolve(model, None if base is None else _opened(base), methods, factors, variant, url)
    trained = trained_context(chosen[0].profile)
    if trained is None:
        raise UsageError("the checkpoint does not say its trained context")
    tested = _lengths(lengths, trained, chosen)
    _check(depths, samples, task)
    if executor not in EXECUTORS or (executor != "local" and url):
        raise UsageError(f"the executor is one of {', '.join(EXECUTORS)}, and local for servers")
    own: dict[str, Any] = {"device": device, "dtype": dtype, "longest": max(tested)}
    runs = opened(
        engine, chosen, **own, served_model=served_model, api_key=api_key, concurrency=concurrency
    )  # fmt: skip
    try:
        letters = alphabet_of(chosen[0].checkpoint, runs.vocabulary, alphabet, words=runs.needs_words)
        environment = {**runs.environment, "alphabet": letters.to_json()}
        result = Audit(
            model.ref, trained, samples, seed, tested, tuple(depths), tuple(task),
            tuple(item.to_json() for item in chosen), environment,
        )  # fmt: skip
        plan = {"ref": Path(model.ref).name, "samples": samples, "seed": seed, "engine": engine, "dtype": dtype,
                "alphabet": letters.to_json(), "depths": list(depths), "texts": _TEXTS,
                "variants": {item.name: item.profile.to_json()["groups"] for item in chosen}}  # fmt: skip
        book = Journal(Path(journal) if journal else None, plan, resume)
        work = _Run(runs, chosen, result, book, letters, limit, progress)
        if executor == "local":
            work.all()
        else:
            there = None if base is None else _opened(base).ref
            make = partial(Worker, model.ref, there, (methods, factors, variant), engine, own)
            with _on_ray(make, workers) as spread:
                result.environment |= spread.environment
                work.all_on(spread)
    finally:
        runs.close()
    return result


@contextmanager
def _on_ray(make: Callable[[], Worker], workers: int | None) -> Iterator[Executor]:
    from ropepatch.search.executor_ray import RayExecutor

    made = RayExecutor(make, workers)
    try:
        yield made
    finally:
        made.close()


@dataclass
class _Run:
    engine: Engine
    chosen: Sequence[Variant]
    result: Audit
    journal: Journal
    alphabet: tasks.Alphabet
    limit: int | None
    progress: Callable[[str], None] | None

    def all(self) -> None:
        """Shorter lengths first, and all variants of a length before the next, so that an early end shows most."""
        try:
            for length in self.result.lengths:
                for variant in self.chosen:
                    for task in self.result.tasks:
                        self.cells(variant, task, length)
        except KeyboardInterrupt:
            self.result.interrupted = True

    def all_on(self, executor: Executor) -> None:
        """The same work in the same order, handed out to workers that each have the engine."""
        try:
            asked = [
                (variant, self._missing(variant.name, task, length), task, length)
                for length in self.result.lengths
                for variant in self.chosen
                for task in self.result.tasks
            ]
            asked = [item for item in asked if item[1] is not None]
            jobs: list[Job] = [
                ("cells", (self._work(task, length), variant.name, known, self.limit))
                for variant, known, task, length in asked
            ]
            for (variant, _, task, length), cells in zip(asked, executor.run(jobs), strict=True):
                self._tell(variant, task, length)
                for cell in cells:
                    self.result.cells.append(cell)  # first: an interrupt may come while the journal is written
                    self.journal.add(cell)
        except KeyboardInterrupt:
            self.result.interrupted = True

    def cells(self, variant: Variant, task: str, length: int) -> None:
        """Measure the depths of one length that the journal does not have."""
        known = self._missing(variant.name, task, length)
        if known is None:
            return
        self._tell(variant, task, length)
        for cell in measure(self.engine, variant, self._work(task, length), limit=self.limit, skip=known):
            self.result.cells.append(cell)
            self.journal.add(cell)

    def _tell(self, variant: Variant, task: str, length: int) -> None:
        """Which row of the maps is measured now, and how many there are."""
        if self.progress is None:
            return
        lengths, names, kinds = self.result.lengths, [item.name for item in self.chosen], self.result.tasks
        rows = len(names) * len(kinds)
        now = lengths.index(length) * rows + names.index(variant.name) * len(kinds) + kinds.index(task) + 1
        self.progress(f"{now} of {len(lengths) * rows}: {length:,} tokens, {variant.name}, {task}")

    def _work(self, task: str, length: int) -> Work:
        result = self.result
        return Work(task, length, result.depths, result.samples, result.seed, self.alphabet)

    def _missing(self, variant: str, task: str, length: int) -> tuple[float, ...] | None:
        """The depths that the journal has, which are taken from there; None where it has all."""
        result = self.result
        known = {
            depth: cell
            for depth in result.depths
            if (cell := self.journal.cells.get((variant, task, length, depth))) is not None
        }
        result.cells += known.values()
        return None if len(known) == len(result.depths) else tuple(known)


def _opened(ref: str | Path | Checkpoint, *, weights: bool = True) -> Checkpoint:
    if isinstance(ref, Checkpoint):
        return ref
    return checkpoint.open_whole(ref) if weights else checkpoint.open(ref)


def _lengths(given: Sequence[int] | None, trained: int, chosen: Sequence[Variant]) -> tuple[int, ...]:
    found = tuple(sorted(set(given))) if given else auto_lengths(trained, chosen)
    if any(not 4 * tasks.BLOCK <= length <= _MOST_LENGTH for length in found):
        raise UsageError(f"lengths run from {4 * tasks.BLOCK} to {_MOST_LENGTH} tokens")
    return found if trained in found else tuple(sorted((*found, trained)))


def _check(depths: Sequence[float], samples: int, task: Sequence[str]) -> None:
    if not depths or any(not 0 <= depth <= 1 for depth in depths) or len(set(depths)) != len(depths):
        raise UsageError("depths are different numbers from 0 to 1")
    if samples < 1:
        raise UsageError("samples must be at least 1")
    for name in task:
        if name not in tasks.TASKS:
            raise UsageError(f"there is no task {name!r}; there are: {', '.join(tasks.TASKS)}")
