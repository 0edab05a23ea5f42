"""llama.cpp's own forward pass, through the server in the `xllamacpp` wheel.

The engine aborts the process on some inputs, so it runs in a child with a time limit; the child is this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# The child imports nothing of the package: it would only cost time there.
if __name__ != "__main__":
    import numpy as np
    import numpy.typing as npt

    from ropepatch.bundle import is_gguf
    from ropepatch.errors import CheckFailed, InputError, UsageError
    from ropepatch.methods.base import Frequencies

_SECONDS = 600.0
#: tokens that are computed in one go
_BATCH = 4096


class LlamaCppEngine:
    """A GGUF in llama.cpp: float32 cache, no flash attention, so that only the arithmetic's order differs."""

    name = "llama.cpp"

    def __init__(self, path: Path, length: int, seconds: float = _SECONDS) -> None:
        try:
            self.version = f"xllamacpp {version('xllamacpp')}"
        except PackageNotFoundError:
            raise UsageError("this needs xllamacpp", hint="pip install 'ropepatch[llamacpp]'") from None
        if not is_gguf(path):
            raise InputError("llama.cpp is given GGUF files only", where=str(path), hint="--engine torch takes folders")
        self.path, self.length, self.seconds = path, length, seconds

    def rotations(self) -> dict[str, Frequencies] | None:
        """The engine does not show them."""
        return None

    def log_probabilities(
        self, tokens: Sequence[int], positions: Sequence[int], at: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """One request a position; positions are those of a prompt from its beginning.

        Raises:
            CheckFailed: the engine does not load the file, does not serve that many tokens, or aborts.
        """
        if list(positions) != list(range(len(tokens))):
            raise UsageError("llama.cpp takes prompts from position 0 on")
        request = {"model": str(self.path), "tokens": list(tokens), "at": list(at), "n_ctx": self.length}
        replies, log = ask([{**request, "cached": True, "sampled": self._text()}], self.seconds)
        reply = replies[0] if replies else {}
        if "logprobs" not in reply:
            raise CheckFailed(f"llama.cpp: {reply.get('error') or reason(log)}", where=str(self.path))
        found: npt.NDArray[np.float64] = np.array(reply["logprobs"], np.float64)
        return found

    def _text(self) -> int | None:
        """A token of plain letters: one that were part of a character would be held back, with its probabilities."""
        from ropepatch.audit.pieces import from_gguf
        from ropepatch.containers import gguf

        pieces = from_gguf(gguf.scan(self.path))
        return next((number for number, piece in enumerate(pieces) if piece.isascii() and piece.isalpha()), None)


def ask(requests: Sequence[Mapping[str, Any]], seconds: float = _SECONDS) -> tuple[list[dict[str, Any]], str]:
    """Let a child load files and answer for them, one after the other.

    Args:
        requests: each with ``model`` (a path) and ``n_ctx``; with ``tokens`` and ``at`` for log-probabilities after the
            tokens at these indices, without them for loading alone. ``cached``: keep what an earlier index computed.
            ``sampled``: the token that shall follow; it changes no probability.
            ``threads``, ``verbosity``, and ``overrides`` by their names in ``CommonParams`` are the command line's.
        seconds: the time for all of them.

    Returns:
        A reply for each request until the child ended, with ``loaded``, ``logprobs`` (rows by index, by token) and
        ``error`` as far as it came; and the child's log.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        child = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            # The engine would otherwise attach a debugger to itself when it aborts, which takes seconds.
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GGML_NO_BACKTRACE": "1"},
        )  # fmt: skip
        try:
            log, _ = child.communicate(json.dumps({"answer": str(answer), "requests": list(requests)}), seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            log = child.communicate()[0] + f"\ndid not answer within {seconds:g} s"
        except BaseException:
            child.kill()
            raise
        replies: list[dict[str, Any]] = json.loads(answer.read_text()) if answer.exists() else []
        return replies, log


def reason(log: str) -> str:
    """The log line that says most about a failure."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for mark in ("GGML_ASSERT", "error loading model", "GGML_ABORT", " E ", "Error: "):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "ended without a word"


# ---- the child -------------------------------------------------------------------------------------------------------

#: destroying a server that has only just started can wait for ever
_ALIVE: list[Any] = []


def _serve(asked: Mapping[str, Any]) -> None:
    """Answer every request; the answer file is written anew after each step, since the next one may end the process."""
    answer = Path(asked["answer"])
    replies: list[dict[str, Any]] = []

    def write(**found: Any) -> None:
        replies[-1].update(found)
        answer.write_text(json.dumps(replies))

    for request in asked["requests"]:
        replies.append({})
        try:
            _answer(request, write)
        except RuntimeError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            if len(asked["requests"]) > 1:
                write(error=str(error))


def _answer(request: Mapping[str, Any], write: Callable[..., None]) -> None:
    """Load one file and answer every index."""
    server = _loaded(request)
    write(loaded=True)
    if "tokens" not in request:
        return
    sampled = request.get("sampled")
    bias = {} if sampled is None else {"logit_bias": [[sampled, 1000.0]]}
    rows = []
    for index in request["at"]:
        prompt = {"prompt": request["tokens"][: index + 1], "n_predict": 1, "n_probs": 1 << 20, "temperature": 1.0}
        reply = server.handle_completions({**prompt, **bias, "cache_prompt": bool(request.get("cached"))})
        if "error" in reply:
            write(error=reply["error"]["message"])
            return
        found = reply["choices"][0]["logprobs"]
        if found is None:
            write(error=f"no probabilities after {index + 1} tokens: what it sampled there is part of a character")
            return
        top = found["content"][0]["top_logprobs"]
        row = [0.0] * len(top)
        for entry in top:
            row[entry["id"]] = entry["logprob"]
        rows.append(row)
    write(logprobs=rows)


def _loaded(request: Mapping[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx = request["n_ctx"]
    # One pass over the prompt as far as that goes, so that every position sees the same kernels.
    params.n_batch = params.n_ubatch = max(512, min(request["n_ctx"], _BATCH))
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = params.fit_params = params.ctx_shift = False
    params.cache_prompt = bool(request.get("cached"))
    params.cache_ram_mib = 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if request.get("threads"):
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    params.verbosity = request.get("verbosity", 3)
    for name, value in request.get("overrides", {}).items():
        if not hasattr(params, name):
            raise AttributeError(f"CommonParams has no {name}")
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    _ALIVE.append(server)
    return server


if __name__ == "__main__":
    import time

    status = 0
    try:
        _serve(json.load(sys.stdin))
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 1
    time.sleep(0.1)  # the engine's log is written by a thread of its own
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # its threads outlive a failed load, and an ordinary exit may wait for them for ever
