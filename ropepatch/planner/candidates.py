"""Every method at one factor, side by side: geometry, how the format holds it, what runtimes make of it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ropepatch import methods, runtimes
from ropepatch.errors import InputError, UsageError
from ropepatch.frequencies import group_frequencies, in_force, profile_frequencies
from ropepatch.methods import REGISTRY
from ropepatch.methods.base import Frequencies, ParameterError, Target
from ropepatch.methods.stack import Stack
from ropepatch.planner import gamma as gamma_law
from ropepatch.planner.geometry import Geometry, geometry
from ropepatch.planner.start import Start
from ropepatch.runtimes import comparison

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.patch import Patch
    from ropepatch.profile import RopeGroup, RopeProfile


@dataclass(frozen=True)
class Candidate:
    """One method at the factor.

    Attributes:
        method: its name; ``as it is`` for what the file says now.
        factor: the extension, None where the method has none.
        parameters: the method's parameters as JSON.
        geometry: what its frequencies do over the length.
        gamma: γ_Padé of its fitted base at the length; None without one.
        written: ``key``, ``base`` or ``factors``; None where the format cannot hold it.
        refused: why not.
        same: runtimes that compute what the method defines; None where ropepatch predicts none.
        differing: the other runtimes, with what they do.
        fine_tuning: what its papers say about training.
        frequencies: ``inv_freq`` and scale at the length.
        patch: the patch, where there is one.
    """

    method: str
    factor: float | None
    parameters: Mapping[str, Any]
    geometry: Geometry
    gamma: float | None
    written: str | None
    refused: str | None
    same: tuple[str, ...] | None
    differing: Mapping[str, str]
    fine_tuning: str
    frequencies: Frequencies
    patch: Patch | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without frequencies and patch."""
        return {
            "method": self.method,
            "factor": self.factor,
            "parameters": dict(self.parameters),
            "geometry": asdict(self.geometry),
            "gamma": self.gamma,
            "written": self.written,
            "refused": self.refused,
            "runtimes": None if self.same is None else {"same": list(self.same), "differing": dict(self.differing)},
            "fine_tuning": self.fine_tuning,
        }

    @property
    def holds(self) -> bool:
        """Whether the file can say it and at least one runtime, where any is predicted, computes it."""
        return self.refused is None and (self.same is None or bool(self.same))

    @property
    def mostly_misread(self) -> bool:
        """Whether more runtimes compute something else, or refuse, than compute what the method defines."""
        return len(self.differing) > len(self.same or ())


def as_it_is(model: Checkpoint, start: Start, length: int) -> Candidate:
    """What the file says now, at ``length``."""
    profile = model.profile
    group = profile.groups[start.group]
    now = group_frequencies(group, length)
    same, differing = readings(profile, model.raw_config, length, model.ref)
    return _candidate(
        "as it is", getattr(group.scaling, "factor", None), group.scaling.to_json(), start, now, length,
        written="key" if group.scaled else "base", same=same, differing=differing, fine_tuning="none",
    )  # fmt: skip


def all_methods(
    model: Checkpoint, start: Start, length: int, *, target_gamma: float, original: int | None
) -> tuple[list[Candidate], dict[str, str]]:
    """Every method that a factor determines, and those that it does not with the reason.

    Args:
        model: the checkpoint.
        start: where the extension starts from.
        length: the new context in tokens, larger than ``start.context``.
        target_gamma: what the base of ``theta`` is designed for.
        original: the trained context as the person says it.
    """
    found = []
    skipped = {name: method.needs for name, method in REGISTRY.items() if method.needs is not None}
    for name, method in REGISTRY.items():
        if not method.applicable or name in skipped or name == "none":
            continue
        try:
            found.append(candidate(model, name, start, length, target_gamma=target_gamma, original=original))
        except UsageError as error:
            skipped[name] = error.what
    return found, skipped


