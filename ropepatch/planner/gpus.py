"""Memory of accelerators, as their drivers report it."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """One card, its memory in MiB (``nvidia-smi`` or ``rocm-smi``, total), and where that output stands.

    A row for several cards has the smallest of their numbers.
    """

    name: str
    mib: int
    source: str


_MODAL = "https://github.com/modal-labs/modal-client/pull/2797"
_LOGS = "nvidia-smi of the card, as printed in public logs"

GPUS = (
    Gpu("T4 16 GB",             15360, _MODAL),
    Gpu("A10G / L4 24 GB",      23028, _MODAL),  # L4: 23034
    Gpu("RTX 3090/4090 24 GB",  24564, "https://github.com/vllm-project/vllm/issues/7553"),  # 3090: 24576
    Gpu("RTX 5090 32 GB",       32607, "https://github.com/noonghunna/club-3090/issues/859"),
    Gpu("A100 40 GB",           40960, _MODAL),
    Gpu("L40S 48 GB",           46068, _MODAL),
    Gpu("A100/H100 80 GB",      81559, _MODAL),  # A100: 81920
    Gpu("RTX PRO 6000 96 GB",   97887, _LOGS),
    Gpu("H200 141 GB",         143771, _LOGS),
    Gpu("B200 180 GB",         183359, "https://github.com/NVIDIA/TensorRT-LLM/issues/10278"),
    Gpu("MI300X 192 GB",       196592, "https://github.com/ROCm/legacy-rocm-build/issues/4414"),  # 201310208 KB
)  # fmt: skip
#: numbers of cards that are tried
CARDS = (1, 2, 4, 8)
#: the share of a card that weights and cache may take; the rest is for activations
USABLE = 0.9
