"""``ropepatch.audit``: every variant, task and length, in an order that has something to show early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropepatch import checkpoint
from ropepatch.audit import tasks, variants
from ropepatch.audit.alphabets import alphabet_of
from ropepatch.audit.cells import Work, measure
from ropepatch.audit.engine import NAMES, Engine
from ropepatch.audit.journal import Journal
from ropepatch.audit.result import Audit
from ropepatch.audit.variants import Variant
from ropepatch.checkpoint import Checkpoint
from ropepatch.errors import UsageError
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
    task: Sequence[str] = ("passkey",),
    alphabet: str | None = None,
    seed: int = 1,
    engine: str = "torch",
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
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
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        limit: bytes that may be taken; default what is free. Cells that do not fit are reported as such.
        journal: a file that each cell is appended to.
        resume: go on with that file.
        progress: called with a line before each length and variant.

    Returns:
        The result; where it was interrupted from the keyboard, what there was until then.

    Raises:
        UsageError: lengths, depths, tasks, variants or the alphabet cannot be used.
        InputError: the checkpoint cannot be run.
    """
    model = _opened(ref)
    factors = [factor] if isinstance(factor, (int, float)) else list(factor or ())
    chosen = variants.resolve(model, None if base is None else _opened(base), methods, factors, variant)
    trained = trained_context(chosen[0].profile)
    if trained is None:
        raise UsageError("the checkpoint does not say its trained context")
    tested = _lengths(lengths, trained, chosen)
    _check(depths, samples, task)
    runs = open_engine(engine, chosen, device=device, dtype=dtype)
    try:
        letters = alphabet_of(chosen[0].checkpoint, runs.vocabulary, alphabet)
        environment = {**runs.environment, "alphabet": letters.to_json()}
        result = Audit(
            model.ref, trained, samples, seed, tested, tuple(depths), tuple(task),
            tuple(item.to_json() for item in chosen), environment,
        )  # fmt: skip
        plan = {"ref": Path(model.ref).name, "samples": samples, "seed": seed, "engine": engine, "dtype": dtype,
                "alphabet": letters.to_json(), "depths": list(depths), "texts": _TEXTS,
                "variants": {item.name: item.profile.to_json()["groups"] for item in chosen}}  # fmt: skip
        book = Journal(Path(journal) if journal else None, plan, resume)
        _Run(runs, chosen, result, book, letters, limit, progress).all()
    finally:
        runs.close()
    return result


def open_engine(name: str, chosen: Sequence[Variant], **options: Any) -> Engine:
    """An engine that can run the variants.

    Args:
        name: from ``ropepatch.audit.engine.NAMES``.
        chosen: what it shall run.
        options: ``device``, ``dtype``.

    Raises:
        UsageError: there is no such engine, or a library is missing.
        InputError: it cannot run the checkpoints.
    """
    if name == "torch":
        from ropepatch.audit.torch_engine import TorchEngine

        return TorchEngine(chosen, **options)
    raise UsageError(f"there is no engine {name!r}; there are: {', '.join(NAMES)}")


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

    def cells(self, variant: Variant, task: str, length: int) -> None:
        """Measure the depths of one length that the journal does not have."""
        result = self.result
        known = {
            depth: cell
            for depth in result.depths
            if (cell := self.journal.cells.get((variant.name, task, length, depth))) is not None
        }
        result.cells += known.values()
        if len(known) == len(result.depths):
            return
        if self.progress:
            self.progress(f"{length:,} tokens, {variant.name}, {task}")
        work = Work(task, length, result.depths, result.samples, result.seed, self.alphabet)
        for cell in measure(self.engine, variant, work, limit=self.limit, skip=tuple(known)):
            self.journal.add(cell)
            result.cells.append(cell)


def _opened(ref: str | Path | Checkpoint) -> Checkpoint:
    return ref if isinstance(ref, Checkpoint) else checkpoint.open(ref)


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
