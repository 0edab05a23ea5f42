"""llama.cpp's own forward pass, through the server in the `xllamacpp` wheel.

The engine aborts the process on some inputs, so it runs in a child with a time limit; the child is this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ropepatch.errors import CheckFailed, InputError, UsageError
from ropepatch.methods.base import Frequencies

_SECONDS = 600.0


class LlamaCppEngine:
    """A GGUF in llama.cpp: float32 cache, no flash attention, so that only the arithmetic's order differs."""

    name = "llama.cpp"

    def __init__(self, path: Path, length: int, seconds: float = _SECONDS) -> None:
        try:
            self.version = f"xllamacpp {version('xllamacpp')}"
        except PackageNotFoundError:
            raise UsageError("this needs xllamacpp", hint="pip install 'ropepatch[llamacpp]'") from None
        if path.suffix != ".gguf":
            raise InputError("llama.cpp is given .gguf files only", where=str(path))
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
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "answer.json")
            reply, log = self._child({**request, "answer": str(answer)}, answer)
        if "logprobs" not in reply:
            raise CheckFailed(f"llama.cpp: {reply.get('error') or _reason(log)}", where=str(self.path))
        found: npt.NDArray[np.float64] = np.array(reply["logprobs"], np.float64)
        return found

    def _child(self, request: dict[str, Any], answer: Path) -> tuple[dict[str, Any], str]:
        child = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            log, _ = child.communicate(json.dumps(request), self.seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return {}, f"did not answer within {self.seconds:g} s"
        except BaseException:
            child.kill()
            raise
        reply: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
        return reply, log


def _reason(log: str) -> str:
    """The log line that says most about a failure."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for mark in ("GGML_ASSERT", "error loading model", "GGML_ABORT", " E "):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "ended without a word"


def _serve(request: dict[str, Any]) -> None:
    """The child: load, answer every position, write the answer file."""
    import xllamacpp

    answer = Path(request["answer"])
    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx = request["n_ctx"]
    params.n_batch = params.n_ubatch = max(512, min(request["n_ctx"], 4096))
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = params.fit_params = params.cache_prompt = params.ctx_shift = False
    params.cache_ram_mib = 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.verbosity = 3
    server = xllamacpp.Server(params)
    _ALIVE.append(server)
    rows = []
    for index in request["at"]:
        prompt = {"prompt": request["tokens"][: index + 1], "n_predict": 1, "n_probs": 1 << 20, "temperature": 1.0}
        reply = server.handle_completions({**prompt, "cache_prompt": False})
        if "error" in reply:
            answer.write_text(json.dumps({"error": reply["error"]["message"]}))
            return
        top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        row = [0.0] * len(top)
        for entry in top:
            row[entry["id"]] = entry["logprob"]
        rows.append(row)
    answer.write_text(json.dumps({"logprobs": rows}))


#: destroying a server that has only just started can wait for ever
_ALIVE: list[Any] = []

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
