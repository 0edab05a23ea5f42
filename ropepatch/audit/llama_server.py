"""One GGUF served by llama.cpp on loopback, in a process of its own: the engine aborts on some inputs.

The child is this file. It ends when its standard input does, so that none is left when its parent is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

#: seconds for a model to be loaded
_PATIENCE = 600.0
#: bytes of a model that one thread is enough for: the engine's threads wait for each other after every operation
_SMALL = 64 << 20


class NotServed(Exception):
    """The engine did not load the file; the message is its own log line."""


class LlamaServer:
    """A running server.

    Args:
        model: the GGUF file, the first shard where it is split.
        context: tokens of each slot.
        slots: prompts at once.
        float32: float32 cache and no flash attention; else a float16 cache and what the engine chooses.
        gpu: layers go where the engine has an accelerator.

    Raises:
        NotServed: it does not load.
    """

    def __init__(self, model: Path, context: int, slots: int, *, float32: bool, gpu: bool) -> None:
        request = {"model": str(model), "context": context, "slots": slots, "float32": float32, "gpu": gpu}
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GGML_NO_BACKTRACE": "1"}, start_new_session=True,
        )  # fmt: skip
        timer = threading.Timer(_PATIENCE, self._child.kill)
        timer.start()
        try:
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
            self.url = self._child.stdout.readline().decode().strip()
        except BrokenPipeError:
            self.url = ""
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
        if not self.url:
            self._child.wait()
            why = self.why()
            self.close()
            raise NotServed(why)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._child.poll() is None

    def why(self) -> str:
        """The log line that says most about an end."""
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        for mark in ("GGML_ASSERT", "failed to allocate", "unable to allocate", "error loading model", " E "):
            for line in lines:
                if mark in line:
                    return line[:300]
        code = self._child.poll()
        if code is not None and code < 0:
            return f"llama.cpp was ended by signal {-code}"
        return lines[-1][:300] if lines else "llama.cpp ended without a word"

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def out_of_memory(why: str) -> bool:
    """Whether a reason is a lack of memory; the kernel ends the largest process by signal 9."""
    text = why.lower()
    return "allocate" in text or "bad_alloc" in text or "out of memory" in text or text.endswith("by signal 9")


def _serve(request: dict[str, Any], answer: IO[str]) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    # Each slot gets a multiple of 256; unequal shares of a common cache would let a slot run out.
    context = -(-request["context"] // 256) * 256
    params.n_parallel = request["slots"]
    params.n_ctx = context * request["slots"]
    params.n_gpu_layers = 999 if request["gpu"] else 0
    params.warmup = params.fit_params = params.ctx_shift = False
    params.cache_ram_mib = 0
    if os.path.getsize(request["model"]) < _SMALL:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if request["float32"]:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.verbosity = 3
    server = xllamacpp.Server(params)
    _ALIVE.append(server)
    answer.write(f"{server.listening_address}\n")
    answer.flush()


#: destroying a server that has only just started can wait for ever
_ALIVE: list[Any] = []

if __name__ == "__main__":
    import time

    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the engine's log goes there too
    status = 0
    try:
        _serve(json.loads(sys.stdin.readline()), told)
        sys.stdin.read()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 1
        time.sleep(0.1)  # the engine's log is written by a thread of its own
    sys.stderr.flush()
    os._exit(status)
