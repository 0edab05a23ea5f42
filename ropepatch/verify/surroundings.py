"""What a forward pass ran on, and with which libraries; and the switches that would make it inexact."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator
from typing import Any

#: named in a statement where they are installed
_LIBRARIES = ("gguf", "numpy", "safetensors", "torch", "transformers", "xllamacpp")


def libraries() -> dict[str, Any]:
    """``{"python", "libraries", "cuda"}``: versions; ``cuda`` is that which torch was built for, or null."""
    import torch

    from ropepatch._version import __version__
    from ropepatch._versions import installed

    found = {"ropepatch": __version__}
    for name in _LIBRARIES:
        version = installed(name)
        if version is not None:
            found[name] = version
    found["torch"] = str(torch.__version__)  # with the build that its metadata leaves out
    return {"python": platform.python_version(), "libraries": found, "cuda": torch.version.cuda}


def device_name(device: str) -> str:
    """``cpu (x86_64)``, or ``cuda`` with the name of the card."""
    if device != "cuda":
        return f"cpu ({platform.machine()})"
    import torch

    return f"cuda ({torch.cuda.get_device_name()})"


def spare(device: str) -> int:
    """Bytes of weights that may be held on a device: half of what a card has free, any number elsewhere."""
    if device != "cuda":
        return sys.maxsize
    import torch

    return int(torch.cuda.mem_get_info()[0]) // 2


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """float32 products in float32, whatever the process allows (TF32 on a card, bfloat16 on a CPU)."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with sdpa_kernel(SDPBackend.MATH) if torch.cuda.is_available() else contextlib.nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)
