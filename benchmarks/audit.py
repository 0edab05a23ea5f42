"""Prompt tokens answered per second: the audit's engines against a plain loop over transformers, on the same texts.

    python benchmarks/audit.py [--lengths 256,512,1024,2048] [--samples 16] [--tasks passkey,needle,multikey]
        [--layers 8]

The loop runs one forward pass for each text of each depth, as a script would: batch of one, no cache kept. Every way
answers the same questions, which is checked; a token counts each time that it stands in a text, run again or not.
CPU seconds (of this process) are the steadier number where other programs run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import ropepatch
from ropepatch.audit import tasks
from ropepatch.audit.engine import Engine, opened
from ropepatch.audit.run import DEPTHS
from ropepatch.audit.variants import Variant, resolve

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "fixtures" / "tiny-retriever"
ALPHABET = "bos=0,filler=1-40,key=41-72,value=73-136"
#: how far an answer's log-probability may be from the plain loop's: three tokens, each to 1e-3
LIMIT = 3e-3
#: by depth: hits and log-probabilities of each text
Found = Mapping[float, tuple[tuple[bool, ...], tuple[float, ...]]]


def plain(model: torch.nn.Module, texts: tasks.Texts) -> Found:
    """One pass a text."""
    found = {}
    for depth, block in texts.blocks.items():
        hits, numbers = [], []
        for tokens, wanted in zip(torch.from_numpy(texts.at(depth)), torch.from_numpy(block[:, 1:]), strict=True):
            with torch.inference_mode():
                logits = model(tokens[None, :-1], use_cache=False).logits[0, -tasks.ANSWER :]
            hits.append(bool((logits.argmax(-1) == wanted).all()))
            numbers.append(float(logits.log_softmax(-1).gather(-1, wanted[:, None]).sum()))
        found[depth] = (tuple(hits), tuple(numbers))
    return found


def measured(
    ways: Mapping[str, Callable[[tasks.Texts], Found]], work: list[tasks.Texts], times: int
) -> dict[str, tuple[float, float]]:
    """The least wall and CPU seconds of several runs of each way, which take turns; all must answer alike."""
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    first: dict[str, list[Found]] = {}
    for _ in range(times):
        for name, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            first[name] = [run(texts) for texts in work]
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    compare(first)
    return {name: (min(walls[name]), min(cpus[name])) for name in ways}


def compare(found: Mapping[str, list[Found]]) -> None:
    """Hold what each way says against the first: the same answers, and log-probabilities within ``LIMIT``."""
    expected, *others = found.items()
    for name, texts in others:
        for mine, theirs in zip(texts, expected[1], strict=True):
            for depth, (hits, numbers) in theirs.items():
                apart = max(abs(a - b) for a, b in zip(mine[depth][1], numbers, strict=True))
                if mine[depth][0] != hits or apart > LIMIT:
                    raise SystemExit(f"{name} answers otherwise at depth {depth}: log-probabilities {apart:.2g} apart")


def answered(engine: Engine, variant: Variant, rows: int) -> Callable[[tasks.Texts], Found]:
    """The engine as :func:`measured` calls it."""

    def run(texts: tasks.Texts) -> Found:
        found = engine.answers(variant, texts, rows)
        return {depth: (answers.hits, answers.log_probabilities or ()) for depth, answers in found.items()}

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit speed against a plain transformers loop.")
    parser.add_argument("--lengths", default="256,512,1024,2048")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tasks", default="passkey,needle,multikey,absent")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layers", type=int, help="random weights with so many layers, instead of the fixture")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run(random_model(Path(folder), options.layers) if options.layers else FIXTURE, options)


def run(ref: Path, options: argparse.Namespace) -> None:
    """Print the table of one checkpoint."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    loop = transformers.AutoModelForCausalLM.from_pretrained(ref).eval()
    (variant,) = resolve(ropepatch.open(ref))
    ways: dict[str, Callable[[tasks.Texts], Found]] = {"plain loop": lambda texts: plain(loop, texts)}
    for name in ("torch", "transformers"):
        ways[name] = answered(opened(name, [variant], device="cpu"), variant, options.samples)
    letters = tasks.Alphabet.parse(ALPHABET, 137)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.samples} texts, {len(DEPTHS)} depths, "
          f"{loop.config.num_hidden_layers} layers")  # fmt: skip
    print(f"{'task':10}{'tokens':>8}  {'way':14}{'wall s':>8}{'CPU s':>8}{'tokens/CPU s':>14}{'x':>6}{'CPU x':>7}")
    sums = {task: {name: [0.0, 0.0, 0.0] for name in ways} for task in (*options.tasks.split(","), "all")}
    for task in options.tasks.split(","):
        for length in map(int, options.lengths.split(",")):
            work = list(tasks.texts(letters, task, length, DEPTHS, options.samples, 1))
            tokens = sum(texts.samples * len(texts.blocks) * (texts.length - tasks.ANSWER) for texts in work)
            found = measured(ways, work, options.repeat)
            for name, seconds in found.items():
                print(row(task, str(length), name, tokens, seconds, found["plain loop"]), flush=True)
                for total in (sums[task][name], sums["all"][name]):
                    total[:] = (a + b for a, b in zip(total, (*seconds, tokens), strict=True))
    for task, every in sums.items():
        first = every["plain loop"]
        for name, (wall, cpu, tokens) in every.items():
            print(row(task, "every", name, int(tokens), (wall, cpu), (first[0], first[1])))


def random_model(folder: Path, layers: int) -> Path:
    """The fixture's shapes with other layers, and weights that were never trained."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(FIXTURE, num_hidden_layers=layers)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def row(task: str, length: str, name: str, tokens: int, found: tuple[float, ...], base: tuple[float, ...]) -> str:
    """A line of the table."""
    return (
        f"{task:10}{length:>8}  {name:14}{found[0]:8.2f}{found[1]:8.2f}{tokens / found[1]:14,.0f}"
        f"{base[0] / found[0]:6.1f}{base[1] / found[1]:7.1f}"
    )


if __name__ == "__main__":
    main()
