"""A ref to its files, container, dialect and profile; and the plan of a patch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch import dialects, methods
from ropepatch.dialects.base import Dialect, Lowering
from ropepatch.errors import AlreadyScaled, InputError, MethodUnsupported, UsageError
from ropepatch.frequencies import group_frequencies, profile_frequencies
from ropepatch.hub import refs
from ropepatch.methods import runtime_only
from ropepatch.methods.base import Frequencies, Method, ParameterError, Target, yarn_attention
from ropepatch.methods.none import NoScaling
from ropepatch.methods.stack import Stack, stages
from ropepatch.methods.yarn import Yarn
from ropepatch.profile import RopeGroup, RopeProfile

if TYPE_CHECKING:
    from ropepatch.patch import Patch

#: Beyond this, a length is a typing mistake: no format's context field holds more.
MAX_CONTEXT = (1 << 31) - 1


_UNVALIDATED = "the base is designed for γ {:g}, a published heuristic that nothing has validated: see explain gamma"


class Checkpoint:
    """An opened checkpoint.

    Attributes:
        ref: what the person typed.
        dialect: how its format spells RoPE.
    """

    def __init__(self, ref: str, dialect: Dialect) -> None:
        self.ref = ref
        self.dialect = dialect

    @cached_property
    def profile(self) -> RopeProfile:
        """The normalised description of the checkpoint's RoPE.

        Raises:
            InputError: the metadata cannot be understood.
            NoRope: there is no RoPE.
        """
        return self.dialect.lift(self.ref)

    def frequencies(self, length: int | None = None, runtime: str | None = None) -> dict[str, Frequencies]:
        """``inv_freq`` and ``attention_scale`` by group name.

        Args:
            length: the context in tokens; None means at or below the trained one.
            runtime: None for what the method defines.

        Raises:
            UsageError: the runtime is unknown.
            RuntimeRejects: the runtime refuses this checkpoint.
        """
        if runtime is None:
            return profile_frequencies(self.profile, length)
        from ropepatch import runtimes

        found = runtimes.predict(runtime, self.profile, self.raw_config, length, self.ref)
        return {name: prediction.frequencies for name, prediction in found.items()}

    @property
    def raw_config(self) -> Mapping[str, Any] | None:
        """The whole ``config.json`` as spelled, None for other formats: runtimes read the spelling, not the profile."""
        config: Mapping[str, Any] | None = getattr(self.dialect, "config", None)
        return config

    def patch(
        self,
        method: str,
        factor: float | None = None,
        *,
        length: int | None = None,
        original: int | None = None,
        existing: str = "error",
        group: str | None = None,
        hf_layout: str | None = None,
        bake: bool = False,
        force: bool = False,
        target_gamma: float | None = None,
        record: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Patch:
        """The patch that extends this checkpoint; nothing is written.

        Args:
            method: a name from ``ropepatch.methods.REGISTRY``, or ``name+resonance``; or ``dca``, a key that SGLang
                reads for some models.
            factor: the extension; or give ``length``.
            length: the new context in tokens.
            original: the trained context, where the file does not say it.
            existing: ``error``, ``replace`` or ``compose`` for a checkpoint that is scaled already.
            group: the rope group to extend; default the one that a longer context reaches.
            hf_layout: ``v4``, ``v5`` or ``both``.
            bake: write per-pair factors even where a named method would do.
            force: patch a group that a longer context does not reach.
            target_gamma: for ``theta``: design the base for this γ at ``length``, an unvalidated heuristic.
            record: how the factors were found, as ``ropepatch search`` wrote it; it goes into the manifest.
            settings: the method's parameters.

        Raises:
            UsageError: the arguments do not fit the method.
            AlreadyScaled: it is scaled and ``existing`` is ``error``.
            MethodUnsupported: the format cannot hold the method.
        """
        if method in runtime_only.NAMES:
            return self._of_attention(method, factor, length, original, settings)
        before = self.profile
        name = self.reached(group)
        start = before.groups[name]
        if not force:
            self._check_reach(start, name, method)
        if target_gamma is not None:
            settings = {**settings, "rope_theta": _designed(method, start, target_gamma, length, settings)}
        original = original or _asked_original(settings)
        trained = self._original(before, start, existing, original)
        wants_factor = _has_factor(method)
        factor = _factor(method, factor, length, trained, wants_factor)
        if existing == "replace" and isinstance(start.scaling, Yarn) and method == "yarn":
            settings = {**_inherited(start.scaling), **settings}
        try:
            target = Target(factor, trained, start.spectrum())
            scaling = methods.extend(method, target, settings)
        except ParameterError as error:
            raise UsageError(str(error)) from None
        after_group = self._extended(start, scaling, existing)
        try:
            group_frequencies(after_group)
        except ParameterError as error:
            raise UsageError(str(error)) from None
        declared = length or before.declared_context
        if trained and (wants_factor or method == "none"):
            declared = length or round(factor * trained)
        if declared is not None and declared > MAX_CONTEXT:
            raise UsageError(f"a context of {declared} tokens does not fit any format (limit {MAX_CONTEXT})")
        keeps_trained = existing == "compose" and before.trained_context is not None
        after = dataclasses.replace(
            before,
            groups={**before.groups, name: after_group},
            trained_context=before.trained_context if keeps_trained else trained,
            declared_context=declared,
        )
        edits, notes = self.dialect.lower(before, after, Lowering(hf_layout, bake))
        from ropepatch.patch import Patch

        return Patch(
            ref=self.ref,
            method=method,
            factor=factor if wants_factor else None,
            parameters={name: scaling.to_json()},
            edits=tuple(edits),
            before=before,
            after=after,
            notes=(
                *notes,
                *([_UNVALIDATED.format(target_gamma)] if target_gamma is not None else ()),
                *(_stretched(record, factor, trained) if record else ()),
            ),
            search=record,
            root=self.dialect.root,
        )

    def _of_attention(
        self, method: str, factor: float | None, length: int | None, original: int | None, settings: Mapping[str, Any]
    ) -> Patch:
        """A method that changes attention and no frequency: one is a key that few engines read, one no key at all."""
        if method == runtime_only.DUAL_CHUNK:
            from ropepatch.dialects import dual_chunk

            return dual_chunk.patch(self, factor, length, original, settings)
        trained = original or self.profile.trained_context or self.profile.declared_context
        raise runtime_only.refuse_self_extend(self.ref, trained, factor, length)

    def reached(self, wanted: str | None = None) -> str:
        """The name of the rope group that a longer context reaches, or of the one that is ``wanted``.

        Raises:
            UsageError: there is no group of that name.
        """
        profile = self.profile
        if wanted is not None:
            if wanted not in profile.groups:
                raise UsageError(f"there is no rope group {wanted!r}; there are: {', '.join(profile.groups)}")
            return wanted
        for name in ("full_attention", "default"):
            if name in profile.groups:
                return name
        reached = [name for name, group in profile.groups.items() if group.scalable is not False]
        full = [name for name in reached if not profile.groups[name].window]
        return next(iter([*full, *reached, *profile.groups]))

    def _check_reach(self, group: RopeGroup, name: str, method: str) -> None:
        """A layer that sees no farther than its window gains nothing from a longer context."""
        if group.scalable is False and method != "none":
            raise MethodUnsupported(
                f"nothing in the file reaches the rotation of {name}: the model computes it from constants or keeps "
                "it apart",
                where=self.ref,
            )
        if group.window and method != "none":
            raise MethodUnsupported(
                f"the layers of {name} rotate within a sliding window of {group.window} tokens and never see beyond "
                "it; scaling them would only change what they were trained on",
                where=self.ref,
                hint="the model's other layers carry no RoPE or are another group; --force patches these all the same",
            )

    def _original(self, profile: RopeProfile, group: RopeGroup, existing: str, asked: int | None) -> int | None:
        """The context that the extension starts from; ``asked`` is what the person says it is."""
        if not (group.scaled or profile.scaled):
            return asked or profile.trained_context or profile.declared_context
        if existing in ("replace", "compose") and asked:
            return asked
        if existing == "replace":
            if profile.trained_context is None:
                raise UsageError(f"{self.ref} does not say its original context; pass --original-length")
            return profile.trained_context
        if existing == "compose":
            return profile.declared_context
        if existing != "error":
            raise UsageError(f"existing must be error, replace or compose, not {existing!r}")
        raise AlreadyScaled(
            f"is scaled already ({describe(group.scaling)}{_span(profile)})",
            where=self.ref,
            hint="--existing replace starts again from the original context, --existing compose stacks",
        )

    def _extended(self, start: RopeGroup, scaling: Method, existing: str) -> RopeGroup:
        if start.scaling.name == "proportional" and scaling.name != "none":
            raise InputError(
                "proportional RoPE leaves most pairs standing still; no method here extends it", where=self.ref
            )
        if existing == "compose" and start.scaled and not isinstance(scaling, NoScaling):
            return dataclasses.replace(start, scaling=Stack((*stages(start.scaling), *stages(scaling))))
        everywhere = getattr(scaling, "mscale_all_dim", None)
        softmax = start.softmax_scale
        if softmax is not None:  # the model multiplies by the new scaling's magnitude, or by none
            softmax = yarn_attention(getattr(scaling, "factor", 1.0), everywhere) ** 2 if everywhere else None
        return dataclasses.replace(start, scaling=scaling, factors=None, softmax_scale=softmax)


def _designed(
    method: str, group: RopeGroup, target_gamma: float, length: int | None, settings: Mapping[str, Any]
) -> float:
    """The base for a target γ.

    Raises:
        UsageError: the method has no base of its own to set, the length is missing, or the base is given twice.
    """
    from ropepatch.planner.gamma import raised_theta

    if method.split("+")[0] != "theta":
        raise UsageError(f"a target γ sets the base of theta; {method} has no such parameter")
    if length is None:
        raise UsageError("a target γ needs the length that it is meant for; pass --length")
    if "rope_theta" in settings:
        raise UsageError("give rope_theta or a target γ, not both")
    return raised_theta(group.rope_theta, target_gamma, length)


def _stretched(record: Mapping[str, Any], factor: float, trained: int | None) -> list[str]:
    """Where factors are used for another extension than they were searched for."""
    searched, original = record["factor"], record["original_max_position_embeddings"]
    if (searched, original) == (factor, trained):
        return []
    return [f"the factors were searched for {searched:g} times {original} tokens, not {factor:g} times {trained}"]


def describe(scaling: Method) -> str:
    """A method in a few words: its name and factor."""
    factor = getattr(scaling, "factor", None)
    name = scaling.to_json()["method"]
    return f"{name} {factor:g}x" if factor else str(name)


def _span(profile: RopeProfile) -> str:
    if profile.trained_context and profile.declared_context:
        return f", {profile.trained_context} to {profile.declared_context} tokens"
    return ""


def _inherited(old: Yarn) -> dict[str, Any]:
    """What a model was trained with and a new factor does not change: betas, truncation, DeepSeek's magnitudes."""
    names = ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim")
    return {name: value for name in names if (value := getattr(old, name)) is not None}


