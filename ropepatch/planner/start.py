"""Where an extension starts from: the trained context, or the declared one of a scaled checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropepatch.errors import UsageError
from ropepatch.frequencies import group_frequencies
from ropepatch.methods import REGISTRY
from ropepatch.methods.base import Frequencies

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint


@dataclass(frozen=True)
class Start:
    """Where an extension starts from.

    Attributes:
        group: the rope group that a longer context reaches.
        context: the context ``T`` in tokens.
        trained: the rotation up to there.
        existing: what ``apply --existing`` has to say for it: ``error`` (not scaled), ``replace`` or ``compose``.
        origin: what ``context`` is: ``trained``, ``given`` (--original-length) or ``declared``.
    """

    group: str
    context: int
    trained: Frequencies
    existing: str
    origin: str


def of(model: Checkpoint, group: str | None, existing: str | None, original: int | None) -> Start:
    """Where the extension starts from; see :class:`Start`.

    Raises:
        UsageError: the context is unknown, or ``existing`` does not fit.
    """
    profile = model.profile
    if existing not in (None, "replace", "compose"):
        raise UsageError(f"existing must be replace or compose, not {existing!r}")
    name = model.reached(group)
    rope = profile.groups[name]
    plain = Frequencies(rope.spectrum().inv_freq)
    if not rope.scaled and not profile.scaled:
        context = original or profile.trained_context or profile.declared_context
        if context is None:
            raise UsageError(f"{model.ref} does not say its trained context; pass --original-length")
        # p-RoPE's pairs stand still since training: the rotation of training is the one in force
        return Start(name, context, group_frequencies(rope), "error", "given" if original else "trained")
    known = original or profile.trained_context
    way = existing or ("replace" if known and not rope.scaling.trained_with else "compose")
    if profile.declared_context is None or (way == "replace" and known is None):
        if known is None:
            raise UsageError(f"{model.ref} does not say its original context; pass --original-length")
        way = "replace"
    if way == "replace":
        assert known is not None
        return Start(name, known, plain, way, "given" if original else "trained")
    declared = profile.declared_context
    assert declared is not None
    return Start(name, declared, group_frequencies(rope, declared), way, "declared")


def extendable(model: Checkpoint, start: Start, skipped: dict[str, str]) -> bool:
    """Whether any method can act on the group; else why not goes into ``skipped``."""
    group = model.profile.groups[start.group]
    reason = None
    if group.window:
        reason = f"the layers that rotate see no farther than {group.window:,} tokens"
    elif group.scaling.unextendable:
        reason = f"{group.scaling.unextendable}; no method extends it"
    elif group.scalable is False:
        reason = "nothing in the file reaches the rotation of these layers"
    if reason is not None:
        skipped |= {name: reason for name, method in REGISTRY.items() if method.applicable and name != "none"}
    return reason is None
