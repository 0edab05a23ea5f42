"""``ropepatch.audit``: cells by variant, task, length and depth, and what follows from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.audit import statistics, tasks
from ropepatch.audit.journal import Journal
from ropepatch.errors import UsageError
from ropepatch.verify.promise import trained_context, unscaled

if TYPE_CHECKING:
    from ropepatch.audit.engine import Model
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.profile import RopeProfile

SCHEMA = "ropepatch.audit/1"
DEPTHS = (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)
UNPATCHED = "none"
CAVEAT = (
    "This is lexical retrieval of tokens: necessary for using a context, not sufficient. It says nothing about "
    "reasoning or natural language."
)
_MOST_LENGTH = 1 << 24


@dataclass(frozen=True)
class Variant:
    """A way to rotate one model's weights."""

    name: str
    profile: RopeProfile


@dataclass
class Audit:
    """The result; :meth:`to_json` is what ``schemas/audit.schema.json`` describes."""

    ref: str
    trained: int
    samples: int
    seed: int
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    environment: dict[str, Any]
    cells: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False

    def score(self, variant: str, task: str, length: int) -> float | None:
        """The share of right answers over all depths; None where a depth was not measured."""
        found = self._measured(variant, task, length)
        if len(found) < len(self.depths):
            return None
        return float(sum(cell["k"] for cell in found) / sum(cell["n"] for cell in found))

    def _measured(self, variant: str, task: str, length: int) -> list[dict[str, Any]]:
        return [
            cell
            for cell in self.cells
            if (cell["variant"], cell["task"], cell["length"], cell["status"]) == (variant, task, length, "measured")
        ]

    def summary(self, variant: str, task: str) -> dict[str, Any]:
        """Scores by length, effective lengths, the weakest depth, and the comparison with the unpatched model."""
        scores = {length: score for length in self.lengths if (score := self.score(variant, task, length)) is not None}
        own = scores.get(self.trained)
        measurable, why = self._gate(task)
        depths = {length: self._depths(variant, task, length) for length in scores}
        usable = measurable and own is not None and own >= statistics.GATE
        relative = statistics.effective_length(scores, statistics.RELATIVE * own) if usable and own else None
        return {
            "variant": variant,
            "task": task,
            "scores": {str(length): score for length, score in scores.items()},
            "weakest_depth": {str(length): min(values) for length, values in depths.items() if values},
            "depth_gap": {str(length): max(values) - min(values) for length, values in depths.items() if values},
            "measurable": measurable,
            "why": why,
            "effective_length_relative": relative,
            "effective_length_ruler": statistics.effective_length(scores, statistics.RULER) if measurable else None,
            "paired_short": self._paired(variant, task),
        }

    def _gate(self, task: str) -> tuple[bool, str | None]:
        """Whether the unpatched model can do the task at all within its trained context."""
        if task == "absent":
            return False, "a control: nothing is there to be found"
        score = self.score(UNPATCHED, task, self.trained)
        if score is None:
            return False, f"the unpatched model was not measured at {self.trained} tokens"
        if score < statistics.GATE:
            return False, f"the unpatched model finds {score:.0%} at {self.trained} tokens: it cannot do the task"
        return True, None

    def _depths(self, variant: str, task: str, length: int) -> list[float]:
        return [cell["k"] / cell["n"] for cell in self._measured(variant, task, length)]

    def _paired(self, variant: str, task: str) -> dict[str, float] | None:
        """The same texts at the trained length, against the unpatched model."""
        if variant == UNPATCHED:
            return None
        pairs: list[tuple[bool, bool]] = []
        mine = {cell["depth"]: cell["hits"] for cell in self._measured(variant, task, self.trained)}
        for cell in self._measured(UNPATCHED, task, self.trained):
            if cell["depth"] in mine:
                pairs += zip(map(bool, cell["hits"]), map(bool, mine[cell["depth"]]), strict=True)
        if len(pairs) < 2:
            return None
        mean, error = statistics.paired([a for a, _ in pairs], [b for _, b in pairs])
        return {"difference": mean, "plus_minus": error, "n": len(pairs)}

    def to_json(self) -> dict[str, Any]:
        """The whole result."""
        return {
            "schema": SCHEMA,
            "ref": self.ref,
            "trained_context": self.trained,
            "samples": self.samples,
            "seed": self.seed,
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "tasks": list(self.tasks),
            "variants": list(self.variants),
            "environment": dict(self.environment),
            "cells": self.cells,
            "summaries": [self.summary(variant, task) for variant in self.variants for task in self.tasks],
            "interrupted": self.interrupted,
            "caveat": CAVEAT,
        }


