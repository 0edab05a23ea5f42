"""What an engine computes, held against the promised frequencies: those in its module, or its log-probabilities."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ropepatch.frequencies import deviation, profile_frequencies
from ropepatch.methods.base import Frequencies
from ropepatch.verify.promise import FAILED, PASSED, SKIPPED, WARNED, Check, Promise

if TYPE_CHECKING:
    from ropepatch.verify.engines import Array, TorchEngine

#: float32 frequencies: ours are rounded once, transformers' are computed in float32
LIVE_LIMIT = {"torch": 1e-6, "transformers": 2e-5}
#: a live frequency that differs from the base's by less has not been changed
CHANGED = 1e-4
#: log-probabilities of two engines, by dtype
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
#: of the largest log-probability's size: what is far from zero is rounded as coarsely (four units in the last place)
_RELATIVE = {"float32": 0.0, "bfloat16": 2.0**-5, "float16": 2.0**-8}
#: of an engine that does not show its frequencies: they count as changed if the base's are as many times farther away
_NEARER = 3.0
_NOTHING = "nothing was to change: the promised frequencies are the base's"
_STILL = "the module holds no frequencies, so that no layer that was run rotates"


@dataclass(frozen=True)
class Expected:
    """What an engine has to compute.

    Attributes:
        promise: what the checkpoint should be.
        trained: the trained context in tokens, at which the base rotates.
        length: the new one.
    """

    promise: Promise
    trained: int
    length: int

    def in_module(self, live: dict[str, Frequencies], engine: str) -> Check:
        """The frequencies that stand in an engine's module, against the promised ones."""
        wanted = profile_frequencies(self.promise.profile, self.length)
        if not live:
            return Check("frequencies", FAILED, f"{_STILL}; promised: {', '.join(wanted)}")
        worst, limit = 0.0, LIVE_LIMIT[engine]
        if len(live) == len(wanted) == 1:
            live = dict(zip(wanted, live.values(), strict=True))
        for name, have in live.items():
            if name not in wanted:
                return Check("frequencies", FAILED, f"the module has frequencies for {name}, the promise none")
            worst = max(worst, deviation(have, wanted[name]))
        numbers = {"deviation": worst if np.isfinite(worst) else None, "limit": limit}
        if worst <= limit:
            return Check("frequencies", PASSED, f"in the module as promised, largest deviation {worst:.1e}", numbers)
        return Check(
            "frequencies",
            FAILED,
            f"the module does not rotate as promised: largest relative deviation {worst:.2g}, limit {limit:.0e}",
            numbers,
        )

    def changed(self, live: dict[str, Frequencies]) -> Check:
        """Whether they are others than the base's."""
        base = profile_frequencies(self.promise.base, self.trained)
        promised = profile_frequencies(self.promise.profile, self.length)
        names = [name for name in promised if name in base]
        if self.nothing_to_change:
            return Check("changed", SKIPPED, _NOTHING)
        if not live:
            return Check("changed", FAILED, f"{_STILL}: the scaling is not in force")
        if len(live) == len(base) == 1:
            live = dict(zip(base, live.values(), strict=True))
        most = max((deviation(live[name], base[name]) for name in names if name in live), default=0.0)
        numbers = {"deviation": most if np.isfinite(most) else None}
        if most > CHANGED:
            return Check("changed", PASSED, f"differs from the base by up to {most:.3g} relative", numbers)
        return Check("changed", FAILED, "the module rotates as the base does: the scaling is not in force", numbers)

    def unseen(self, name: str, promised: float, base: float) -> list[Check]:
        """An engine that shows no frequencies, by how far its numbers are from those of the two rotations."""
        told = f"{name} does not show what it rotates by"
        numbers = {"to_promised": promised, "to_base": base}
        found = [Check("frequencies", SKIPPED, f"{told}; see changed and agreement")]
        if self.nothing_to_change:
            return [*found, Check("changed", SKIPPED, _NOTHING)]
        detail = f"log-probabilities are {promised:.1e} from the checkpoint's rotation and {base:.1e} from the base's"
        if base > _NEARER * promised:
            return [*found, Check("changed", PASSED, detail, numbers)]
        if promised > _NEARER * base:
            return [*found, Check("changed", FAILED, f"{detail}: the scaling is not in force", numbers)]
        return [*found, Check("changed", WARNED, f"{detail}: this text does not tell them apart", numbers)]

    def agreement(self, name: str, mine: Array, theirs: Array, last: int, ours: TorchEngine, dtype: str) -> Check:
        """Log-probabilities of an engine against those of our decoder, up to position ``last``."""
        if mine.shape != theirs.shape:
            return Check("agreement", FAILED, f"{name} has {theirs.shape[1]} tokens, the weights {mine.shape[1]}")
        if ours.decoder.stops_at_attention:
            return Check("agreement", SKIPPED, "our decoder leaves out the experts, so that logits are not comparable")
        difference = float(np.abs(mine - theirs).max())
        limit = max(AGREEMENT[dtype], _RELATIVE[dtype] * float(np.abs(mine).max()))
        if ours.decoder.weights_are_quantised:
            limit = max(limit, AGREEMENT["bfloat16"])  # llama.cpp quantises activations as well
        numbers = {"difference": difference, "limit": limit, "position": last}
        detail = (
            f"log-probabilities of {name} and the built-in decoder differ by {difference:.1e} up to position {last}, "
            f"limit {limit:.3g} for {dtype}"
        )
        if last < self.trained < self.length:
            detail += f"; {name} was not given positions beyond the trained {self.trained}"
        return Check("agreement", PASSED if difference <= limit else FAILED, detail, numbers)

    @functools.cached_property
    def nothing_to_change(self) -> bool:
        """Whether the promised frequencies are the base's."""
        base = profile_frequencies(self.promise.base, self.trained)
        promised = profile_frequencies(self.promise.profile, self.length)
        return all(deviation(promised[name], base[name]) <= CHANGED for name in promised if name in base)


def finite(values: npt.NDArray[Any], last: int) -> Check:
    """Whether all log-probabilities up to position ``last`` are numbers."""
    bad = int((~np.isfinite(values)).sum())
    numbers = {"position": last, "not_finite": bad}
    if bad:
        return Check(
            "finite", FAILED, f"{bad} of {values.size} log-probabilities up to position {last} are not finite", numbers
        )
    return Check("finite", PASSED, f"log-probabilities up to position {last} are finite", numbers)
