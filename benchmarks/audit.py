"""Prompt tokens answered per second: the audit's engines against a plain loop over transformers, on the same texts.

    python benchmarks/audit.py [--lengths 256,512,1024,2048] [--samples 16] [--tasks passkey,needle,multikey]

The loop runs one forward pass for each text of each depth, as a script would: batch of one, no cache kept. Every way
answers the same questions, which is checked; a token counts each time that it stands in a text, run again or not.
CPU seconds (of this process) are the steadier number where other programs run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

import ropepatch
from ropepatch.audit import tasks
from ropepatch.audit.engine import Engine
from ropepatch.audit.run import DEPTHS, open_engine
from ropepatch.audit.variants import resolve

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "fixtures" / "tiny-retriever"
ALPHABET = "bos=0,filler=1-40,key=41-72,value=73-136"
Hits = list[tuple[bool, ...]]


def plain(model: torch.nn.Module, texts: tasks.Texts) -> Hits:
    """One pass a text."""
    found = []
    for depth, block in texts.blocks.items():
        hits = []
        for tokens, wanted in zip(torch.from_numpy(texts.at(depth)), torch.from_numpy(block[:, 1:]), strict=True):
            with torch.inference_mode():
                logits = model(tokens[None, :-1], use_cache=False).logits[0, -tasks.ANSWER :]
            hits.append(bool((logits.argmax(-1) == wanted).all()))
        found.append(tuple(hits))
    return found


def measured(run: Callable[[tasks.Texts], Hits], work: list[tasks.Texts], times: int) -> tuple[float, float, Hits]:
    """The least wall and CPU seconds of several runs, and what was answered."""
    walls, cpus, hits = [], [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        hits = [found for texts in work for found in run(texts)]
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus), hits


def answered(engine: Engine, rows: int) -> Callable[[tasks.Texts], Hits]:
    """The engine as :func:`measured` calls it."""
    (variant,) = resolve(ropepatch.open(FIXTURE))
    return lambda texts: [answers.hits for answers in engine.answers(variant, texts, rows).values()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit speed against a plain transformers loop.")
    parser.add_argument("--lengths", default="256,512,1024,2048")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tasks", default="passkey,needle,multikey,absent")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from transformers import AutoModelForCausalLM

    loop = AutoModelForCausalLM.from_pretrained(FIXTURE).eval()
    chosen = resolve(ropepatch.open(FIXTURE))
    ways = {
        "plain loop": lambda texts: plain(loop, texts),
        "torch": answered(open_engine("torch", chosen, device="cpu"), options.samples),
        "transformers": answered(open_engine("transformers", chosen, device="cpu"), options.samples),
    }
    letters = tasks.Alphabet.parse(ALPHABET, 137)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.samples} texts, {len(DEPTHS)} depths")
    print(f"{'task':10}{'tokens':>8}  {'way':14}{'wall s':>8}{'CPU s':>8}{'tokens/wall s':>15}{'x':>6}{'CPU x':>7}")
    sums: dict[str, list[float]] = {}
    for task in options.tasks.split(","):
        for length in map(int, options.lengths.split(",")):
            work = list(tasks.texts(letters, task, length, DEPTHS, options.samples, 1))
            tokens = sum(texts.samples * len(texts.blocks) * (texts.length - tasks.ANSWER) for texts in work)
            base: tuple[float, float, Hits] | None = None
            for name, way in ways.items():
                found = measured(way, work, options.repeat)
                base = base or found
                assert found[2] == base[2], f"{name} answers otherwise"
                print(row(task, str(length), name, tokens, found[:2], base[:2]), flush=True)
                total = sums.setdefault(name, [0.0, 0.0, 0.0])
                for index, value in enumerate((found[0], found[1], tokens)):
                    total[index] += value
    first = sums["plain loop"]
    for name, (wall, cpu, tokens) in sums.items():
        print(row("all", "", name, int(tokens), (wall, cpu), (first[0], first[1])))


def row(task: str, length: str, name: str, tokens: int, found: tuple[float, ...], base: tuple[float, ...]) -> str:
    """A line of the table."""
    return (
        f"{task:10}{length:>8}  {name:14}{found[0]:8.2f}{found[1]:8.2f}{tokens / found[0]:15,.0f}"
        f"{base[0] / found[0]:6.1f}{base[1] / found[1]:7.1f}"
    )


if __name__ == "__main__":
    main()
