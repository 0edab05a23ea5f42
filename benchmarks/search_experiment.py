"""Searched factors on the trained fixture: writes docs/experiments/search.md, all of it.

    nice -n 10 python benchmarks/search_experiment.py [--output FILE] [--budget N] [--samples N]

Searches at 4 and 8 times the trained context in both spaces, applies what was found, and measures it beside YaRN,
MrRoPE-Pro and Self-Extend on needles that no search saw. One thread, fixed seeds; about five CPU minutes. Needs torch,
transformers and xllamacpp.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import ropepatch
from ropepatch.audit.statistics import clopper_pearson
from ropepatch.audit.tasks import Alphabet
from ropepatch.runtime_methods import advised
from ropepatch.search import needles

ROOT = Path(__file__).resolve().parents[1]
FIXTURE, GGUF = ROOT / "fixtures" / "tiny-retriever", ROOT / "fixtures" / "tiny-retriever.gguf"
TRAINED, TIMES = 256, (4, 8)
LETTERS = "bos=0,filler=1-40,key=41-72,value=73-136"
HELD_OUT_SEED, TASK = 20240, "multikey"


@dataclass
class Found:
    """One search and the folders that its factors were written to."""

    times: int
    search: Any
    both: Path
    long_only: Path
    gguf: Path
    seconds: float


def searched(times: int, space: str, folder: Path, budget: int, samples: int) -> Found:
    """Search, and apply to the fixture as directory (with both lists, and with the long one alone) and as GGUF."""
    started = time.process_time()
    factors = folder / f"{space}-{times}.json"
    found = ropepatch.search(
        FIXTURE, times, space=space, budget=budget, samples=samples, held_out=1, alphabet=LETTERS, device="cpu",
        output=factors, progress=told,
    )  # fmt: skip
    record = json.loads(factors.read_text("utf-8"))
    lists = {"short_factor": found.short_factor, "long_factor": found.long_factor}
    folders = []
    for name, ref, short in (
        (f"{space} {times}x", FIXTURE, found.short_factor),
        (f"{space} {times}x, long list alone", FIXTURE, found.long_factor),
        (f"{space}-{times}x.gguf", GGUF, found.short_factor),
    ):
        folders.append(folder / name)
        patch = ropepatch.open(ref).patch(
            "longrope", times, **{**lists, "short_factor": short}, attention_factor=record["attention_factor"]
        )
        patch.write(folders[-1])
    return Found(times, found, *folders, time.process_time() - started)


def told(line: str) -> None:
    """Where it is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def held_out_letters() -> str:
    """The token ids that no search was scored with."""
    _, rest = needles.divided(Alphabet.parse(LETTERS, 137))
    spans = {name: (min(ids), max(ids)) for name, ids in vars(rest).items() if name != "bos"}
    return ",".join(["bos=0", *(f"{name}={first}-{last}" for name, (first, last) in spans.items())])


def measured(times: int, found: list[Found], samples: int) -> Any:
    """The audit of everything at one extension: in the trained context, and at the new one."""
    how = advised(TRAINED, times * TRAINED)
    variants = [f"yarn:{times}", f"mrrope-pro:{times}", *(str(p) for f in found for p in (f.both, f.long_only))]
    variants.append(f"self-extend:group={how.group},window={how.window}")
    return ropepatch.audit(
        FIXTURE, variant=variants, lengths=(TRAINED, times * TRAINED), samples=samples, task=(TASK,),
        alphabet=held_out_letters(), seed=HELD_OUT_SEED, device="cpu", progress=told,
    )  # fmt: skip


def share(audit: Any, variant: str, length: int) -> tuple[int, int]:
    """Right answers over all depths."""
    cells = [c for c in audit.cells if (c["variant"], c["length"]) == (variant, length)]
    return sum(c["k"] for c in cells), sum(c["n"] for c in cells)


def with_interval(k: int, n: int) -> str:
    """``0.973 [0.95, 0.99]``."""
    low, high = clopper_pearson(k, n)
    return f"{k / n:.3f} [{low:.3f}, {high:.3f}]"


def row(audit: Any, variant: str, length: int) -> list[str]:
    """One line of a table of results."""
    cells = sorted(
        (c for c in audit.cells if (c["variant"], c["length"]) == (variant, length)), key=lambda c: c["depth"]
    )
    score = sum(c["log_probability"] for c in cells) / len(cells)
    paired = audit.summary(variant, TASK)["paired_short"]
    price = f"{paired['difference']:+.3f} ± {paired['plus_minus']:.3f}" if paired else ""
    return [
        variant, with_interval(*share(audit, variant, length)), f"{cells[0]['k']} of {cells[0]['n']}", f"{score:.4f}",
        with_interval(*share(audit, variant, TRAINED)), price,
    ]  # fmt: skip


