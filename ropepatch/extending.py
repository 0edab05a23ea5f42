"""The patch that extends a checkpoint: where it starts from, which method it gets, and what its files shall say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch import methods
from ropepatch.dialects.base import Lowering
from ropepatch.errors import AlreadyScaled, InputError, MethodUnsupported, UsageError
from ropepatch.frequencies import group_frequencies
from ropepatch.methods import runtime_only
from ropepatch.methods.base import Method, ParameterError, Target, yarn_attention
from ropepatch.methods.none import NoScaling
from ropepatch.methods.stack import Stack, stages
from ropepatch.patch import Patch
from ropepatch.profile import MAX_CONTEXT, RopeGroup, RopeProfile

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

_UNVALIDATED = "the base is designed for γ {:g}, a published heuristic that nothing has validated: see explain gamma"


@dataclass(frozen=True)
class Asked:
    """What is asked of an extension; the fields are the parameters of :meth:`Checkpoint.patch`."""

    method: str
    factor: float | None
    length: int | None
    original: int | None
    existing: str
    group: str | None
    lowering: Lowering
    force: bool
    target_gamma: float | None
    record: Mapping[str, Any] | None
    settings: Mapping[str, Any]


def patch(model: Checkpoint, asked: Asked) -> Patch:
    """The patch; see :meth:`Checkpoint.patch`."""
    before, method, length = model.profile, asked.method, asked.length
    if asked.lowering.hf_layout is not None and before.source.format != "hf":
        raise UsageError(f"a layout of config.json (--hf-layout) does not go with {before.source.format} files")
    name = model.reached(asked.group)
    start = before.groups[name]
    if not asked.force:
        _check_reach(model.ref, start, name, method)
    settings = dict(asked.settings)
    if asked.target_gamma is not None:
        settings["rope_theta"] = _designed(method, start, asked.target_gamma, length, settings)
    trained = _original(model.ref, before, start, asked.existing, asked.original or _asked_original(settings))
    wants_factor = _has_factor(method)
    factor = _factor(method, asked.factor, length, trained, wants_factor)
    if asked.existing == "replace" and start.scaling.name == method:
        settings = {**start.scaling.kept(), **settings}
    scaling, group = _made(model.ref, asked, start, Target(factor, trained, start.spectrum()), settings)
    declared = length or before.declared_context
    if trained and (wants_factor or method == "none"):
        declared = length or round(factor * trained)
    if declared is not None and declared > MAX_CONTEXT:
        raise UsageError(f"a context of {declared} tokens does not fit any format (limit {MAX_CONTEXT})")
    keeps_trained = asked.existing == "compose" and before.trained_context is not None
    after = dataclasses.replace(
        before,
        groups={**before.groups, name: group},
        trained_context=before.trained_context if keeps_trained else trained,
        declared_context=declared,
    )
    edits, notes = model.dialect.lower(before, after, asked.lowering)
    return Patch(
        ref=model.ref,
        method=method,
        factor=factor if wants_factor else None,
        parameters={name: scaling.to_json()},
        edits=tuple(edits),
        before=before,
        after=after,
        notes=(
            *notes,
            *([_UNVALIDATED.format(asked.target_gamma)] if asked.target_gamma is not None else ()),
            *(_stretched(asked.record, factor, trained) if asked.record else ()),
        ),
        search=asked.record,
        root=model.dialect.root,
    )


def _made(
    ref: str, asked: Asked, start: RopeGroup, target: Target, settings: Mapping[str, Any]
) -> tuple[Method, RopeGroup]:
    """The method as asked for, and the group under it, whose frequencies can be computed.

    Raises:
        UsageError: a parameter is unknown, missing or impossible.
    """
    try:
        scaling = methods.extend(asked.method, target, settings)
        group = _extended(ref, start, scaling, asked.existing)
        group_frequencies(group)
    except ParameterError as error:
        raise UsageError(str(error)) from None
    return scaling, group


def of_attention(
    model: Checkpoint,
    method: str,
    factor: float | None,
    length: int | None,
    original: int | None,
    settings: Mapping[str, Any],
) -> Patch:
    """A method that changes attention and no frequency: one is a key that few engines read, one no key at all."""
    if method == runtime_only.DUAL_CHUNK:
        from ropepatch.dialects import dual_chunk

        return dual_chunk.patch(model, factor, length, original, settings)
    trained = original or model.profile.trained_context or model.profile.declared_context
    raise runtime_only.refuse_self_extend(model.ref, trained, factor, length)


def _check_reach(ref: str, group: RopeGroup, name: str, method: str) -> None:
    """A layer that sees no farther than its window gains nothing from a longer context."""
    if group.scalable is False and method != "none":
        raise MethodUnsupported(
            f"nothing in the file reaches the rotation of {name}: the model computes it from constants or keeps "
            "it apart",
            where=ref,
        )
    if group.window and method != "none":
        raise MethodUnsupported(
            f"the layers of {name} rotate within a sliding window of {group.window} tokens and never see beyond "
            "it; scaling them would only change what they were trained on",
            where=ref,
            hint="the model's other layers carry no RoPE or are another group; --force patches these all the same",
        )


def _original(ref: str, profile: RopeProfile, group: RopeGroup, existing: str, asked: int | None) -> int | None:
    """The context that the extension starts from; ``asked`` is what the person says it is."""
    if not (group.scaled or profile.scaled):
        return asked or profile.trained_context or profile.declared_context
    if existing in ("replace", "compose") and asked:
        return asked
    if existing == "replace":
        if profile.trained_context is None:
            raise UsageError(f"{ref} does not say its original context; pass --original-length")
        return profile.trained_context
    if existing == "compose":
        return profile.declared_context
    if existing != "error":
        raise UsageError(f"existing must be error, replace or compose, not {existing!r}")
    raise AlreadyScaled(
        f"is scaled already ({_named(group.scaling)}{_span(profile)})",
        where=ref,
        hint="--existing replace starts again from the original context, --existing compose stacks",
    )


def _extended(ref: str, start: RopeGroup, scaling: Method, existing: str) -> RopeGroup:
    """The group under the new method, in place of its old scaling or on top of it."""
    if start.scaling.unextendable and not isinstance(scaling, NoScaling):
        raise InputError(f"{start.scaling.unextendable}; no method here extends it", where=ref)
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


def _span(profile: RopeProfile) -> str:
    if profile.trained_context and profile.declared_context:
        return f", {profile.trained_context} to {profile.declared_context} tokens"
    return ""


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
        if length < trained:
            raise UsageError(f"--length {length} is less than the {trained} tokens that it was trained on")
        if factor is None:
            factor = length / trained
    assert factor is not None
    if not 1 <= factor < 1e6:
        raise UsageError(f"the factor must be at least 1 (and below 1e6), not {factor:g}")
    return factor


def _named(scaling: Method) -> str:
    """A method in a few words: its name and factor."""
    factor = getattr(scaling, "factor", None)
    name = scaling.to_json()["method"]
    return f"{name} {factor:g}x" if factor else str(name)