def candidate(
    model: Checkpoint, name: str, start: Start, length: int, *, target_gamma: float, original: int | None
) -> Candidate:
    """One method (or ``name+resonance``) at ``length``.

    Raises:
        UsageError: its parameters do not follow from the length.
    """
    group = model.profile.groups[start.group]
    settings: dict[str, Any] = {}
    if name.split("+")[0] == "theta":
        settings["rope_theta"] = gamma_law.raised_theta(group.rope_theta, target_gamma, length)
    patch, refused = None, None
    try:
        patch = model.patch(
            name, length=length, original=original, existing=start.existing, group=start.group, **settings
        )
        after = patch.after.groups[start.group]
    except InputError as error:
        refused, after = error.what, _extended(group, name, start, length, settings)
    same: tuple[str, ...] | None = None
    differing: dict[str, str] = {}
    if patch is not None:
        config = patched_config(model.raw_config, patch, model)
        same, differing = readings(patch.after, config, length, model.ref)
    first = REGISTRY[name.split("+")[0]]
    factor = length / start.context if first.takes_factor() else None
    return _candidate(
        name, factor, after.scaling.to_json(), start,
        group_frequencies(after, length), length, written=_spelled(patch), refused=refused, same=same,
        differing=differing, fine_tuning=first.fine_tuning, patch=patch,
    )  # fmt: skip


def _extended(group: RopeGroup, name: str, start: Start, length: int, settings: Mapping[str, Any]) -> RopeGroup:
    """The group under a method that the format cannot hold."""
    try:
        scaling = methods.extend(name, Target(length / start.context, start.context, group.spectrum()), settings)
        if start.existing == "compose":
            scaling = Stack((in_force(group), scaling))
        extended = dataclasses.replace(group, scaling=scaling, factors=None)
        group_frequencies(extended, length)
    except ParameterError as error:
        raise UsageError(str(error)) from None
    return extended


def _candidate(
    method: str, factor: float | None, parameters: Mapping[str, Any], start: Start, now: Frequencies, length: int,
    **rest: Any,
) -> Candidate:  # fmt: skip
    found = geometry(start.trained, start.context, now, length)
    base = found.base_fitted
    law = gamma_law.pade(base, length) if base is not None and math.isfinite(base) and base > 0 else None
    fields: dict[str, Any] = {"refused": None, "patch": None, **rest}
    return Candidate(method, factor, parameters, found, law, frequencies=now, **fields)


def _spelled(patch: Patch | None) -> str | None:
    """``key``, ``base`` or ``factors``, judged by the edits."""
    if patch is None:
        return None
    written = [(edit.name, edit.after.data) for edit in patch.edits if edit.after is not None]
    kinds = [data for name, data in written if name.endswith(("rope_type", "scaling.type"))]
    kinds += [data.get("rope_type", data.get("type")) for _, data in written if isinstance(data, Mapping)]
    if "longrope" in kinds or any(edit.target == "tensor" for edit in patch.edits):
        return "factors"
    return "key" if any(kind not in (None, "default", "none") for kind in kinds) else "base"


def patched_config(config: Mapping[str, Any] | None, patch: Patch, model: Checkpoint) -> Mapping[str, Any] | None:
    """The ``config.json`` that ``patch`` leaves; None for other formats."""
    if config is None:
        return None
    changed: Any = copy.deepcopy(dict(config))
    name = getattr(getattr(model.dialect, "path", None), "name", "config.json")
    for edit in patch.edits:
        if edit.target != "json" or edit.file != name:
            continue
        inner = changed
        for key in edit.path[:-1]:
            inner = inner.setdefault(key, {})
        if edit.after is None:
            inner.pop(edit.path[-1], None)
        else:
            inner[edit.path[-1]] = edit.after.data
    return dict(changed)


def readings(
    profile: RopeProfile, config: Mapping[str, Any] | None, length: int, where: str
) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """The runtimes (newest release each) that compute what ``profile`` says at ``length``, and what the others do."""
    if not runtimes.predicted(profile, config):
        return None, {}
    reference = profile_frequencies(profile, length)
    found, _ = comparison.outcomes(profile, config, length, None, where)
    same, differing = [], {}
    for name in runtimes.names():
        row = comparison.row_of(name, found[name], reference)
        if row.status == "same":
            same.append(name)
        elif row.status != "format":
            differing[name] = row.reason or _difference(row)
    return tuple(same), differing


def _difference(row: comparison.Row) -> str:
    """The largest difference of a row in a few words."""
    for cell in row.cells.values():
        if cell.same:
            continue
        if cell.ratio is None:
            return f"{cell.prediction.inv_freq.size} pairs instead of {cell.reference.inv_freq.size}"
        if cell.pair is not None:
            return f"frequencies off by up to {cell.ratio:.4g} times"
        return f"attention scale {cell.prediction.attention_scale:.5g} instead of {cell.reference.attention_scale:.5g}"
    return "other groups"