def table(headings: Sequence[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [list(headings), ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def engines(found: Found, samples: int) -> list[str]:
    """The same factors as directory in transformers and as GGUF in llama.cpp, on the same texts."""
    length = found.times * TRAINED
    audits = [
        ropepatch.audit(
            ref, base=base, lengths=(length,), depths=(0.0, 0.5, 1.0), samples=samples, task=(TASK,), engine=engine,
            alphabet=held_out_letters(), seed=HELD_OUT_SEED, device="cpu",
        )
        for engine, ref, base in (("transformers", found.both, FIXTURE), ("llama.cpp", found.gguf, GGUF))
    ]  # fmt: skip
    picked = [
        [c for c in audit.cells if c["length"] == length and c["variant"] == audit.variants[1]] for audit in audits
    ]
    hits = [[hit for cell in cells for hit in cell["hits"]] for cells in picked]
    numbers = [[cell["log_probability"] for cell in cells] for cells in picked]
    gap = max(abs(a - b) for a, b in zip(*numbers, strict=True))
    same = sum(a == b for a, b in zip(*hits, strict=True))
    return [
        f"{found.search.space} {found.times}x", *(f"{sum(row)} of {len(row)}" for row in hits),
        f"{same} of {len(hits[0])}", f"{gap:.1e}",
    ]  # fmt: skip


def search_row(found: Found) -> list[str]:
    """What a search did."""
    search = found.search
    result, best = search.results["long"], search.best("long")
    start = max(result.starts, key=lambda name: result.starts[name])
    return [
        f"{search.space} {found.times}x", str(len(result.tried)), f"{start}: {result.starts[start]:.4g}",
        f"{dict(result.tried)[best[0]]:.4g}", f"{best[1]:.4g}",
        "" if best[0].critical is None else str(best[0].critical), f"{found.seconds:.0f} s",
    ]  # fmt: skip


def factor_row(found: Found) -> list[str]:
    """The long list."""
    listed = " ".join(f"{value:.3g}" for value in found.search.long_factor)
    return [f"{found.search.space} {found.times}x", listed]


_PAGE = """\
# Searched factors on the fixture

Written by `nice -n 10 python benchmarks/search_experiment.py`, all of it, whatever came out. Model:
`fixtures/tiny-retriever` (99,776 parameters, trained context {trained}). Searches: {budget} candidates a list,
{samples} texts a candidate, seed 1, attention factor √(1 + ln s / ln T), the best eight scored again on four times
as many other texts.

Measured on the audit's task `{task}` (twelve blocks, seven depths), {held_out} texts a depth, with keys and values that
no search saw. Intervals are Clopper and Pearson's, 95 %. `log p` is the mean log-probability of the three answer tokens
together: it still tells variants apart where all find everything. The last column is the paired difference on the same
texts within the trained context: the price of the patch for short inputs.

`longrope` and `longrope2` are the searched factors of each space as `apply` wrote them, with both lists (short up to
256 tokens); `long list alone` is what engines do that load one list (llama.cpp with a larger context, vLLM, mlx-lm).
Self-Extend changes no file: it is the built-in decoder's, with a window of a quarter of the trained context and the
smallest group that keeps distances below two thirds of it.

{results}

## The searches

`best, as scored` is what the search chose by, `the same in the final` its winner on other texts; both are log p.

{searches}

{lists}

## The same factors in two engines

As directory in transformers, as GGUF in llama.cpp, on the same texts at the new length. `same` counts texts on which
both are right or both wrong; the gap is the largest between the log-probabilities of a depth.

{engines}

## What this says

{said}

One small model, one seed, synthetic texts of one family. It says nothing about natural language, nor about the order of
methods whose intervals overlap.
"""
_RESULT = ("variant", "right at the new length", "at depth 0", "log p", "right at 256", "against unpatched at 256")
_SEARCH = ("search", "candidates", "best start", "best, as scored", "the same in the final", "critical pair", "CPU")


def page(found: dict[int, list[Found]], audits: dict[int, Any], agreement: list[list[str]], options: Any) -> str:
    """The document."""
    everything = [item for times in TIMES for item in found[times]]
    results = []
    for times in TIMES:
        length = times * TRAINED
        rows = [row(audits[times], name, length) for name in audits[times].variants]
        results.append(f"## {times} times: {length:,} tokens\n\n{table(_RESULT, rows)}")
    return _PAGE.format(
        trained=TRAINED, budget=options.budget, samples=options.samples, task=TASK, held_out=options.held_out,
        results="\n\n".join(results), searches=table(_SEARCH, [search_row(item) for item in everything]),
        lists=table(("search", "long list"), [factor_row(item) for item in everything]),
        engines=table(("factors", "transformers", "llama.cpp", "same", "gap"), agreement),
        said="\n".join(f"* {line}" for line in _said(audits)),
    )  # fmt: skip


def _said(audits: dict[int, Any]) -> list[str]:
    """Sentences that follow from the numbers alone."""
    lines = []
    for times, audit in audits.items():
        length = times * TRAINED
        yarn = share(audit, f"yarn {times}x", length)
        for name in audit.variants:
            if not name.startswith("longrope") or "alone" in name:
                continue
            own, short, plain = share(audit, name, length), share(audit, name, TRAINED), share(audit, "none", TRAINED)
            word = "more than" if own[0] > yarn[0] else "as many as" if own[0] == yarn[0] else "fewer than"
            loss = "nothing is lost" if short[0] >= plain[0] else f"{plain[0] - short[0]} of {plain[1]} are lost"
            lines.append(
                f"{name}: {own[0]} of {own[1]} at {length:,} tokens, {word} YaRN's {yarn[0]}; within 256 tokens {loss}."
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure searched factors on the fixture and write the page.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "experiments" / "search.md")
    parser.add_argument("--budget", type=int, default=120)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=48)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            times: [
                searched(times, space, folder, options.budget, options.samples) for space in ("longrope", "longrope2")
            ]
            for times in TIMES
        }
        audits = {times: measured(times, found[times], options.held_out) for times in TIMES}
        agreement = [engines(item, 4) for item in found[4]]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(page(found, audits, agreement, options), encoding="utf-8")
    print(f"wrote {options.output}; {time.process_time():.0f} CPU seconds in this process")


if __name__ == "__main__":
    main()
