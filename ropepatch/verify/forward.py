"""A forward pass at far positions, held against what the frequencies promise."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropepatch.errors import CheckFailed, InputError
from ropepatch.frequencies import deviation, profile_frequencies
from ropepatch.methods.linear import Linear
from ropepatch.methods.stack import Stack
from ropepatch.profile import RopeProfile
from ropepatch.verify import engines, live, probes
from ropepatch.verify.promise import FAILED, PASSED, SKIPPED, WARNED, Check, Promise, main_group, trained_context

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.verify.engines import Engine, TorchEngine

#: same frequencies in a short context: the same numbers up to the order of additions
_SAME_KL = 1e-6
#: top-1 agreement below this inside the trained range calls for fine-tuning
_KEPT = 0.5
#: context without one in the file
_DEFAULT_LENGTH = 4096
#: contiguous tokens that llama.cpp is given at most
PROMPT = 4096
#: positions of a short text whose predictions are compared
_COMPARED = 64
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
        hold: bytes of weights that may stay in memory, so that they are not read again.
    """

    engine: str = "torch"
    device: str = "auto"
    dtype: str = "float32"
    layers: int | None = 2
    tokens: int = 256
    hold: int = 0


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
        self.expected = live.Expected(promise, self.trained, self.length)
        self.device = engines.device_of(settings.device)
        self.tokens = np.random.default_rng(_SEED)
        self.engine_versions: dict[str, str] = {}
        self._first: TorchEngine | None = None

    def ours(self, profile: RopeProfile, length: int | None, of: Checkpoint | None = None) -> TorchEngine:
        """Our decoder rotating as ``profile`` says; those of the same checkpoint share their weights."""
        made = engines.torch_engine(
            of or self.checkpoint, profile, length,
            layers=self.layers, device=self.device, dtype=self.settings.dtype,
            hold=0 if of else self.settings.hold, like=None if of else self._first,
        )  # fmt: skip
        if of is None and self._first is None:
            self._first = made
        return made

    @functools.cached_property
    def plain(self) -> TorchEngine:
        """The base in our decoder."""
        return self.ours(self.promise.base, self.trained, self.base)

    @property
    def layers(self) -> int | None:
        """Layers to run: llama.cpp always runs all."""
        return layers_of(self.settings)

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
        loaded: Engine | None = ours
        if self.settings.engine == "transformers":
            loaded = engines.TransformersEngine(self.checkpoint, self.layers, self.device, self.settings.dtype)
        elif self.settings.engine == "llama.cpp":
            from ropepatch.verify.llama_engine import LlamaCppEngine

            loaded = LlamaCppEngine(Path(self.checkpoint.ref), llama_context(self.promise, self.trained, self.length))
        assert loaded is not None
        self.engine_versions = {engine.name: engine.version for engine in (ours, loaded) if engine is not None}
        found = self._one_engine(loaded, ours)
        if ours is None:
            why = "needs the built-in decoder, which does not know this model"
            return [*found, *(Check(name, SKIPPED, why) for name in ("drift", "attention range", "relative positions"))]
        return [*found, self._drift(ours), self._range(ours), self._shift(ours)]

    def _one_engine(self, loaded: Engine, ours: TorchEngine | None) -> list[Check]:
        """Finite numbers, frequencies in the module, agreement with our decoder."""
        whole = loaded.name == "llama.cpp"
        positions = (
            list(range(min(self.length - 1, PROMPT))) if whole else far_positions(self.length, self.settings.tokens)
        )
        if loaded.name == "transformers" and ours and any(rope.window for rope in ours.decoder.ropes):
            # Its windows count tokens, ours positions: the two are the same only without gaps.
            positions = list(range(max(0, self.length - self.settings.tokens), self.length))
        vocabulary = ours.decoder.vocabulary if ours else _vocabulary(loaded)
        tokens = self.tokens.integers(0, vocabulary, len(positions)).tolist()
        at = sorted({len(tokens) * part // 4 for part in (1, 2, 3)} | {len(tokens) - 2, len(tokens) - 1})
        at = [index for index in at if index >= 0]
        text = tokens, positions, at
        try:
            theirs = loaded.log_probabilities(*text)
        except CheckFailed as error:
            return [Check("finite", FAILED, error.what, {"positions": positions[-1]})]
        found = [live.finite(theirs, positions[-1])]
        rotations = loaded.rotations()
        if rotations is not None:
            found += [self.expected.in_module(rotations, loaded.name), self.expected.changed(rotations)]
        if ours is None or loaded is ours:
            if rotations is None:
                found.append(Check("frequencies", SKIPPED, f"{loaded.name} does not show what it rotates by"))
            return found
        if rotations is not None and found[1].result == PASSED:
            with ours.rotating(rotations):
                mine = ours.log_probabilities(*text)
        else:
            mine = ours.log_probabilities(*text)
        if rotations is None and mine.shape == theirs.shape:
            base = self.plain.log_probabilities(*text)
            found += self.expected.unseen(loaded.name, *(float(np.abs(theirs - one).max()) for one in (mine, base)))
        found.append(self.expected.agreement(loaded.name, mine, theirs, positions[-1], ours, self.settings.dtype))
        return found

    def _drift(self, ours: TorchEngine) -> Check:
        """How far short texts are from the base's, and from where plain interpolation would bring them."""
        count = min(self.trained, self.settings.tokens)
        tokens = self.tokens.integers(0, ours.decoder.vocabulary, count).tolist()
        text = tokens, list(range(count)), list(range(count // 2, count, max(1, count // _COMPARED)))
        base = self.plain.log_probabilities(*text)
        short = self.ours(self.checkpoint.profile, self.trained).log_probabilities(*text)
        if base.shape != short.shape:
            return Check("drift", FAILED, f"the base has {base.shape[1]} tokens, not {short.shape[1]}")
        kl, same = _difference(base, short)
        numbers: dict[str, Any] = {"kl": kl, "top1_agreement": same, "positions": len(text[2]), "tokens": count}
        told = f"at {len(text[2])} positions of a text of {count} tokens: KL {kl:.3g}, same best token {same:.0%}"
        one, two = (profile_frequencies(p, self.trained) for p in (self.promise.base, self.checkpoint.profile))
        if self.base is None and all(deviation(two[name], one[name]) <= 1e-6 for name in two if name in one):
            result = PASSED if abs(kl) <= _SAME_KL and same == 1 else FAILED
            return Check("drift", result, f"{told}; short contexts are not scaled, so that nothing may change", numbers)
        interpolated = self._interpolated()
        result, advice = (WARNED, "; expect to fine-tune") if same < _KEPT else (PASSED, "")
        if interpolated is None:
            return Check("drift", result, f"{told}; the method promises no bound{advice}", numbers)
        limit, kept = _difference(base, self.ours(interpolated, self.trained).log_probabilities(*text))
        numbers |= {"interpolation_kl": limit, "interpolation_top1_agreement": kept}
        told += f"; plain interpolation {limit:.3g}, {kept:.0%}"
        if kl > limit or same < kept:
            return Check("drift", WARNED, f"{told}: it should be nearer to the base than that", numbers)
        return Check("drift", result, told + advice, numbers)

    def _interpolated(self) -> RopeProfile | None:
        """The base under plain interpolation by the same factor: the most that another method may cost short texts."""
        name, group = main_group(self.promise.base)
        _, patched = main_group(self.promise.profile)
        unbounded = isinstance(patched.scaling, (Linear, Stack)) or patched.scaling.name == "factors"
        if self.base is not None or group.scaled or unbounded or self.length <= self.trained:
            return None
        slower = dataclasses.replace(group, scaling=Linear(self.length / self.trained))
        return dataclasses.replace(self.promise.base, groups={**self.promise.base.groups, name: slower})

    def _range(self, ours: TorchEngine) -> Check:
        """Attention logits at distances beyond the trained ones against those at trained ones."""
        if self.length <= self.trained:
            return Check("attention range", SKIPPED, "the context is not longer than the trained one")
        count = min(self.trained, self.settings.tokens)
        tokens = self.tokens.integers(0, ours.decoder.vocabulary, count).tolist()
        found = probes.reach(self.plain.decoder, ours.decoder, tokens, self.trained, self.length)
        if found is None:
            return Check("attention range", SKIPPED, "no layer of those that run both rotates and sees beyond a window")
        over = found.overshoot
        limits = {name: f"{low:.2f} to {high:.2f}" for name, (low, high) in (("near", found.near), *found.far.items())}
        told = (
            f"the same queries and keys at trained distances {limits['near']}, beyond them {limits['patched']}, "
            f"{over['patched']:.1%} outside a pair's own range (unpatched {limits['base']}, {over['base']:.1%})"
        )
        numbers = {**found.to_json(), "limit": probes.OVERSHOOT}
        return Check("attention range", PASSED if over["patched"] <= probes.OVERSHOOT else WARNED, told, numbers)

    def _shift(self, ours: TorchEngine) -> Check:
        """The same tokens near the beginning and near the end: the scores between them must not differ."""
        count = min(64, self.length)
        tokens = self.tokens.integers(0, ours.decoder.vocabulary, count).tolist()
        numbers = probes.shift(ours.decoder, tokens, self.length - count)
        limits = probes.shift_limits(self.settings.dtype, self.length)
        told = (
            f"shifted by {self.length - count}: scores differ by {numbers['exact']:.1e} of their range with exact "
            f"angles, {numbers['float32']:.1e} with float32 ones (limit {limits['float32']:.0e}), "
            f"{numbers['bfloat16_tables']:.1e} with bfloat16 tables, {numbers['bfloat16']:.1e} if positions were "
            f"bfloat16, which tells {numbers['bfloat16_distinct']} of {count} apart"
        )
        passed = all(numbers[name] <= limit for name, limit in limits.items())
        return Check("relative positions", PASSED if passed else FAILED, told, {**numbers, "limits": limits})


def _difference(base: engines.Array, other: engines.Array) -> tuple[float, float]:
    """Mean KL of ``other`` from ``base`` in nats, and the share of rows with the same best token; row by row."""
    kl = float(np.mean([(np.exp(a) * (a - b)).sum() for a, b in zip(base, other, strict=True)]))
    return kl, float((base.argmax(-1) == other.argmax(-1)).mean())


def layers_of(settings: Settings) -> int | None:
    """How many layers a pass runs; None means all."""
    return None if settings.engine == "llama.cpp" else settings.layers


def llama_context(promise: Promise, trained: int, length: int) -> int:
    """The context that llama.cpp allocates: what the prompt needs, and more where factors are chosen by its length."""
    short, long = (profile_frequencies(promise.profile, at) for at in (trained, length))
    needed = min(length, PROMPT + 1)
    if any(deviation(long[name], short[name]) > live.CHANGED for name in long):
        needed = min(length, max(needed, trained + 256))
    return needed


def _vocabulary(engine: Engine) -> int:
    return (
        int(engine.model.config.get_text_config().vocab_size) if isinstance(engine, engines.TransformersEngine) else 1
    )


def run(
    checkpoint: Checkpoint, base: Checkpoint | None, promise: Promise, settings: Settings
) -> tuple[Sequence[Check], dict[str, Any]]:
    """All checks of a forward pass, and the surroundings that they were made in."""
    import time

    from ropepatch.verify import surroundings

    started = time.monotonic()
    with surroundings.exact():
        work = Pass(checkpoint, base, promise, settings)
        found = work.checks()
    return found, {
        "device": surroundings.device_name(work.device),
        "dtype": settings.dtype,
        "layers": work.layers,
        "engines": work.engine_versions,
        **surroundings.libraries(),
        "trained_context": work.trained,
        "context": work.length,
        "seconds": round(time.monotonic() - started, 3),
    }
