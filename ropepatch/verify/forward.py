"""A forward pass at far positions, held against what the frequencies promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ropepatch.errors import CheckFailed, InputError
from ropepatch.frequencies import deviation, profile_frequencies
from ropepatch.methods.base import Frequencies
from ropepatch.profile import RopeProfile
from ropepatch.verify import engines, probes
from ropepatch.verify.promise import FAILED, PASSED, SKIPPED, WARNED, Check, Promise, trained_context

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.verify.engines import Engine, TorchEngine

#: float32 frequencies: ours are rounded once, transformers' are computed in float32
LIVE_LIMIT = {"torch": 1e-6, "transformers": 2e-5}
#: a live frequency that differs from the base's by less has not been changed
_CHANGED = 1e-4
#: log-probabilities of two engines, by dtype
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
#: same frequencies in a short context: the same numbers up to the order of additions
_SAME_KL = 1e-6
#: top-1 agreement below this inside the trained range calls for fine-tuning
_KEPT = 0.5
#: context without one in the file
_DEFAULT_LENGTH = 4096
#: contiguous tokens that llama.cpp is given at most
_PROMPT = 4096
_SEED = 20260


@dataclass(frozen=True)
class Settings:
    """How the pass is run.

    Attributes:
        engine: ``torch``, ``transformers`` or ``llama.cpp``; the last two are held against the first.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: of weights and activations.
        layers: how many layers to run; None means all.
        tokens: how many tokens are placed over the context.
    """

    engine: str = "torch"
    device: str = "auto"
    dtype: str = "float32"
    layers: int | None = 2
    tokens: int = 256


def far_positions(length: int, count: int, runs: int = 8) -> list[int]:
    """``count`` positions from 0 to ``length - 1``: as many runs of neighbours, the last one ending at the end."""
    if length <= count:
        return list(range(length))
    run = count // runs
    starts = np.linspace(0, length - run, runs).round().astype(int)
    return sorted({int(start) + offset for start in starts for offset in range(run)})


def lengths(checkpoint: Checkpoint, promise: Promise) -> tuple[int, int]:
    """The trained context and the new one, in tokens."""
    declared = promise.context or checkpoint.profile.declared_context or _DEFAULT_LENGTH
    return min(trained_context(promise.base) or declared, declared), declared


class Pass:
    """The engines of one verification, loaded once."""

    def __init__(self, checkpoint: Checkpoint, base: Checkpoint | None, promise: Promise, settings: Settings) -> None:
        self.checkpoint, self.base, self.promise, self.settings = checkpoint, base, promise, settings
        self.trained, self.length = lengths(checkpoint, promise)
        self.device = engines.device_of(settings.device)
        self.tokens = np.random.default_rng(_SEED)

    def ours(self, profile: RopeProfile, length: int | None, of: Checkpoint | None = None) -> TorchEngine:
        """Our decoder rotating as ``profile`` says."""
        return engines.torch_engine(
            of or self.checkpoint, profile, length,
            layers=self.layers, device=self.device, dtype=self.settings.dtype,
        )  # fmt: skip

    @property
    def layers(self) -> int | None:
        """Layers to run: llama.cpp always runs all."""
        return None if self.settings.engine == "llama.cpp" else self.settings.layers

    def checks(self) -> list[Check]:
        """Run everything.

        Raises:
            InputError: the checkpoint cannot be run by the engine that was asked for.
        """
        try:
            ours: TorchEngine | None = self.ours(self.checkpoint.profile, self.length)
        except InputError:
            if self.settings.engine == "torch":
                raise
            ours = None  # not of the llama family: the other engine alone
        found: list[Check] = []
        loaded: Engine | None = ours
        if self.settings.engine == "transformers":
            loaded = engines.TransformersEngine(self.checkpoint, self.layers, self.device, self.settings.dtype)
        elif self.settings.engine == "llama.cpp":
            from ropepatch.verify.llama_engine import LlamaCppEngine

            loaded = LlamaCppEngine(Path(self.checkpoint.ref), self.length)
        assert loaded is not None
        self.engine_versions = {engine.name: engine.version for engine in (ours, loaded) if engine is not None}
        found += self._one_engine(loaded, ours)
        if ours is None:
            return [*found, Check("drift", SKIPPED, "needs the built-in decoder, which does not know this model")]
        return [*found, self._drift(ours), self._range(ours), *self._shift(ours)]

    # ---- single checks ----------------------------------------------------------------------------------------------

    def _one_engine(self, loaded: Engine, ours: TorchEngine | None) -> list[Check]:
        """Finite numbers, frequencies in the module, agreement with our decoder."""
        whole = loaded.name == "llama.cpp"
        positions = (
            list(range(min(self.length - 1, _PROMPT))) if whole else far_positions(self.length, self.settings.tokens)
        )
        if loaded.name == "transformers" and ours and any(rope.window for rope in ours.decoder.ropes):
            # Its windows count tokens, ours positions: the two are the same only without gaps.
            positions = list(range(max(0, self.length - self.settings.tokens), self.length))
        vocabulary = ours.decoder.vocabulary if ours else _vocabulary(loaded)
        tokens = self.tokens.integers(0, vocabulary, len(positions)).tolist()
        at = sorted({len(tokens) * part // 4 for part in (1, 2, 3)} | {len(tokens) - 2, len(tokens) - 1})
        at = [index for index in at if index >= 0]
        try:
            theirs = loaded.log_probabilities(tokens, positions, at)
        except CheckFailed as error:
            return [Check("finite", FAILED, error.what, {"positions": positions[-1]})]
        found = [_finite(theirs, positions[-1])]
        live = loaded.rotations()
        if live is not None:
            found += [self._live(live, loaded.name), self._changed(live)]
        if ours is not None and loaded is not ours:
            mine = ours.log_probabilities(tokens, positions, at)
            found.append(self._agreement(loaded.name, mine, theirs, positions[-1], ours))
        return found

    def _live(self, live: dict[str, Frequencies], engine: str) -> Check:
        wanted = profile_frequencies(self.promise.profile, self.length)
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

    def _changed(self, live: dict[str, Frequencies]) -> Check:
        base = profile_frequencies(self.promise.base, self.trained)
        promised = profile_frequencies(self.promise.profile, self.length)
        names = [name for name in promised if name in base]
        if all(deviation(promised[name], base[name]) <= _CHANGED for name in names):
            return Check("changed", SKIPPED, "nothing was to change: the promised frequencies are the base's")
        if len(live) == len(base) == 1:
            live = dict(zip(base, live.values(), strict=True))
        most = max((deviation(live[name], base[name]) for name in names if name in live), default=0.0)
        numbers = {"deviation": most if np.isfinite(most) else None}
        if most > _CHANGED:
            return Check("changed", PASSED, f"differs from the base by up to {most:.3g} relative", numbers)
        return Check("changed", FAILED, "the module rotates as the base does: the scaling is not in force", numbers)

    def _agreement(self, name: str, mine: engines.Array, theirs: engines.Array, last: int, ours: TorchEngine) -> Check:
        if mine.shape != theirs.shape:
            return Check("agreement", FAILED, f"{name} has {theirs.shape[1]} tokens, the weights {mine.shape[1]}")
        if ours.decoder.stops_at_attention:
            return Check("agreement", SKIPPED, "our decoder leaves out the experts, so that logits are not comparable")
        difference, limit = float(np.abs(mine - theirs).max()), AGREEMENT[self.settings.dtype]
        if ours.decoder.weights_are_quantised:
            limit = max(limit, AGREEMENT["bfloat16"])  # llama.cpp quantises activations as well
        numbers = {"difference": difference, "limit": limit, "position": last}
        detail = (
            f"log-probabilities of {name} and the built-in decoder differ by {difference:.1e} up to position {last}"
        )
        return Check("agreement", PASSED if difference <= limit else FAILED, detail, numbers)

    def _drift(self, ours: TorchEngine) -> Check:
        """How far short texts are from the base's."""
        count = min(self.trained, self.settings.tokens)
        tokens = self.tokens.integers(0, ours.decoder.vocabulary, count).tolist()
        places, at = list(range(count)), list(range(count // 2, count, max(1, count // 64)))
        base = self.ours(self.promise.base, self.trained, self.base)
        short = self.ours(self.checkpoint.profile, self.trained)
        a, b = (engine.log_probabilities(tokens, places, at) for engine in (base, short))
        if a.shape != b.shape:
            return Check("drift", FAILED, f"the base has {a.shape[1]} tokens in its vocabulary, not {b.shape[1]}")
        kl = float((np.exp(a) * (a - b)).sum(-1).mean())
        same = float((a.argmax(-1) == b.argmax(-1)).mean())
        numbers = {"kl": kl, "top1_agreement": same, "positions": len(at), "tokens": count}
        told = f"at {len(at)} positions of a text of {count} tokens: KL {kl:.3g}, same best token {same:.0%}"
        one, two = (profile_frequencies(p, self.trained) for p in (self.promise.base, self.checkpoint.profile))
        if self.base is None and all(deviation(two[name], one[name]) <= 1e-6 for name in two if name in one):
            result = PASSED if abs(kl) <= _SAME_KL and same == 1 else FAILED
            return Check("drift", result, f"{told}; short contexts are not scaled, so that nothing may change", numbers)
        if same < _KEPT:
            return Check("drift", WARNED, f"{told}; expect to fine-tune", numbers)
        return Check("drift", PASSED, f"{told}; the method scales short contexts too and promises no bound", numbers)

    def _range(self, ours: TorchEngine) -> Check:
        """Attention logits at distances beyond the trained ones against those at trained ones."""
        if self.length <= self.trained:
            return Check("attention range", SKIPPED, "the context is not longer than the trained one")
        positions = far_positions(self.length, self.settings.tokens)
        tokens = self.tokens.integers(0, ours.decoder.vocabulary, len(positions)).tolist()
        plain = self.ours(self.promise.base, self.trained, self.base)
        found = {
            name: probes.score_range(engine.decoder, tokens, positions, self.trained)
            for name, engine in (("base", plain), ("patched", ours))
        }
        numbers = {name: item.to_json() for name, item in found.items()}
        over, unpatched = found["patched"].overshoot, found["base"].overshoot
        told = (
            f"far logits {found['patched'].far[0]:.2f} to {found['patched'].far[1]:.2f}, near ones "
            f"{found['patched'].near[0]:.2f} to {found['patched'].near[1]:.2f} ({over:.0%} beyond); "
            f"unscaled {unpatched:.0%} beyond"
        )
        return Check("attention range", PASSED if over <= probes.OVERSHOOT else WARNED, told, numbers)

    def _shift(self, ours: TorchEngine) -> list[Check]:
        """The same tokens near the beginning and near the end: the scores between them must not differ."""
        count = min(64, self.length)
        tokens = self.tokens.integers(0, ours.decoder.vocabulary, count).tolist()
        numbers = probes.shift(ours.decoder, tokens, self.length - count)
        limit = probes.SHIFT_LIMIT if self.settings.dtype == "float32" else 0.05
        told = (
            f"shifted by {self.length - count}: scores differ by {numbers['exact']:.1e} of their range with exact "
            f"angles, {numbers['float32']:.1e} with float32 ones, {numbers['bfloat16']:.1e} if positions were bfloat16"
        )
        return [Check("relative positions", PASSED if numbers["exact"] <= limit else FAILED, told, numbers)]


def _vocabulary(engine: Engine) -> int:
    return (
        int(engine.model.config.get_text_config().vocab_size) if isinstance(engine, engines.TransformersEngine) else 1
    )


def _finite(values: npt.NDArray[Any], last: int) -> Check:
    bad = int((~np.isfinite(values)).sum())
    numbers = {"position": last, "not_finite": bad}
    if bad:
        return Check(
            "finite", FAILED, f"{bad} of {values.size} log-probabilities up to position {last} are not finite", numbers
        )
    return Check("finite", PASSED, f"log-probabilities up to position {last} are finite", numbers)


def estimate(checkpoint: Checkpoint, settings: Settings) -> dict[str, Any]:
    """Bytes that the pass takes at its peak, part by part, from the metadata alone."""
    from ropepatch.verify import decoder, shape, weights

    sizes, tensors = shape.read(checkpoint), weights.open_weights(checkpoint)
    embedding = tensors.shape(tensors.role("embed")) or (0, 0)
    shapes = [tensors.shape(tensors.role(role, 0)) for role in weights.LAYER_ROLES]
    widest = max((found[0] for found in shapes if found), default=0)
    item = 4 if settings.dtype == "float32" else 2
    tokens = settings.tokens
    parts = {
        "weights": 3 * decoder.SLICE,
        "activations": tokens * (6 * sizes.hidden + 3 * widest) * item,
        "keys_and_values": 2 * tokens * sizes.kv_heads * sizes.head_dim * (settings.layers or sizes.layers) * item,
        "attention": 4 * sizes.heads * tokens * tokens * 4,
        "logits": 3 * 64 * embedding[0] * 4,
    }
    return {"total": sum(parts.values()), **parts}


def run(
    checkpoint: Checkpoint, base: Checkpoint | None, promise: Promise, settings: Settings
) -> tuple[Sequence[Check], dict[str, Any]]:
    """All checks of a forward pass, and the surroundings that they were made in."""
    import platform
    import time

    started = time.monotonic()
    work = Pass(checkpoint, base, promise, settings)
    found = work.checks()
    return found, {
        "device": _device_name(work.device),
        "dtype": settings.dtype,
        "layers": work.layers,
        "engines": work.engine_versions,
        "python": platform.python_version(),
        "trained_context": work.trained,
        "context": work.length,
        "seconds": round(time.monotonic() - started, 3),
    }


def _device_name(device: str) -> str:
    import platform

    if device != "cuda":
        return f"cpu ({platform.machine()})"
    import torch

    return f"cuda ({torch.cuda.get_device_name()})"
