"""Texts whose parts stand far apart, in llama.cpp itself, without the hundred thousand tokens between them.

The server's slot is saved, the saved state is edited, and restored. Edited is where one token stands: each part ends
with a filler, whose key and value are zero in the models that are asked here, so that it is the same at every position;
it is moved to just before the next part. Every other key, and every query, is turned by the engine at its own position,
by its own arithmetic. The list of tokens beside the state is filled up, since the server compares it with the prompt.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: the token without key and value
FILLER = 3


@dataclass(frozen=True)
class FarText:
    """Parts of a text, each at its first position; all but the last end with `FILLER`."""

    parts: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def tokens(self) -> list[int]:
        """All tokens that are there, without those between the parts."""
        return [token for _, part in self.parts for token in part]

    @property
    def positions(self) -> list[int]:
        """Where they stand; the last of a part just before the next."""
        found: list[int] = []
        for start, part in self.parts:
            if found:
                found[-1] = start - 1
            found += range(start, start + len(part))
        return found


def logprobs(path: Path, text: FarText, last: int, n_ctx: int, seconds: float = 60.0) -> list[list[float]]:
    """Log-probabilities of the next token after each of the `last` tokens: a row a token, in llama.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        asked = {"model": str(path), "parts": text.parts, "last": last, "n_ctx": n_ctx, "folder": folder}
        done = subprocess.run(
            [sys.executable, __file__],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            env={**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        answer = Path(folder, "answer.json")
        if not answer.exists():
            raise RuntimeError(f"llama.cpp did not answer: {(done.stdout + done.stderr)[-2000:]}")
        found: list[list[float]] = json.loads(answer.read_text())
        return found


# ---- the child -------------------------------------------------------------------------------------------------------


def moved(state: bytes, tokens: Sequence[int]) -> bytes:
    """A saved slot whose last token stands at the end of `tokens`, which its list of tokens becomes.

    Laid out as: magic, version, number of words, then words -1, 1, number of tokens, the tokens, 0; then one stream,
    the number of cells, for each its position, 1 and sequence 0; then what the cells hold.
    """
    words, mark, kind, count = struct.unpack_from("<IiII", state, 8)
    cells = 12 + 4 * words
    streams, number = struct.unpack_from("<II", state, cells)
    last = cells + 8 + 12 * (number - 1)
    found = (mark, kind, count, streams, *struct.unpack_from("<III", state, last))
    if found != (-1, 1, words - 4, 1, count - 1, 1, 0):
        raise ValueError(f"llama.cpp lays a saved slot out in another way: {found}, {words} words, {number} cells")
    listed = struct.pack(f"<IiII{len(tokens)}II", len(tokens) + 4, -1, 1, len(tokens), *tokens, 0)
    return state[:8] + listed + state[cells:last] + struct.pack("<I", len(tokens) - 1) + state[last + 4 :]


def _post(server: Any, action: str) -> None:
    request = urllib.request.Request(
        f"{server.listening_address}/slots/0?action={action}",
        data=b'{"filename": "slot"}',
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        reply.read()


def _answer(asked: Mapping[str, Any]) -> list[list[float]]:
    from ropepatch.verify import llama_engine

    folder = f"{asked['folder']}/"
    server = llama_engine._loaded(
        {
            "model": asked["model"], "n_ctx": asked["n_ctx"], "cached": True, "threads": 1,
            "overrides": {"slot_save_path": folder, "n_batch": 512, "n_ubatch": 512},
        }
    )  # fmt: skip

    def ask(tokens: Sequence[int]) -> list[float]:
        prompt = {"prompt": list(tokens), "n_predict": 1, "n_probs": 1 << 20, "temperature": 1.0, "id_slot": 0}
        reply = server.handle_completions({**prompt, "cache_prompt": True})
        if "error" in reply:
            raise RuntimeError(reply["error"]["message"])
        if (ran := reply["timings"]["prompt_n"]) > 512:
            raise RuntimeError(f"{ran} tokens were run: the restored slot was not taken")
        top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return [entry["logprob"] for entry in sorted(top, key=lambda entry: entry["id"])]

    tokens: list[int] = []
    for number, (start, part) in enumerate(asked["parts"]):
        if number:
            tokens += [FILLER] * (start - len(tokens))
            _post(server, "save")
            slot = Path(folder, "slot")
            slot.write_bytes(moved(slot.read_bytes(), tokens))
            _post(server, "restore")
        tokens += part
        if number < len(asked["parts"]) - 1:
            ask(tokens)
    return [ask(tokens[: len(tokens) - left]) for left in reversed(range(asked["last"]))]


if __name__ == "__main__":
    _asked = json.load(sys.stdin)
    Path(_asked["folder"], "answer.json").write_text(json.dumps(_answer(_asked)))
    sys.stdout.flush()
    os._exit(0)  # the server's threads would keep it
