"""What llama.cpp computes: the real engine, through the in-process server of the `xllamacpp` wheel.

The engine aborts the process on some inputs, so it runs in a child process with a time limit. The child is this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class LoadRefused(Exception):
    """The engine did not load the file, or did not answer; the message is its own log line."""


@dataclass(frozen=True)
class Report:
    """What the engine says of a file while it loads it: its log, and the values that it prints."""

    loaded: bool
    info: dict[str, str]
    tensors_looked_for: frozenset[str]
    log: str

    @property
    def error(self) -> str:
        """The log line that says why the load failed; empty if it did not."""
        return "" if self.loaded else _reason(self.log)


def logprobs(
    gguf_path: str | Path,
    tokens: Sequence[int],
    n_ctx: int | None = None,
    positions: Sequence[int] | None = None,
    *,
    rope: dict[str, Any] | None = None,
    timeout: float = 60.0,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-probabilities of the next token after each position: shape (positions, vocab).

    `positions` are indices into `tokens` (negative ones count from the end); None means all, at one request each.
    `n_ctx` is the allocated context (default: the prompt and one token; llama.cpp pads it to a multiple of 256), which
    chooses between short and long factors. `rope` sets the command line's overrides, by their name in `CommonParams`
    (`rope_freq_scale`, `yarn_orig_ctx`, …). Float32 cache, no flash attention, no cached prompts, one thread.

    The server caps the context at the file's `context_length`; a longer prompt raises `LoadRefused`.
    """
    count = len(tokens)
    chosen = [range(count)[index] for index in (range(count) if positions is None else positions)]
    request = {
        "model": str(gguf_path),
        "tokens": [int(token) for token in tokens],
        "positions": chosen,
        "n_ctx": n_ctx or count + 1,
        "rope": rope or {},
    }
    reply = _child(request, timeout)
    if "logprobs" not in reply:
        raise LoadRefused(reply.get("error") or _reason(reply["log"]))
    return np.array(reply["logprobs"], dtype=np.float64)


@dataclass(frozen=True)
class Question:
    """One file, one prompt, and the positions to answer for; see `logprobs`."""

    path: Path
    tokens: Sequence[int]
    n_ctx: int
    positions: Sequence[int]


def answers(
    questions: Sequence[Question], *, timeout: float = 300.0
) -> list[np.ndarray[Any, np.dtype[np.float64]] | str]:
    """`logprobs` of many files in one child: what it answers for each, or what it says where it does not.

    Only for files that it loads or refuses: one that it stops on takes the rest with it, which raises `LoadRefused`.
    """
    requests = [
        {
            "model": str(one.path),
            "tokens": [int(token) for token in one.tokens],
            "positions": [range(len(one.tokens))[index] for index in one.positions],
            "n_ctx": one.n_ctx,
            "rope": {},
        }
        for one in questions
    ]
    reply = _child({"requests": requests}, timeout)
    found = reply.get("replies", [])
    if len(found) < len(questions):
        raise LoadRefused(f"{questions[len(found)].path.name}: {_reason(reply['log'])}")
    return [np.array(one["logprobs"]) if "logprobs" in one else str(one.get("error")) for one in found]


def load_report(gguf_path: str | Path, n_ctx: int = 256, *, timeout: float = 60.0) -> Report:
    """Load a file and return what the engine printed; never raises for a refused file."""
    for _ in range(5):
        reply = _child({"model": str(gguf_path), "n_ctx": n_ctx, "rope": {}, "verbosity": 5}, timeout)
        # The engine logs from a thread of its own: one that stops on a file may lose the tail, and says it next time.
        if "loaded" in reply or "print_info: rope type" in reply["log"]:
            break
    info, looked_for = {}, set()
    for line in reply["log"].splitlines():
        if "print_info: " in line and " = " in line:
            name, value = line.split("print_info: ", 1)[1].split(" = ", 1)
            info[name.strip()] = value.strip()
        elif "create_tensor: loading tensor " in line:
            looked_for.add(line.rsplit(" ", 1)[1])
    return Report("loaded" in reply, info, frozenset(looked_for), reply["log"])


def _child(request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Run one request in a child; the reply carries its log, and whatever the child managed to answer."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory, "answer.json")
        request = {**request, "answer": str(answer)}
        # The engine would otherwise attach a debugger to itself when it aborts, which takes seconds.
        env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        child = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
        )
        try:
            log, _ = child.communicate(json.dumps(request), timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            log = child.communicate()[0] + f"\nllama.cpp did not answer within {timeout:g} s"
        reply: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
        return {**reply, "log": log}


def _reason(log: str) -> str:
    """The log line that says most about a failure."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for mark in ("GGML_ASSERT", "error loading model", "GGML_ABORT", " E "):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "llama.cpp ended without a word"


# Destroying a server that has only just started can wait for ever.
_ALIVE: list[Any] = []


def _serve(request: dict[str, Any]) -> None:
    """The child: load, answer every position, write the answer file; of many requests, one after the other."""
    answer = Path(request["answer"])
    if "requests" not in request:
        _answer(request, lambda reply: answer.write_text(json.dumps(reply)))
        return
    replies: list[dict[str, Any]] = []
    for one in request["requests"]:
        replies.append({})
        try:
            _answer(one, replies[-1].update)
        except RuntimeError as error:
            replies[-1]["error"] = str(error)
        answer.write_text(json.dumps({"replies": replies}))


def _answer(request: dict[str, Any], write: Callable[[dict[str, Any]], object]) -> None:
    """Load one file, and answer its positions if it names any; each step is written as it is done."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx = request["n_ctx"]
    # One pass over the prompt: no boundary between batches, so that every position sees the same kernels.
    params.n_batch = params.n_ubatch = max(request["n_ctx"], 512)
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = params.fit_params = params.cache_prompt = params.ctx_shift = False
    params.cache_ram_mib = 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = request.get("verbosity", 3)
    for name, value in request["rope"].items():
        if not hasattr(params, name):
            raise AttributeError(f"CommonParams has no {name}")
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    _ALIVE.append(server)
    write({"loaded": True})
    if "tokens" not in request:
        return
    rows = []
    for position in request["positions"]:
        reply = server.handle_completions(
            {
                "prompt": request["tokens"][: position + 1],
                "n_predict": 1,
                "n_probs": 1 << 20,
                "temperature": 1.0,
                "cache_prompt": False,
            }
        )
        if "error" in reply:
            write({"error": reply["error"]["message"]})
            return
        top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        row = [0.0] * len(top)
        for entry in top:
            row[entry["id"]] = entry["logprob"]
        rows.append(row)
    write({"loaded": True, "logprobs": rows})


if __name__ == "__main__":
    status = 0
    try:
        _serve(json.load(sys.stdin))
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 1
    # The engine's threads outlive a failed load, and an ordinary exit may wait for them for ever. Its log is written by
    # a thread of its own, which gets a moment to finish.
    time.sleep(0.1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
