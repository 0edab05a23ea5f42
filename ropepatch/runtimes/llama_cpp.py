"""llama.cpp: what it reads of a GGUF, and what it makes of it."""

from __future__ import annotations

from ropepatch.runtimes.llama_cpp_table import ARCHITECTURES, Row


def reads(architecture: str) -> Row | None:
    """What llama.cpp reads for an architecture; None when it does not know it."""
    return ARCHITECTURES.get(architecture)


def architectures_with_factors() -> list[str]:
    """The architectures whose graph uses per-pair factor tensors."""
    return sorted(name for name, row in ARCHITECTURES.items() if row.factors in ("F", "L", "Fc"))