def variants(model: Checkpoint, methods: Sequence[str], factor: float | None) -> list[Variant]:
    """The unpatched model, the checkpoint as it is where it is scaled, and each method, none written to disk."""
    plain = unscaled(model.profile)
    found = [Variant(UNPATCHED, plain)]
    if any(group.scaled for group in model.profile.groups.values()):
        found.append(Variant("as it is", model.profile))
    for name in methods:
        if name == UNPATCHED:
            continue
        if factor is None:
            raise UsageError("--method needs --factor")
        profile = model.patch(name, factor, existing="replace" if model.profile.scaled else "error").after
        found.append(Variant(f"{name} {factor:g}x", profile))
    return found


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
    methods: Sequence[str] = (),
    factor: float | None = None,
    lengths: Sequence[int] | None = None,
    depths: Sequence[float] = DEPTHS,
    samples: int = 32,
    task: Sequence[str] = ("passkey",),
    alphabet: str | None = None,
    seed: int = 1,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Measure what a checkpoint finds, unpatched and with each method, length by length and depth by depth.

    Args:
        ref: the checkpoint.
        methods: methods to try on the fly, each by ``factor``.
        factor: the extension.
        lengths: tokens of the texts; default half the trained context and doublings up to the declared one.
        depths: where the block stands, 0 at the beginning and 1 at the query.
        samples: texts in each cell.
        task: names from ``ropepatch.audit.tasks.TASKS``.
        alphabet: token ids to use, ``bos=0,filler=1-40,key=41-72,value=73-136``; default drawn from the vocabulary.
        seed: of the texts; all variants get the same ones.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        limit: bytes that may be taken; default what is free. Cells that do not fit are reported as such.
        journal: a file that each cell is appended to.
        resume: go on with that file.
        progress: called with a line before each length.

    Returns:
        The result; where it was interrupted from the keyboard, what there was until then.

    Raises:
        UsageError: lengths, depths, tasks or the alphabet cannot be used.
        InputError: the checkpoint cannot be run.
    """
    from ropepatch import checkpoint
    from ropepatch.verify import engines

    model = ref if isinstance(ref, checkpoint.Checkpoint) else checkpoint.open(ref)
    chosen = variants(model, methods, factor)
    trained = trained_context(chosen[0].profile)
    if trained is None:
        raise UsageError("the checkpoint does not say its trained context")
    tested = _lengths(lengths, trained, chosen)
    _check(depths, samples, task)
    with engines.needs("torch", "torch"):
        import torch
    from ropepatch.audit.engine import Model

    where = engines.device_of(device)
    engine = Model(model, where, getattr(torch, dtype))
    letters = alphabet_of(alphabet, model, engine.vocabulary)
    result = Audit(
        model.ref, trained, samples, seed, tested, tuple(depths), tuple(task), tuple(v.name for v in chosen),
        {"engine": f"torch {torch.__version__}", "device": where, "dtype": dtype, "alphabet": letters.to_json()},
    )  # fmt: skip
    plan = {"ref": Path(model.ref).name, "samples": samples, "seed": seed, "dtype": dtype,
            "alphabet": letters.to_json(), "depths": list(depths),
            "variants": {v.name: v.profile.to_json()["groups"] for v in chosen}}  # fmt: skip
    book = Journal(Path(journal) if journal else None, plan, resume)
    work = _Work(engine, result, book, letters, limit)
    try:
        for length in tested:
            for variant in chosen:
                if progress:
                    progress(f"{length} tokens, {variant.name}")
                for name in task:
                    work.cells(variant, name, length)
    except KeyboardInterrupt:
        result.interrupted = True
    return result


@dataclass
class _Work:
    engine: Model
    result: Audit
    journal: Journal
    alphabet: tasks.Alphabet
    limit: int | None

    def cells(self, variant: Variant, task: str, length: int) -> None:
        """Measure the depths of one length that the journal does not have."""
        from ropepatch.audit.engine import OutOfMemory

        result = self.result
        missing = []
        for depth in result.depths:
            known = self.journal.cells.get((variant.name, task, length, depth))
            if known is not None and known["status"] == "measured":
                result.cells.append(known)
            else:
                missing.append(depth)
        if not missing:
            return
        needed = self.engine.estimate(length, 1)["total"]
        rows = self.engine.rows_that_fit(length, result.samples, self.limit)
        common = {"variant": variant.name, "task": task, "length": length, "estimated_bytes": needed}
        if not rows:
            self._without(common, missing, "does not fit", f"needs about {needed} bytes")
            return
        started = time.monotonic()
        try:
            drawn = tasks.texts(self.alphabet, task, length, result.depths, result.samples, result.seed)
            found = self.engine.answers(variant.profile, length, drawn, missing, absent=task == "absent", rows=rows)
        except OutOfMemory as error:
            self._without(common, missing, "out of memory", str(error))
            return
        seconds = (time.monotonic() - started) / len(missing)
        for depth, answers in found.items():
            k, n = sum(answers.hits), len(answers.hits)
            low, high = statistics.clopper_pearson(k, n)
            self._keep({
                **common, "depth": depth, "status": "measured", "k": k, "n": n, "interval": [low, high],
                "log_probability": sum(answers.log_probabilities) / n, "hits": [int(hit) for hit in answers.hits],
                "seconds": round(seconds, 4),
            })  # fmt: skip

    def _without(self, common: Mapping[str, Any], depths: Sequence[float], status: str, why: str) -> None:
        for depth in depths:
            self._keep({**common, "depth": depth, "status": status, "why": why})

    def _keep(self, cell: dict[str, Any]) -> None:
        self.journal.add(cell)
        self.result.cells.append(cell)


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


def alphabet_of(text: str | None, model: Checkpoint, vocabulary: int) -> tasks.Alphabet:
    if text:
        return tasks.Alphabet.parse(text, vocabulary)
    return tasks.Alphabet.drawn(vocabulary, _bos(model, vocabulary))


def _bos(model: Checkpoint, vocabulary: int) -> int | None:
    if model.profile.source.format == "gguf":
        from ropepatch.verify.weights import gguf_header

        value = gguf_header(model).get("tokenizer.ggml.bos_token_id")
    else:
        value = (model.raw_config or {}).get("bos_token_id")
    return value if isinstance(value, int) and 0 <= value < vocabulary else None
