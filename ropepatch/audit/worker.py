"""An engine on another machine: made from names, asked for whole tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropepatch import checkpoint
from ropepatch.audit import variants
from ropepatch.audit.cells import Cell, Work, measure


class Worker:
    """Opens the checkpoints where it lives, and holds the engine.

    Args:
        ref: the checkpoint, readable from every machine.
        base: what it is an extension of.
        wanted: the other arguments of :func:`ropepatch.audit.variants.resolve`, in their order.
        engine: the engine's name.
        options: what :func:`ropepatch.audit.engine.opened` takes.
    """

    def __init__(
        self, ref: str, base: str | None, wanted: Sequence[Any], engine: str, options: Mapping[str, Any]
    ) -> None:
        from ropepatch.audit import engine as engines

        other = checkpoint.open(base) if base else None
        self.chosen = {item.name: item for item in variants.resolve(checkpoint.open(ref), other, *wanted)}
        self.engine = engines.opened(engine, list(self.chosen.values()), **options)

    def cells(self, work: Work, variant: str, known: tuple[float, ...], limit: int | None) -> list[Cell]:
        """The cells of some work that are not known yet."""
        return list(measure(self.engine, self.chosen[variant], work, limit=limit, skip=known))
