"""Changes of an input that keep its form: values of a JSON document, runs of bytes of a binary file."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from ropepatch.runtimes import llama_cpp_table
from tests.attacks import absurd_values
from tests.support import raw_gguf

_NUMBERS = (0, 1, -1, 2, 3, 64, 127, 4096, 2**31 - 1, 2**32, 2**63, 10**30, 0.5, 1e-320, 1e308, -0.0, 10000.0)
_TEXTS = ("", "llama", "yarn", "linear", "dynamic", "longrope", "llama3", "default", "su", "mrope", "\x1b[0m", "null")
_NAMES = (
    "rope_type", "type", "factor", "rope_theta", "original_max_position_embeddings", "beta_fast", "beta_slow",
    "short_factor", "long_factor", "attention_factor", "mscale", "mscale_all_dim", "low_freq_factor",
    "high_freq_factor", "mrope_section", "truncate", "rope_scaling", "rope_parameters", "partial_rotary_factor",
    "head_dim", "hidden_size", "num_attention_heads", "model_type", "architectures", "text_config", "layer_types",
    "sliding_window", "max_position_embeddings", "qk_rope_head_dim", "rope_local_base_freq", "full_attention",
    "sliding_attention", "yarn", "dim", "n_heads", "use_scaled_rope", "rope_scaling_factor", "vision_config",
)  # fmt: skip
_WORDS = tuple(struct.pack("<Q", n) for n in (0, 1, 8, 32, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1))


def mutate_json(data: bytes, draw: random.Random) -> bytes | None:
    """The document with one to four values changed; None where the bytes are no document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for _ in range(draw.randint(1, 4)):
        document = _changed(document, draw, 0)
    return json.dumps(document).encode()


def _changed(value: Any, draw: random.Random, depth: int) -> Any:
    if isinstance(value, dict) and value and depth < 8 and draw.random() < 0.9:
        name = draw.choice(list(value))
        step = draw.random()
        if step < 0.15:
            return {**value, draw.choice(_NAMES): _value(draw)}
        if step < 0.25:
            return {key: item for key, item in value.items() if key != name}
        if step < 0.3:
            return {**value, draw.choice(_NAMES): value[name]}
        return {**value, name: _changed(value[name], draw, depth + 1)}
    if isinstance(value, list) and value and depth < 8 and draw.random() < 0.7:
        place = draw.randrange(len(value))
        if draw.random() < 0.3:
            return value[:place] + value[place + 1 :]
        return [*value[:place], _changed(value[place], draw, depth + 1), *value[place + 1 :]]
    return _value(draw)


def _value(draw: random.Random) -> Any:
    kind = draw.random()
    if kind < 0.5:
        return draw.choice(_NUMBERS)
    if kind < 0.65:
        return draw.choice(_TEXTS)
    if kind < 0.8:
        return draw.choice((None, True, False, [], {}))
    if kind < 0.9:
        return [draw.choice(_NUMBERS) for _ in range(draw.randint(1, 40))]
    return {draw.choice(_NAMES): draw.choice((*_NUMBERS, *_TEXTS)) for _ in range(draw.randint(1, 4))}


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four runs overwritten, taken out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        end = min(len(changed), at + draw.choice((1, 1, 1, 4, 8, 8, 24)))
        step = draw.random()
        if step < 0.4:
            changed[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
        elif step < 0.7:
            changed[at : at + 8] = draw.choice(_WORDS)[: draw.choice((1, 4, 8))]
        elif step < 0.85:
            del changed[at:end]
        else:
            changed[at:at] = changed[at:end]
    return bytes(changed)


def odd_model(draw: random.Random) -> bytes:
    """A GGUF in order, of any architecture that llama.cpp knows, some of whose numbers are not."""
    architecture = draw.choice(sorted(llama_cpp_table.ARCHITECTURES))
    keys = {"attention.sliding_window": absurd_values.WINDOW} if draw.random() < 0.7 else {}
    for name in draw.sample(absurd_values.NAMES, draw.randint(1, 3)):
        keys[name] = draw.choice(list(absurd_values.NUMBERS.values())[:-1])  # not the large array
    if draw.random() < 0.4:
        keys["rope.scaling.type"] = (raw_gguf.STRING, raw_gguf.text(draw.choice(("yarn", "linear", "longrope"))))
    return absurd_values.gguf(keys, architecture)


def mutate(target: str, data: bytes, draw: random.Random) -> bytes:
    """One input of a target from another."""
    if target == "gguf" and draw.random() < 0.3:
        return odd_model(draw)
    if target in ("config", "params") and draw.random() < 0.9:
        found = mutate_json(data, draw)
        if found is not None:
            return found
    return mutate_bytes(data, draw)
