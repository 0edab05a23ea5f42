"""The line that starts each runtime, and what it must not be told."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ropepatch.bundle import stem_of
from ropepatch.runtimes import llama_cpp
from ropepatch.runtimes.base import Prediction


@dataclass(frozen=True)
class Launch:
    """One runtime's way to start.

    Attributes:
        runtime: its name.
        text: the command, Modelfile or snippet; empty where the runtime refuses the checkpoint or ignores its scaling.
        avoid: options that would spoil the result, with why.
        notes: what the runtime does with the checkpoint.
        refused: why it does not load it.
        ignored: what it turns by instead, where it loads the checkpoint and drops what the file says.
        length: the context that the line asks for, in tokens.
        context: the one that the runtime derives by itself; None where it derives none, or there is no line.
    """

    runtime: str
    text: str
    avoid: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str | None = None
    ignored: str | None = None
    length: int | None = None
    context: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``text`` is null where there is no line."""
        return {
            "runtime": self.runtime,
            "text": self.text or None,
            "length": self.length,
            "context": self.context,
            "avoid": list(self.avoid),
            "notes": list(self.notes),
            "refused": self.refused,
            "ignored": self.ignored,
        }


@dataclass(frozen=True)
class Order:
    """What is asked of a launch line: which checkpoint, how long, and what the runtime derives by itself."""

    ref: str
    length: int
    context: int | None
    magnitude: bool
    rope: Mapping[str, Any] | None
    path: tuple[str, ...]

    @property
    def quoted(self) -> str:
        """The checkpoint, for a shell."""
        return shlex.quote(self.ref)

    @property
    def override(self) -> dict[str, Any]:
        """``rope`` below the text section, with max_position_embeddings at the asked length."""
        found: dict[str, Any] = {"rope_parameters": dict(self.rope or {}), "max_position_embeddings": self.length}
        for key in reversed(self.path):
            found = {key: found}
        return found


def notes_of(predicted: Mapping[str, Prediction]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for one in predicted.values() for note in one.notes))


def _transformers(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    text = [
        "from transformers import AutoConfig, AutoModelForCausalLM",
        f"config = AutoConfig.from_pretrained({order.ref!r})",
    ]
    if order.rope is not None:
        target = ".".join(("config", *order.path))
        text += [
            f"{target}.rope_parameters = {dict(order.rope)!r}",
            f"{target}.max_position_embeddings = {order.length}",
        ]
    text.append(f"model = AutoModelForCausalLM.from_pretrained({order.ref!r}, config=config)")
    avoid = ["changing config.rope_parameters after the model is built: the frequencies are computed once"]
    if any(one.switches == "per forward pass" for one in predicted.values()):
        avoid.append("a key-value cache kept across the original context: its keys hold the other frequencies")
    return Launch("transformers", "\n".join(text), tuple(avoid), notes_of(predicted))


def _vllm(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    command = f"vllm serve {order.quoted} --max-model-len {order.length}"
    if order.rope is not None:
        command += f" --hf-overrides {shlex.quote(json.dumps(order.override))}"
    elif order.context is not None and order.length > order.context:
        command = f"VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 {command}"
    avoid = ["--rope-scaling and --rope-theta: gone since 0.11.1", "an override of rope_parameters without rope_theta"]
    if order.path:
        avoid.append(f"an override beside {'.'.join(order.path)}: it never reaches the text model")
    return Launch("vllm", command, tuple(avoid), notes_of(predicted))


def _sglang(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    command = f"python -m sglang.launch_server --model-path {order.quoted} --context-length {order.length}"
    if order.rope is not None:
        command += f" --json-model-override-args {shlex.quote(json.dumps(order.override))}"
    elif order.context is not None and order.length > order.context:
        command = f"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 {command}"
    return Launch("sglang", command, (), notes_of(predicted))


def _tgi(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    prompt = max(1, order.length - 1024) if order.length > 2048 else order.length - 1
    limits = f"--max-input-tokens {prompt} --max-total-tokens {order.length}"
    avoid = ("ROPE_SCALING and ROPE_FACTOR: they replace what the config says",)
    return Launch("tgi", f"text-generation-launcher --model-id {order.quoted} {limits}", avoid, notes_of(predicted))


def _llama_server(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    command = f"llama-server -m {order.quoted} -c {order.length}"
    avoid: tuple[str, ...] = ("--rope-scaling, --rope-scale, --rope-freq-base: flags win over what the file says",)
    notes = notes_of(predicted)
    if order.magnitude:
        command += " --no-context-shift"
        shifts = "--context-shift, --cache-reuse, --grp-attn-n: cached keys get the attention factor a second time"
        avoid = (*avoid, shifts)
        notes = tuple(note for note in notes if note != llama_cpp.SHIFTS)
    return Launch("llama.cpp", command, avoid, notes)


def _ollama(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    served = min(order.length, order.context or order.length)
    # a bare name would be looked up among Ollama's own models
    path = order.ref if "/" in order.ref else f"./{order.ref}"
    name = re.sub(r"[^a-z0-9._-]+", "-", stem_of(PurePath(order.ref).name).lower()).strip("-") or "model"
    text = f"# Modelfile, for: ollama create {name} -f Modelfile\nFROM {path}\nPARAMETER num_ctx {served}"
    avoid = ("LLAMA_ARG_ROPE_* and LLAMA_ARG_YARN_* in its environment: they reach llama-server and win over the file",)
    return Launch("ollama", text, avoid, notes_of(predicted))


def _mlx(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    avoid = (f"--max-kv-size below {order.length}: the cache would drop what came first",)
    return Launch("mlx-lm", f"mlx_lm.server --model {order.quoted}", avoid, notes_of(predicted))


def _exllamav3(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    rows = math.ceil(order.length / 256) * 256
    chosen = any(one.switches == "at load" for one in predicted.values())
    text = [
        "from exllamav3 import Cache, Config, Model",
        f"config = Config.from_directory({order.ref!r})",
        *([f"config.override_dynamic_seq_len({order.length})"] if chosen and order.length != order.context else []),
        "model = Model.from_config(config)",
        f"cache = Cache(model, max_num_tokens={rows})",
        "model.load()",
    ]
    avoid: tuple[str, ...] = ()
    if order.context is not None and order.length > order.context and not chosen:
        avoid = (f"a config with max_position_embeddings {order.context} for YaRN: its factor follows that key alone",)
    return Launch("exllamav3", "\n".join(text), avoid, notes_of(predicted))


def _exllamav2(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    text = [
        "from exllamav2 import ExLlamaV2, ExLlamaV2Config",
        f"config = ExLlamaV2Config({order.ref!r})",
        f"config.max_seq_len = {order.length}",
        "model = ExLlamaV2(config)",
    ]
    avoid = ("an alpha value (scale_alpha_value, --rope_alpha): it changes the base on top of what the config says",)
    return Launch("exllamav2", "\n".join(text), avoid, notes_of(predicted))


BUILDERS: dict[str, Callable[[Order, Mapping[str, Prediction]], Launch]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "sglang": _sglang,
    "tgi": _tgi,
    "llama.cpp": _llama_server,
    "ollama": _ollama,
    "mlx-lm": _mlx,
    "exllamav3": _exllamav3,
    "exllamav2": _exllamav2,
}