def _asked_original(settings: Mapping[str, Any]) -> int | None:
    """The original context when it was given as a parameter of the method."""
    value = settings.get("original_max_position_embeddings")
    try:
        return int(value) if value is not None else None
    except (TypeError, ValueError):
        raise UsageError(f"original_max_position_embeddings must be a whole number, not {value!r}") from None


def _has_factor(method: str) -> bool:
    """Whether the method takes one; what is unknown or cannot be asked for is refused later, by its name."""
    found = methods.REGISTRY.get(method.split("+")[0])
    return found is None or not found.applicable or found.takes_factor()


def _factor(method: str, factor: float | None, length: int | None, trained: int | None, wanted: bool) -> float:
    """The extension asked for, 1.0 for a method that has none.

    Raises:
        UsageError: neither, or a contradiction, or less than 1.
    """
    if not wanted:
        if factor is not None:
            raise UsageError(f"{method} takes no factor")
        return 1.0
    if factor is None and length is None:
        raise UsageError(f"{method} needs --factor or --length")
    if length is not None:
        if trained is None:
            raise UsageError("--length needs the original context, which the file does not say; pass --original-length")
        if factor is not None and round(factor * trained) != length:
            raise UsageError(f"--factor {factor:g} of {trained} tokens is not --length {length}; give one of them")
        if factor is None:
            factor = length / trained
    assert factor is not None
    if not 1 <= factor < 1e6:
        raise UsageError(f"the factor must be at least 1 (and below 1e6), not {factor:g}")
    return factor


def open(ref: str | Path) -> Checkpoint:
    """Open the checkpoint that ``ref`` names: a path, or a place on the Hub, of which headers alone are read.

    Raises:
        InputError: there is no such checkpoint, or its format is unknown.
        HubError: it is on the Hub and cannot be had.
    """
    if isinstance(ref, str) and refs.is_remote(ref):
        from ropepatch.hub import mirror

        found = mirror.opened(ref)
        return Checkpoint(str(found.ref), dialects.open(str(found.path)))
    dialect = dialects.open(str(ref))
    if Path(ref).is_dir() and isinstance(file := getattr(dialect, "path", None), Path) and file.suffix == ".gguf":
        ref = file  # the one model in a folder
    return Checkpoint(str(ref), dialect)


def open_whole(ref: str | Path) -> Checkpoint:
    """The same with its weights: a checkpoint on the Hub is downloaded into the cache and opened there.

    Raises:
        InputError, HubError: as :func:`open`.
    """
    if isinstance(ref, str) and refs.is_remote(ref):
        from ropepatch.hub import fetch

        ref = fetch.download(ref)
    return open(ref)
