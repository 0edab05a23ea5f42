"""One task of one variant at one length: texts in, cells out. Nothing here knows of other cells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch.audit import statistics, tasks
from ropepatch.audit.engine import Answers, Engine, OutOfMemory, Unanswered, rows_that_fit
from ropepatch.audit.variants import Variant

#: what can come of a cell
STATUSES = ("measured", "does not fit", "out of memory", "failed")
Cell = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What is asked, of whatever variant.

    Attributes:
        task: a name from ``ropepatch.audit.tasks.TASKS``.
        length: tokens of a text.
        depths: where the blocks stand.
        samples: texts in a cell.
        seed: of the texts; equal work has equal texts.
        alphabet: token ids.
    """

    task: str
    length: int
    depths: tuple[float, ...]
    samples: int
    seed: int
    alphabet: tasks.Alphabet


def measure(
    engine: Engine, variant: Variant, work: Work, *, limit: int | None = None, skip: Sequence[float] = ()
) -> Iterator[Cell]:
    """The cells of some work on one variant, each as the JSON that ``schemas/audit.schema.json`` describes.

    Args:
        engine: what runs it.
        variant: what is run.
        work: what is asked.
        limit: bytes that may be taken; default what is free.
        skip: depths that are known already.
    """
    estimate = engine.estimate(variant, work.length, 1)
    common = {
        "variant": variant.name, "task": work.task, "length": work.length,
        "estimated_bytes": estimate["total"] if estimate else None,
    }  # fmt: skip
    rows = rows_that_fit(engine, variant, work.length, work.samples, limit)
    for texts in tasks.texts(work.alphabet, work.task, work.length, work.depths, work.samples, work.seed):
        texts = texts.only([depth for depth in texts.blocks if depth not in skip])
        if not texts.blocks:
            continue
        if not rows:
            yield from _without(common, texts, "does not fit", f"needs about {common['estimated_bytes']} bytes")
            continue
        started = time.monotonic()
        try:
            found = engine.answers(variant, texts, rows)
        except OutOfMemory as error:
            yield from _without(common, texts, "out of memory", str(error))
        except Unanswered as error:
            yield from _without(common, texts, "failed", str(error))
        else:
            seconds = (time.monotonic() - started) / len(texts.blocks)
            for depth, answers in found.items():
                yield {**common, "depth": depth, **_measured(answers), "seconds": round(seconds, 4)}


def _measured(answers: Answers) -> Cell:
    k, n = sum(answers.hits), len(answers.hits)
    numbers = answers.log_probabilities
    return {
        "status": "measured", "k": k, "n": n, "interval": list(statistics.clopper_pearson(k, n)),
        "log_probability": None if numbers is None else min(sum(numbers) / n, 0.0),
        "hits": [int(hit) for hit in answers.hits], "prompt_tokens": answers.prompt_tokens,
    }  # fmt: skip


def _without(common: Cell, texts: tasks.Texts, status: str, why: str) -> Iterator[Cell]:
    for depth in texts.blocks:
        yield {**common, "depth": depth, "status": status, "why": why}
