"""What llama.cpp computes: the real engine, through the package's own child, which knows nothing of the package.

That the engine's answers mean what they are taken for is held against transformers in tests/conformance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropepatch.verify import llama_engine

Array = np.ndarray[Any, np.dtype[np.float64]]


class LoadRefused(Exception):
    """The engine did not load the file, or did not answer; the message is its own log line."""


@dataclass(frozen=True)
class Report:
    """What the engine says of a file while it loads it: its log, and the values that it prints."""

    loaded: bool
    info: dict[str, str]
    log: str

    @property
    def error(self) -> str:
        """The log line that says why the load failed; empty if it did not."""
        return "" if self.loaded else llama_engine.reason(self.log)


@dataclass(frozen=True)
class Question:
    """One file, one prompt, and the positions to answer for; see `logprobs`."""

    path: Path
    tokens: Sequence[int]
    n_ctx: int
    positions: Sequence[int]

    def request(self, rope: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As the child takes it: one thread, and every prompt computed from its beginning."""
        count = len(self.tokens)
        return {
            "model": str(self.path),
            "tokens": [int(token) for token in self.tokens],
            "at": [range(count)[index] for index in self.positions],
            "n_ctx": self.n_ctx,
            "threads": 1,
            "overrides": dict(rope or {}),
        }


def logprobs(
    gguf_path: str | Path,
    tokens: Sequence[int],
    n_ctx: int | None = None,
    positions: Sequence[int] | None = None,
    *,
    rope: dict[str, Any] | None = None,
    timeout: float = 60.0,
) -> Array:
    """Log-probabilities of the next token after each position: shape (positions, vocab).

    `positions` are indices into `tokens` (negative ones count from the end); None means all, at one request each.
    `n_ctx` is the allocated context (default: the prompt and one token; llama.cpp pads it to a multiple of 256), which
    chooses between short and long factors. `rope` sets the command line's overrides, by their name in `CommonParams`
    (`rope_freq_scale`, `yarn_orig_ctx`, …). Float32 cache, no flash attention, no cached prompts, one thread.

    The server caps the context at the file's `context_length`; a longer prompt raises `LoadRefused`.
    """
    wanted = range(len(tokens)) if positions is None else positions
    question = Question(Path(gguf_path), tokens, n_ctx or len(tokens) + 1, wanted)
    replies, log = llama_engine.ask([question.request(rope)], timeout)
    if not replies or "logprobs" not in replies[0]:
        raise LoadRefused(replies[0].get("error") if replies and "error" in replies[0] else llama_engine.reason(log))
    return np.array(replies[0]["logprobs"], dtype=np.float64)


def answers(questions: Sequence[Question], *, timeout: float = 300.0) -> list[Array | str]:
    """`logprobs` of many files in one child: what it answers for each, or what it says where it does not.

    Only for files that it loads or refuses: one that it stops on takes the rest with it, which raises `LoadRefused`.
    """
    replies, log = llama_engine.ask([one.request() for one in questions], timeout)
    if len(replies) < len(questions):
        raise LoadRefused(f"{questions[len(replies)].path.name}: {llama_engine.reason(log)}")
    return [np.array(one["logprobs"]) if "logprobs" in one else str(one.get("error")) for one in replies]


def load_report(gguf_path: str | Path, n_ctx: int = 256, *, timeout: float = 60.0) -> Report:
    """Load a file and return what the engine printed; never raises for a refused file."""
    for _ in range(5):
        replies, log = llama_engine.ask([{"model": str(gguf_path), "n_ctx": n_ctx, "verbosity": 5}], timeout)
        loaded = bool(replies and "loaded" in replies[0])
        # The engine logs from a thread of its own: one that stops on a file may lose the tail, and says it next time.
        if loaded or "print_info: rope type" in log:
            break
    info = {}
    for line in log.splitlines():
        if "print_info: " in line and " = " in line:
            name, value = line.split("print_info: ", 1)[1].split(" = ", 1)
            info[name.strip()] = value.strip()
    return Report(loaded, info, log)
