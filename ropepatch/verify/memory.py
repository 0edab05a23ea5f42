"""How much memory there is, how much a forward pass takes, and numbers of bytes for people."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.verify.forward import Settings
    from ropepatch.verify.promise import Promise

#: the interpreter with numpy and torch
_PROGRAM = 512 << 20
#: most that is held of the weights
_HELD = 8 << 30


def of_pass(checkpoint: Checkpoint, promise: Promise, settings: Settings, free: int | None) -> dict[str, Any]:
    """Bytes that a forward pass takes at its peak, part by part, from the metadata alone.

    ``held_weights`` is what it keeps so as not to read it again, out of half of what is free; the rest is needed.

    Raises:
        InputError: the built-in decoder does not know the model.
    """
    from ropepatch.verify import forward, shape, weights
    from ropepatch.verify.tensors import SLICE

    sizes, tensors = shape.read(checkpoint), weights.open_weights(checkpoint)
    layers = min(forward.layers_of(settings) or sizes.layers, sizes.layers)
    vocabulary = (tensors.shape(tensors.role("embed")) or (0,))[0]
    rows = [tensors.shape(tensors.role(role, 0)) for role in weights.LAYER_ROLES]
    item = 4 if settings.dtype == "float32" else 2
    cached = 2 * sizes.kv_heads * sizes.head_dim * layers  # numbers a token
    tokens, engine = settings.tokens, 0
    if settings.engine == "llama.cpp":
        trained, length = forward.lengths(checkpoint, promise)
        tokens = max(tokens, min(length, forward.PROMPT))
        engine = 4 * cached * forward.llama_context(promise, trained, length) + tokens * 4 * (vocabulary + sizes.hidden)
    parts = {
        "program": _PROGRAM,
        # Bytes, the dequantised groups, their sum, and the slice in another type.
        "weights": 4 * SLICE,
        "activations": tokens * (8 * sizes.hidden + 3 * max((found[0] for found in rows if found), default=0)) * item,
        "keys_and_values": 2 * tokens * cached * item,
        "attention": (sizes.heads if any(sizes.windows) else 1) * tokens * tokens * 4,
        # Three passes as float64, the pieces of one more, and what a row of their difference takes.
        "logits": (64 * 8 * 3 + 64 * 4 * 4 + 4 * 8) * vocabulary,
        "engine": engine,
    }
    needed = sum(parts.values())
    spare = (free // 2 - needed) if free is not None else 0
    parts["held_weights"] = max(0, min(spare, _HELD, _size(tensors, layers) * item))
    return {"total": needed + parts["held_weights"], "needed": needed, **parts}


def _size(tensors: Any, layers: int) -> int:
    """Numbers in the first ``layers`` layers and the head."""
    import math

    from ropepatch.verify import weights

    names = [tensors.role(role, layer) for layer in range(layers) for role in weights.LAYER_ROLES]
    head = tensors.role("head")
    names.append(head if tensors.shape(head) else tensors.role("embed"))
    return sum(math.prod(found) for name in names if (found := tensors.shape(name)))


def available() -> int | None:
    """Bytes that can be taken, also within a cap on the process; None where the system does not say."""
    found = [value for value in (_meminfo(), _headroom()) if value is not None]
    return min(found) if found else None


def _meminfo() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _headroom() -> int | None:
    """What a cap on the process leaves: on its address space, or on its data."""
    try:
        import resource
    except ImportError:
        return None
    found = []
    # Fields of statm, in pages: the whole address space, and data with stack.
    for kind, field in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        soft, _ = resource.getrlimit(kind)
        if soft == resource.RLIM_INFINITY:
            continue
        try:
            with open("/proc/self/statm", encoding="ascii") as file:
                found.append(max(0, soft - int(file.read().split()[field]) * resource.getpagesize()))
        except (OSError, ValueError, IndexError):
            continue
    return min(found, default=None)


def human(count: float) -> str:
    """``1.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
