"""What a checkpoint promises about its frequencies and contexts, and whether its files keep it. No weights are run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.errors import InputError
from ropepatch.frequencies import TOLERANCE, deviation, profile_frequencies
from ropepatch.methods.base import Method
from ropepatch.methods.none import NoScaling
from ropepatch.methods.stack import Stack
from ropepatch.profile import RopeGroup, RopeProfile

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.manifest import Manifest

PASSED, WARNED, FAILED, SKIPPED = "PASSED", "WARNED", "FAILED", "SKIPPED"
#: how far a declared context may lie from factor times original: configs round
_ROUNDING = 0.02
#: methods whose config keeps the original context: transformers starts from it, vLLM and SGLang multiply it
_MULTIPLIED = ("linear", "dynamic")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was checked.
        result: ``PASSED``, ``WARNED``, ``FAILED`` or ``SKIPPED``.
        detail: one sentence.
        numbers: what was measured.
    """

    name: str
    result: str
    detail: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """``{"name", "result", "detail", "numbers"}``."""
        return {"name": self.name, "result": self.result, "detail": self.detail, "numbers": dict(self.numbers)}


class Checked:
    """Whatever has come to ``checks``."""

    checks: tuple[Check, ...]

    @property
    def result(self) -> str:
        """``FAILED`` where any check failed, else ``WARNED`` where any warned, else ``PASSED``."""
        results = {check.result for check in self.checks}
        return next((result for result in (FAILED, WARNED) if result in results), PASSED)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.result != FAILED


@dataclass(frozen=True)
class Promise:
    """What the checkpoint should be.

    Attributes:
        profile: the profile promised.
        base: the profile that it is an extension of; the same without scaling where nothing else is known.
        source: ``manifest``, or ``file`` where nothing but the checkpoint itself says what it should be.
        manifest: the manifest beside it.
        has_base: whether ``base`` is a checkpoint that was given, not one inferred.
    """

    profile: RopeProfile
    base: RopeProfile
    source: str
    manifest: Manifest | None = None
    has_base: bool = False

    @property
    def trained(self) -> int | None:
        """The trained context, None where nothing but a scaled checkpoint's own file would say it and does not."""
        known = self.has_base or self.source == "manifest"
        return trained_context(self.base) if known else self.profile.trained_context

    @property
    def context(self) -> int | None:
        """Tokens that are promised."""
        return context_of(self.profile, self.trained)


def of(checkpoint: Checkpoint, base: Checkpoint | None) -> Promise:
    """The promise of a checkpoint: its manifest's where there is one, else its own metadata's."""
    record = _manifest(checkpoint)
    if record is not None:
        patch = record.patch
        return Promise(patch.after, base.profile if base else patch.before, "manifest", record, base is not None)
    return Promise(
        checkpoint.profile, base.profile if base else unscaled(checkpoint.profile), "file", None, base is not None
    )


def _manifest(checkpoint: Checkpoint) -> Manifest | None:
    from ropepatch import manifest
    from ropepatch.bundle import bundle_of

    try:
        path = bundle_of(Path(checkpoint.ref)).manifest
    except InputError:
        return None
    try:
        return manifest.read(path) if path.is_file() else None
    except manifest.NotOurs:  # a damaged promise of ours is not taken for none
        return None


def unscaled(profile: RopeProfile) -> RopeProfile:
    """The same model before any extension."""
    import dataclasses

    groups = {
        name: dataclasses.replace(group, scaling=NoScaling(), factors=None) if group.scaled else group
        for name, group in profile.groups.items()
    }
    trained = profile.trained_context or profile.declared_context
    return dataclasses.replace(profile, groups=groups, trained_context=trained, declared_context=trained)


def trained_context(profile: RopeProfile) -> int | None:
    """Tokens that a profile's model was trained on, as far as it says."""
    return profile.trained_context or profile.declared_context


def context_of(profile: RopeProfile, trained: int | None) -> int | None:
    """Tokens that a profile reaches: those declared, times the factor in a config that leaves that to the engines."""
    declared, scaling = profile.declared_context, main_group(profile)[1].scaling
    if profile.source.format == "hf" and scaling.name in _MULTIPLIED and declared and declared == trained:
        return round(declared * (factor_of(scaling) or 1))
    return declared


