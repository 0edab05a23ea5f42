"""Asks the trained fixture whether γ, or the geometry that `ropepatch plan` prints, says what a model will find.

    python benchmarks/gamma_rule.py                    # all of it, and docs/experiments/gamma.md
    python benchmarks/gamma_rule.py --dir DIR          # keep training and cells in DIR (default: ./bench-data/gamma)

Needs torch. Trains the fixture's other seeds (seed 1 is in the repository), extends each model by every method at 2, 4
and 8 times its length, has `ropepatch.audit` measure what it finds, and writes the page. One process, one thread, at
most --memory bytes for a cell. A run that was stopped goes on where it was: trained models and measured cells stay in
--dir, and the processor time that is reported is that of all runs together.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gamma_page
from gamma_predictors import Prediction

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
SHIPPED, STEPS = 1, 2700
ALPHABET = "bos=0,filler=1-40,key=41-72,value=73-136"
TASK = "multikey"
DEPTHS = (0.0, 0.2, 0.4, 0.6, 0.8)
METHODS = ("linear", "ntk", "ntk-critical", "ntk-by-parts", "yarn", "mrrope-uni", "mrrope-pro")
#: targets of the designed base: the published planner's, near that of the training, and the published recipe's
GAMMAS = (0.5, 0.7, 0.85)
UNSCALED = "none"


@dataclass(frozen=True)
class Setup:
    """What decides the numbers."""

    seeds: tuple[int, ...]
    factors: tuple[int, ...]
    methods: tuple[str, ...]
    gammas: tuple[float, ...]
    samples: int
    steps: int
    memory: int


class Work:
    """The folder that holds trained models, cells and the processor time spent on them.

    Args:
        folder: where; made if it is not there.
        say: called with a line of progress.
    """

    CLOCK = "cpu-seconds.json"

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.cells = folder / "cells"
        self.cells.mkdir(parents=True, exist_ok=True)
        self._clock = folder / self.CLOCK

    @property
    def spent(self) -> dict[str, float]:
        """Processor seconds by kind of work, over all runs."""
        return dict(json.loads(self._clock.read_text("utf-8"))) if self._clock.exists() else {}

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Add the processor time of a block, whether it ends or breaks off."""
        started = time.process_time()
        try:
            yield
        finally:
            total = self.spent
            total[kind] = round(total.get(kind, 0.0) + time.process_time() - started, 2)
            beside = self._clock.with_suffix(".new")
            beside.write_text(json.dumps(total), encoding="utf-8")
            os.replace(beside, self._clock)

    def trained(self, seed: int, steps: int) -> Path:
        """The model of a seed: the one in the repository, one that is in the folder, or a new one."""
        if (seed, steps) == (SHIPPED, STEPS):
            return FIXTURES / "tiny-retriever"
        found = self.folder / f"seed-{seed}-steps-{steps}"
        if not found.exists():
            sys.path.insert(0, str(FIXTURES))
            import train_tiny_retriever as recipe

            self.say(f"training seed {seed}")
            beside = self.folder / f".{found.name}"
            with self.timed("training"):
                recipe.write_hf(beside, recipe.train(seed, steps))
            beside.rename(found)
        return found


def measure(setup: Setup, work: Work) -> list[gamma_page.Score]:
    """Every method, factor and seed through the audit."""
    import ropepatch

    found = []
    for seed in setup.seeds:
        model = ropepatch.open(str(work.trained(seed, setup.steps)))
        for factor in setup.factors:
            with work.timed("measuring"):
                found += _scores(setup, work, model, seed, factor)
    return found


def label(gamma: float) -> str:
    """How a designed base is called in the page."""
    return f"theta γ={gamma:g}"


