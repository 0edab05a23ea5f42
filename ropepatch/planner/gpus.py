"""Memory of accelerators, as their drivers report it."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """One card: its name and its memory in MiB (``nvidia-smi`` or ``rocm-smi``, total)."""

    name: str
    mib: int


GPUS = (
    Gpu("T4 16 GB",             15360),
    Gpu("A10G / L4 24 GB",      23028),
    Gpu("RTX 3090/4090 24 GB",  24564),
    Gpu("RTX 5090 32 GB",       32607),
    Gpu("A100 40 GB",           40960),
    Gpu("L40S 48 GB",           46068),
    Gpu("A100/H100 80 GB",      81559),
    Gpu("RTX PRO 6000 96 GB",   97887),
    Gpu("H200 141 GB",         143771),
    Gpu("B200 180 GB",         183359),
    Gpu("MI300X 192 GB",       196592),
)  # fmt: skip
#: numbers of cards that are tried
CARDS = (1, 2, 4, 8)
#: the share of a card that weights and cache may take; the rest is for activations
USABLE = 0.9