def main_group(profile: RopeProfile) -> tuple[str, RopeGroup]:
    """The rope group that a longer context reaches."""
    for name in ("full_attention", "default"):
        if name in profile.groups:
            return name, profile.groups[name]
    return next(iter(profile.groups.items()))


def factor_of(method: Method) -> float | None:
    """By how much a method extends, the product where methods are stacked; None where it does not say."""
    if isinstance(method, Stack):
        found = [value for stage in method.stages if (value := factor_of(stage)) is not None]
        return math.prod(found) if found else None
    value = getattr(method, "factor", None)
    return float(value) if isinstance(value, (int, float)) else None


def checks(checkpoint: Checkpoint, promise: Promise) -> list[Check]:
    """Everything that metadata and stored buffers say, before any weight is read."""
    profile = checkpoint.profile
    found = [_frequencies(profile, promise), _context(profile, promise)]
    if promise.has_base:
        found.append(_original(profile, promise))
    found += [_factor(profile, promise), _attention(profile, promise)]
    if profile.source.format == "hf":
        found.append(_buffers(checkpoint, promise.profile))
    return [check for check in found if check is not None]


def _frequencies(profile: RopeProfile, promise: Promise) -> Check | None:
    if promise.source != "manifest":
        return None
    declared = promise.profile.declared_context
    worst, at = 0.0, None
    for length in (None, declared, 4 * declared if declared else None):
        wanted, have = profile_frequencies(promise.profile, length), profile_frequencies(profile, length)
        if set(wanted) != set(have):
            return Check("metadata", FAILED, f"rope groups are {', '.join(have)}, promised are {', '.join(wanted)}")
        for name in wanted:
            if (here := deviation(have[name], wanted[name])) > worst:
                worst, at = here, name
    numbers = {"deviation": worst, "limit": TOLERANCE}
    if worst <= TOLERANCE:
        return Check("metadata", PASSED, f"frequencies are the manifest's, largest deviation {worst:.1e}", numbers)
    return Check(
        "metadata", FAILED, f"frequencies of {at} deviate from the manifest's by {worst:.1e} relative", numbers
    )


def _context(profile: RopeProfile, promise: Promise) -> Check:
    declared, promised = context_of(profile, promise.trained), promise.context
    _, group = main_group(profile)
    factor, original = factor_of(group.scaling), profile.trained_context
    reach = round(factor * original) if factor and original and group.scaled else promised
    numbers = {"declared": declared, "promised": promised, "reach": reach}
    if promise.source == "manifest" and declared != promised:
        return Check("context", FAILED, f"declares {declared} tokens, the manifest promises {promised}", numbers)
    if declared is None:
        return Check("context", SKIPPED, "the file declares no context", numbers)
    if reach and declared < reach * (1 - _ROUNDING):
        detail = f"declares {declared} tokens although its scaling reaches {reach}"
        if profile.source.format == "gguf":
            return Check("context", FAILED, f"{detail}: llama.cpp's server stops at the declared context", numbers)
        return Check("context", WARNED, f"{detail}: engines that go by the declared context stop there", numbers)
    if reach and declared > reach * (1 + _ROUNDING):
        return Check("context", WARNED, f"declares {declared} tokens, its scaling reaches {reach}", numbers)
    if declared != profile.declared_context:
        detail = f"declares {profile.declared_context} tokens and leaves the factor to the engines: {declared}"
        return Check("context", PASSED, detail, numbers)
    return Check("context", PASSED, f"declares {declared} tokens, as far as its scaling reaches", numbers)


def _original(profile: RopeProfile, promise: Promise) -> Check:
    ours, theirs = trained_context(profile), trained_context(promise.base)
    numbers = {"original": ours, "base": theirs}
    if ours is None or theirs is None:
        return Check("original context", SKIPPED, "one of the two does not say its trained context", numbers)
    if ours != theirs:
        return Check(
            "original context", FAILED, f"counts from {ours} tokens, the base was trained on {theirs}", numbers
        )
    return Check("original context", PASSED, f"counts from the base's {theirs} tokens", numbers)


