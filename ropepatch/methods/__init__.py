"""Context-extension methods: one file a method or family, and the registry of their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum, Target
from ropepatch.methods.by_parts import Llama3, NtkByParts
from ropepatch.methods.linear import Linear
from ropepatch.methods.longrope import Factors, LongRope
from ropepatch.methods.mrrope import MrRopePro, MrRopeUni
from ropepatch.methods.ntk import Dynamic, Ntk, NtkCritical
from ropepatch.methods.plain import NoScaling, Theta
from ropepatch.methods.proportional import Proportional
from ropepatch.methods.resonance import Resonance
from ropepatch.methods.stack import Stack
from ropepatch.methods.yarn import Yarn

__all__ = ["REGISTRY", "Frequencies", "Method", "ParameterError", "Spectrum", "Target", "extend", "from_json", "get"]

_METHODS: tuple[type[Method], ...] = (
    NoScaling,
    Linear,
    Ntk,
    NtkCritical,
    Dynamic,
    NtkByParts,
    Yarn,
    Llama3,
    LongRope,
    MrRopeUni,
    MrRopePro,
    Resonance,
    Theta,
    Proportional,
    Factors,
)
REGISTRY: dict[str, type[Method]] = {method.name: method for method in _METHODS}


def get(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ParameterError: there is no method of that name; the message lists those that there are.
    """
    try:
        return REGISTRY[name]
    except KeyError:
        raise ParameterError(f"unknown method {name!r}; known: {', '.join(REGISTRY)}") from None


def extend(name: str, target: Target, settings: Mapping[str, Any]) -> Method:
    """The method ``name`` (or ``name+name``) as asked for by ``target`` and ``settings``.

    Raises:
        ParameterError: the name is unknown, or a setting unknown, missing or impossible.
    """
    classes = [get(part) for part in name.split("+")]
    for method in classes:
        if not method.applicable:
            raise ParameterError(f"{method.name} can be read but not applied: {method.about}")
    first, *rest = classes
    base = first.extend(target, settings)
    return Stack((base, *(method.extend(target, {}) for method in rest))) if rest else base


def from_json(data: Mapping[str, Any]) -> Method:
    """The method that :meth:`Method.to_json` wrote.

    Raises:
        ParameterError: as for :meth:`Method.from_parameters`.
    """
    if "stages" in data:
        return Stack(tuple(from_json(stage) for stage in data["stages"]))
    return get(str(data["method"])).from_parameters({k: v for k, v in data.items() if k != "method"})