def _scores(setup: Setup, work: Work, model: Any, seed: int, factor: int) -> list[gamma_page.Score]:
    """All methods of one model at one factor, on the same texts."""
    import ropepatch
    from ropepatch.planner.gamma import raised_theta

    context = model.profile.trained_context
    base = model.profile.groups["default"].rope_theta
    bases = {f"{raised_theta(base, gamma, context * factor):.0f}": gamma for gamma in setup.gammas}
    name = f"seed-{seed}-{factor}x"
    made = ropepatch.audit(
        model, methods=setup.methods, factor=float(factor), variant=[f"theta::rope_theta={value}" for value in bases],
        lengths=(context, context * factor), depths=DEPTHS, samples=setup.samples, task=(TASK,), alphabet=ALPHABET,
        seed=seed, device="cpu", limit=setup.memory, journal=work.cells / f"{name}-{setup.samples}.jsonl", resume=True,
        progress=lambda line: work.say(f"{name}: {line}"),
    )  # fmt: skip
    names = {f"theta rope_theta={value}": label(gamma) for value, gamma in bases.items()}
    return [_score(made, v, names.get(v, v.split()[0]), seed, factor, context) for v in made.variants]


def _score(made: Any, variant: str, method: str, seed: int, factor: int, context: int) -> gamma_page.Score:
    """Right answers of one variant, at the length and at the trained one."""
    if made.interrupted:
        raise KeyboardInterrupt
    cells = [c for c in made.cells if c["variant"] == variant]
    if missing := [c for c in cells if c["status"] != "measured"]:
        raise SystemExit(f"{variant} at {missing[0]['length']} tokens {missing[0]['status']}: give more --memory")
    far, near = ([c for c in cells if c["length"] == length] for length in (context * factor, context))
    return gamma_page.Score(
        method, factor, seed,
        right=sum(c["k"] for c in far), asked=sum(c["n"] for c in far),
        log_probability=sum(c["log_probability"] for c in far) / len(far),
        near_right=sum(c["k"] for c in near), near_asked=sum(c["n"] for c in near),
    )  # fmt: skip


def predictions(setup: Setup, work: Work) -> dict[tuple[str, int], Prediction]:
    """What ``ropepatch.plan`` says of each method at each factor, from metadata alone."""
    import ropepatch

    model = ropepatch.open(str(work.trained(setup.seeds[0], setup.steps)))
    group = model.profile.groups["default"]
    context, found = model.profile.trained_context, {}
    for factor in setup.factors:
        for method in (UNSCALED, *setup.methods):
            plan = ropepatch.plan(model, context * factor, method=method)
            found[method, factor] = Prediction.of(plan, group.rope_theta, method)
        for gamma in setup.gammas:
            plan = ropepatch.plan(model, context * factor, target_gamma=gamma)
            found[label(gamma), factor] = Prediction.of(plan, group.rope_theta, "theta")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Does γ, or the geometry, say what a model will find?")
    parser.add_argument("--dir", type=Path, default=Path("bench-data/gamma"), help="trained models and measured cells")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "experiments" / "gamma.md", help="the page")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="models, by the seed of their training")
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--gammas", type=float, nargs="+", default=list(GAMMAS), help="targets of the designed base")
    parser.add_argument("--samples", type=int, default=48, help="texts at each depth")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--memory", type=int, default=1 << 30, metavar="BYTES", help="that a cell may take")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True,
                        help="go on with what --dir holds; --no-resume starts again")  # fmt: skip
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.process_time()
    folder: Path = options.dir
    if not options.resume and folder.exists():
        if not (folder / Work.CLOCK).exists():
            parser.error(f"{folder} is no folder of this benchmark: not removed")
        shutil.rmtree(folder)
    work = Work(folder, lambda line: print(line, file=sys.stderr, flush=True))
    setup = Setup(
        tuple(options.seeds), tuple(sorted(options.factors)), tuple(options.methods), tuple(options.gammas),
        options.samples, options.steps, options.memory,
    )  # fmt: skip
    scores = measure(setup, work)
    with work.timed("predictions and page"):
        text = gamma_page.written(setup, scores, predictions(setup, work), torch.__version__)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text + gamma_page.effort(work.spent), encoding="utf-8")
    print(f"wrote {options.output}")
    print(f"{time.process_time() - started:.0f} CPU s in this run, {sum(work.spent.values()):.0f} in all runs")


if __name__ == "__main__":
    main()
