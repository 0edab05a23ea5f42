"""``ropepatch.search``: factors for a longer context, found by trying."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.errors import UsageError, WouldOverwrite
from ropepatch.search import evolution, heldout
from ropepatch.search import objective as objectives
from ropepatch.search.executor_local import EXECUTORS, Executor, Job, LocalExecutor
from ropepatch.search.journal import Journal
from ropepatch.search.prepare import Plan, prepare
from ropepatch.search.result import Search, Stage
from ropepatch.search.space import Candidate, to_json

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

Progress = Callable[[str], None]


def search(
    ref: str | Path | Checkpoint,
    factor: float | None = None,
    *,
    length: int | None = None,
    original: int | None = None,
    group: str | None = None,
    objective: str = "needle",
    text: str | Path | None = None,
    tokenizer: str | Path | None = None,
    space: str = "longrope",
    init: Sequence[str] | None = None,
    short: str = "auto",
    attention: str | float = "longrope",
    budget: int = 200,
    samples: int = 16,
    held_out: int = 16,
    alphabet: str | None = None,
    seed: int = 1,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
    executor: str = "local",
    workers: int | None = None,
    output: str | Path | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Search:
    """Search per-pair factors for LongRoPE's two lists.

    Args:
        ref: the checkpoint; a scaled one is searched as it was before.
        factor: the extension; or give ``length``.
        length: the new context in tokens, at which the long list is searched.
        original: the trained context, where the file does not say it.
        group: the rope group; default the one that a longer context reaches.
        objective: ``needle`` (log-probability of the tokens that were asked for) or ``ppl`` (of a text's tokens).
        text: for ``ppl``: a text, or token ids as ``.json`` or ``.npy``.
        tokenizer: for a text: a ``tokenizer.json`` or its folder; default the checkpoint's.
        space: ``longrope`` or ``longrope2``.
        init: closed forms to start from; default ``linear``, ``ntk``, ``yarn`` and ``mrrope-pro``.
        short: the list for inputs up to the trained context: ``search``, ``ones``, ``same`` as the long one, or
            ``auto``: as the space's paper has it (longrope: search, longrope2: ones).
        attention: the factor on cos and sin: ``longrope`` (√(1 + ln s / ln T)), ``yarn`` (0.1 ln s + 1) or a number.
        budget: candidates for each list that is searched.
        samples: texts that a candidate is scored on.
        held_out: needles at each depth that the result is measured on, with each variant.
        alphabet: token ids of the needles, ``bos=0,filler=1-40,key=41-72,value=73-136``.
        seed: of everything that is random.
        settings: of the evolution, see ``ropepatch.search.settings``.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        limit: bytes that a worker may take; default what is free.
        executor: ``local`` or ``ray``.
        workers: for ``ray``: how many; default one a GPU, or one a CPU.
        output: write the result there, as JSON that ``apply --method longrope --factors`` reads.
        journal: a file that each candidate is appended to.
        resume: go on with that file.
        dry_run: only say what would be done.
        progress: called with a line after every few candidates.

    Returns:
        The result; where it was interrupted from the keyboard, what there was until then, and nothing is written.

    Raises:
        UsageError: the arguments cannot be used together.
        InputError: the checkpoint or the text cannot be used.
        WouldOverwrite: the output or the journal is there already.
    """
    if executor not in EXECUTORS:
        raise UsageError(f"there is no executor {executor!r}; there are: {', '.join(EXECUTORS)}")
    target = Path(output) if output else None
    if target and target.exists() and not dry_run:
        raise WouldOverwrite("exists already", where=str(target), hint="give another -o, or remove it")
    plan = prepare(
        ref, factor, length=length, original=original, group=group, objective=objective, text=text,
        tokenizer=tokenizer, space=space, init=init, short=short, attention=attention, budget=budget,
        samples=samples, held_out=held_out, alphabet=alphabet, seed=seed, settings=settings or {}, device=device,
        dtype=dtype,
    )  # fmt: skip
    if dry_run:
        return plan.search
    book = Journal(Path(journal) if journal else None, plan.decides, resume)
    with _executor(executor, workers, plan, limit) as runs:
        plan.search.environment |= runs.environment
        _Run(plan, book, runs, progress or (lambda line: None)).all()
    if target and plan.search.complete:
        from ropepatch.storage.files import write_bytes

        write_bytes(target, (json.dumps(plan.search.to_json(), indent=2) + "\n").encode())
    return plan.search


@contextmanager
def _executor(name: str, workers: int | None, plan: Plan, limit: int | None) -> Iterator[Executor]:
    environment = plan.search.environment
    device = environment["device"] if name == "local" else plan.wanted_device
    make = functools.partial(objectives.Evaluator, plan.ref, device, environment["dtype"], limit)
    made: Executor
    if name == "ray":
        from ropepatch.search.executor_ray import RayExecutor

        made = RayExecutor(make, workers)
    else:
        made = LocalExecutor(make)
    try:
        yield made
    finally:
        made.close()


@dataclass
class _Run:
    plan: Plan
    journal: Journal
    executor: Executor
    progress: Progress

    def all(self) -> None:
        """Both lists, then what they come to on texts that nothing was chosen by."""
        found = self.plan.search
        try:
            for stage in found.stages:
                self._stage(stage)
            best = {stage.name: found.best(stage.name) for stage in found.stages}
            assert best["long"] is not None
            found.long_factor = best["long"][0].factors
            ones = (1.0,) * len(found.long_factor)
            short = best.get("short")
            found.short_factor = short[0].factors if short else found.long_factor if found.short == "same" else ones
            self._held_out()
        except KeyboardInterrupt:
            found.interrupted = True

    def _stage(self, stage: Stage) -> None:
        plan = self.plan
        evolution.evolve(
            plan.spaces[stage.name], plan.starts[stage.name], plan.settings[stage.name], stage.budget,
            (plan.search.seed, ("long", "short").index(stage.name)),
            lambda candidates, generation: self._scores(stage, candidates, generation),
            plan.search.results.setdefault(stage.name, evolution.Result()),
        )  # fmt: skip
        self._final(stage)

    def _final(self, stage: Stage) -> None:
        """The best ones on other texts: of many candidates, the best by few texts is partly the luckiest."""
        result, plan = self.plan.search.results[stage.name], self.plan
        ranked = sorted(result.tried, key=lambda pair: -pair[1])
        chosen = [candidate for candidate, _ in ranked[: plan.settings[stage.name].finalists]]
        starts = [candidate for candidate, _ in ranked if candidate in plan.starts[stage.name].values()]
        chosen += [start for start in starts[:1] if start not in chosen]
        if len(chosen) > 1:
            self.progress(f"{stage.name} list: the final of {len(chosen)}")
            scores = self._asked(f"{stage.name}, final", plan.finals[stage.name], chosen, result.generations)
            plan.search.finals[stage.name] = [pair for part in scores for pair in part]

    def _scores(self, stage: Stage, candidates: Sequence[Candidate], generation: int) -> list[float]:
        found: list[float] = []
        for part in self._asked(stage.name, self.plan.tasks[stage.name], candidates, generation):
            found += [score for _, score in part]
            self._tell(stage, found)
        return found

    def _asked(
        self, name: str, task: objectives.Task, candidates: Sequence[Candidate], generation: int
    ) -> Iterator[list[tuple[Candidate, float]]]:
        """Scores from the journal, or from the workers in batches that are cut alike whoever runs them."""
        size = objectives.BATCH
        batches = [candidates[at : at + size] for at in range(0, len(candidates), size)]
        known = [[self.journal.known(name, candidate.factors) for candidate in batch] for batch in batches]
        jobs: list[Job] = [
            ("scores", (task, [candidate.factors for candidate in batch]))
            for batch, scores in zip(batches, known, strict=True)
            if None in scores
        ]
        results = self.executor.run(jobs)
        for batch, scores in zip(batches, known, strict=True):
            if None in scores:
                pairs = list(zip(batch, next(results), strict=True))
                for candidate, score in pairs:
                    self.journal.add(name, {"generation": generation, **to_json(candidate), "score": score})
            else:
                pairs = [
                    (candidate, score) for candidate, score in zip(batch, scores, strict=True) if score is not None
                ]
            yield pairs

    def _tell(self, stage: Stage, now: Sequence[float]) -> None:
        tried = [score for _, score in self.plan.search.results[stage.name].tried]
        best = max((*tried, *now))
        told = f"perplexity {math.exp(min(-best, 700)):.4g}" if self.plan.search.objective == "ppl" else f"{best:.4g}"
        self.progress(f"{stage.name} list: {len(tried) + len(now)} of {stage.budget} candidates, best {told}")

    def _held_out(self) -> None:
        plan, found = self.plan, self.plan.search
        profiles = heldout.variants(found, plan.base, plan.compared)
        asked = [(name, work) for work in plan.held_out for name in profiles]
        jobs: list[Job] = [("held_out", (profiles[name], work)) for name, work in asked]
        cells = []
        for (name, work), cell in zip(asked, self.executor.run(jobs), strict=True):
            self.progress(f"held out: {work.length:,} tokens, {name}")
            cells.append({"variant": name, "length": work.length, **cell})
        found.held_out = {"task": plan.held_out_task, "seed": plan.held_out[0].seed, "cells": cells}
