"""Ready launch lines: how each runtime is started on a checkpoint at a context length, and what must not be used."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch import runtimes
from ropepatch.dialects import hf_families
from ropepatch.errors import RopepatchError
from ropepatch.frequencies import TOLERANCE, deviation, plain_base, profile_frequencies
from ropepatch.methods.base import Frequencies
from ropepatch.profile import RopeProfile
from ropepatch.runtimes.base import Prediction

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint


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


def lines(
    ref: str,
    profile: RopeProfile,
    config: Mapping[str, Any] | None,
    length: int | None = None,
    rope: Mapping[str, Any] | None = None,
) -> list[Launch]:
    """A launch line for every runtime that reads the checkpoint's format.

    Args:
        ref: how the command shall name the checkpoint.
        profile: what it says about its RoPE.
        config: its ``config.json`` as spelled; None for a GGUF file.
        length: the context in tokens; default the declared one.
        rope: a whole rope dict to put in force without changing the file, for the runtimes that can take one. It must
            hold ``rope_theta``: vLLM sets it as it is, and without a base 10000 would be taken.

    Raises:
        ValueError: ``rope`` has no ``rope_theta``.
    """
    if rope is not None and "rope_theta" not in rope:
        raise ValueError("a rope dict for the command line must hold rope_theta")
    wanted = length or profile.declared_context or 4096
    path = hf_families.text_section(config, ref).path if config is not None else ()
    found = []
    for name, build in _BUILDERS.items():
        try:
            predicted = runtimes.predict(name, profile, config, wanted, ref)
        except runtimes.WrongFormat:
            continue
        except RopepatchError as error:
            found.append(Launch(name, "", refused=f"{error.what}; {error.hint}" if error.hint else error.what))
            continue
        dropped = _dropped(profile, predicted, wanted) if rope is None else None
        if dropped is not None:
            found.append(Launch(name, "", notes=_notes(predicted), ignored=dropped))
            continue
        order = _order(ref, wanted, predicted, rope, path)
        made = build(order, predicted)
        off = () if rope is not None or _as_written(profile, predicted, wanted) else (_OTHER,)
        found.append(dataclasses.replace(made, notes=(*off, *made.notes), length=wanted, context=order.context))
    return found


def of_checkpoint(model: Checkpoint, length: int | None = None) -> list[Launch]:
    """The launch lines of an opened checkpoint; none for a format whose readers are not predicted.

    Args:
        model: the checkpoint; its ref stands in the lines.
        length: the context in tokens; default the declared one.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    if model.profile.source.format not in ("hf", "gguf"):
        return []
    return lines(model.ref, model.profile, model.raw_config, length)


_OTHER = "other frequencies than the file's method defines: see ropepatch diff with --runtime-b"


def _as_written(profile: RopeProfile, predicted: Mapping[str, Prediction], length: int) -> bool:
    """Whether the runtime computes what the methods in the file define."""
    return all(deviation(_of(name, predicted).frequencies, said) <= TOLERANCE for name, said in _said(profile, length))


def _said(profile: RopeProfile, length: int) -> Iterable[tuple[str, Frequencies]]:
    return profile_frequencies(profile, length).items()


def _of(name: str, predicted: Mapping[str, Prediction]) -> Prediction:
    return predicted.get(name) or predicted.get("default") or next(iter(predicted.values()))


def _dropped(profile: RopeProfile, predicted: Mapping[str, Prediction], length: int) -> str | None:
    """What the runtime turns by instead, where it comes to plain RoPE that the file does not say."""
    for name, said in _said(profile, length):
        made = _of(name, predicted)
        theta = plain_base(made.frequencies)
        if theta is None or deviation(made.frequencies, said) <= TOLERANCE:
            continue
        keys = f" and ignores {', '.join(made.ignored)}" if made.ignored else ""
        if made.inv_freq.size != said.inv_freq.size:
            return f"rotates {made.inv_freq.size} pairs of dimensions, the file says {said.inv_freq.size}{keys}"
        return f"loads it as plain RoPE of base {theta:.0f}{keys}"
    return None