def _factor(profile: RopeProfile, promise: Promise) -> Check | None:
    """The slowest pair against what the contexts call for: a factor that is in two places slows it twice."""
    name, group = main_group(profile)
    factor = factor_of(group.scaling)
    declared = promise.context if promise.source == "manifest" else context_of(profile, promise.trained)
    base = promise.base.groups.get(name) or main_group(promise.base)[1]
    trained = trained_context(promise.base) if promise.has_base else profile.trained_context
    if not group.scaled or not declared or not trained:
        return None
    slow, was = (profile_frequencies(p, declared)[n].inv_freq for p, n in
                 ((profile, name), (promise.base, _name_of(promise.base, base))))  # fmt: skip
    if slow.shape != was.shape or not slow.all():
        return None
    slowed, wanted = float((was / slow).max()), declared / trained
    if group.scaling.name == "dynamic" and factor:
        wanted = factor * wanted - (factor - 1)  # its base follows the length, and starts from 1 there
    numbers = {"slowed_by": slowed, "factor": factor, "declared_over_trained": wanted}
    # Lists of factors have no factor of their own, and searched ones go beyond it: only its square is a mistake.
    limit = 1 + _ROUNDING if factor is not None else max(wanted * (1 - _ROUNDING), 1 + _ROUNDING)
    if slowed > wanted * limit and (
        promise.has_base or promise.source == "manifest" or isinstance(group.scaling, Stack)
    ):
        twice = " (the factor is in force twice)" if abs(slowed / wanted**2 - 1) < _ROUNDING else ""
        return Check(
            "factor",
            FAILED,
            f"the slowest pair is slowed {slowed:.4g}x, the context grew {wanted:.4g}x{twice}",
            numbers,
        )
    return Check("factor", PASSED, f"the slowest pair is slowed {slowed:.4g}x, the context grew {wanted:.4g}x", numbers)


def _name_of(profile: RopeProfile, group: RopeGroup) -> str:
    return next(name for name, other in profile.groups.items() if other is group)


def _attention(profile: RopeProfile, promise: Promise) -> Check | None:
    """The factor on cos and sin against the one that the method has by itself."""
    import dataclasses

    name, group = main_group(profile)
    scaling = group.scaling
    if "attention_factor" not in {item.name for item in dataclasses.fields(scaling) if item.default is None}:
        return None
    have = float(profile_frequencies(profile, profile.declared_context)[name].attention_scale)
    reset: Any = {"attention_factor": None}
    usual = dataclasses.replace(group, scaling=dataclasses.replace(scaling, **reset), factors=None)
    plain = dataclasses.replace(profile, groups={**profile.groups, name: usual})
    want = float(profile_frequencies(plain, profile.declared_context)[name].attention_scale)
    numbers = {"attention_scale": have, "usual": want}
    if abs(have / want - 1) <= TOLERANCE * 10:
        return Check("attention scale", PASSED, f"{have:.6g}, as {scaling.name} has it", numbers)
    if abs(have / want**2 - 1) <= 1e-3:
        return Check("attention scale", FAILED, f"{have:.6g} is {want:.6g} squared: it is applied twice", numbers)
    if abs(have / (2 * want) - 1) <= 1e-3:
        return Check("attention scale", FAILED, f"{have:.6g} is twice {want:.6g}", numbers)
    return Check("attention scale", WARNED, f"{have:.6g} is set by hand, {scaling.name} would have {want:.6g}", numbers)


def _buffers(checkpoint: Checkpoint, promised: RopeProfile) -> Check | None:
    """Frequencies stored beside the weights, which older code rotates by."""
    from ropepatch.dialects import inv_freq_tensors

    notes: list[str] = []
    buffers = inv_freq_tensors.find(checkpoint.dialect.root, notes)
    if not buffers:
        return None
    numbers = {"buffers": len(buffers)}
    wrong = [text for text in inv_freq_tensors.compare(buffers, promised) if "disagree" in text]
    if wrong:
        return Check("buffers", FAILED, f"stale: {wrong[0]}", numbers)
    return Check("buffers", PASSED, f"{len(buffers)} stored frequency buffers are the promised ones", numbers)