def _order(
    ref: str, length: int, predicted: Mapping[str, Prediction], rope: Mapping[str, Any] | None, path: tuple[str, ...]
) -> Order:
    contexts = [one.context for one in predicted.values() if one.context is not None]
    magnitude = any(not math.isclose(one.attention_scale, 1.0, rel_tol=1e-9) for one in predicted.values())
    return Order(ref, length, max(contexts, default=None), magnitude, rope, path)


def _notes(predicted: Mapping[str, Prediction]) -> tuple[str, ...]:
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
    return Launch("transformers", "\n".join(text), tuple(avoid), _notes(predicted))


def _vllm(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    command = f"vllm serve {order.quoted} --max-model-len {order.length}"
    if order.rope is not None:
        command += f" --hf-overrides {shlex.quote(json.dumps(order.override))}"
    elif order.context is not None and order.length > order.context:
        command = f"VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 {command}"
    avoid = ["--rope-scaling and --rope-theta: gone since 0.11.1", "an override of rope_parameters without rope_theta"]
    if order.path:
        avoid.append(f"an override beside {'.'.join(order.path)}: it never reaches the text model")
    return Launch("vllm", command, tuple(avoid), _notes(predicted))


def _sglang(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    command = f"python -m sglang.launch_server --model-path {order.quoted} --context-length {order.length}"
    if order.rope is not None:
        command += f" --json-model-override-args {shlex.quote(json.dumps(order.override))}"
    elif order.context is not None and order.length > order.context:
        command = f"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 {command}"
    return Launch("sglang", command, (), _notes(predicted))


def _tgi(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    prompt = max(1, order.length - 1024) if order.length > 2048 else order.length - 1
    limits = f"--max-input-tokens {prompt} --max-total-tokens {order.length}"
    avoid = ("ROPE_SCALING and ROPE_FACTOR: they replace what the config says",)
    return Launch("tgi", f"text-generation-launcher --model-id {order.quoted} {limits}", avoid, _notes(predicted))


def _llama_server(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    command = f"llama-server -m {order.quoted} -c {order.length}"
    avoid: tuple[str, ...] = ("--rope-scaling, --rope-scale, --rope-freq-base: flags win over what the file says",)
    if order.magnitude:
        command += " --no-context-shift"
        shifts = (
            "--context-shift, --cache-reuse, --grp-attn-n: a shift multiplies the cached keys by the magnitude again"
        )
        avoid = (*avoid, shifts)
    return Launch("llama.cpp", command, avoid, _notes(predicted))


def _ollama(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    served = min(order.length, order.context or order.length)
    text = f"FROM {order.ref}\nPARAMETER num_ctx {served}"
    avoid = ("LLAMA_ARG_ROPE_* and LLAMA_ARG_YARN_* in its environment: they reach llama-server and win over the file",)
    return Launch("ollama", text, avoid, _notes(predicted))


def _mlx(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    avoid = (f"--max-kv-size below {order.length}: the cache would drop what came first",)
    return Launch("mlx-lm", f"mlx_lm.server --model {order.quoted}", avoid, _notes(predicted))


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
    return Launch("exllamav3", "\n".join(text), avoid, _notes(predicted))


def _exllamav2(order: Order, predicted: Mapping[str, Prediction]) -> Launch:
    text = [
        "from exllamav2 import ExLlamaV2, ExLlamaV2Config",
        f"config = ExLlamaV2Config({order.ref!r})",
        f"config.max_seq_len = {order.length}",
        "model = ExLlamaV2(config)",
    ]
    avoid = ("an alpha value (scale_alpha_value, --rope_alpha): it changes the base on top of what the config says",)
    return Launch("exllamav2", "\n".join(text), avoid, _notes(predicted))


_BUILDERS: dict[str, Callable[[Order, Mapping[str, Prediction]], Launch]] = {
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
