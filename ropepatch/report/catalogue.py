"""The methods as documents: what ``ropepatch methods`` and ``ropepatch explain`` print."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from ropepatch.errors import UsageError
from ropepatch.methods import REGISTRY, Method
from ropepatch.report.text import short

METHODS_SCHEMA = "ropepatch.methods/1"
EXPLAIN_SCHEMA = "ropepatch.explain/1"

#: parameters that have an option of their own
_OPTIONS = {
    "factor": "--factor or --length",
    "original_max_position_embeddings": "--original-length",
    "short_factor": "--factors FILE",
    "long_factor": "--factors FILE",
}
#: what stands in for a required parameter that nobody gives
_FILLED = {"original_max_position_embeddings": "from file", "short_factor": "ones"}
#: what the words of the table mean in each format
SPELLED = {
    "hf": {
        "key": "a rope type of its own",
        "base": "rope_theta",
        "factors": "lists of per-pair factors (rope type longrope)",
    },
    "gguf": {
        "key": "rope.scaling keys; per-pair factors for parameters that they cannot say",
        "base": "rope.freq_base",
        "factors": "tensors of per-pair factors, on the architectures whose graph reads them",
    },
}


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: there is none of that name; the message suggests the nearest and lists all.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    import difflib

    near = difflib.get_close_matches(name.lower(), REGISTRY, n=1, cutoff=0.5)
    suggestion = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(f"unknown method {name!r}{suggestion}", hint=f"the methods are: {', '.join(REGISTRY)}")


def written(method: type[Method]) -> dict[str, str | None]:
    """How a method is written, by format: ``key``, ``base`` or ``factors``; None where it cannot be."""
    hf, gguf = method.written
    return {"hf": hf, "gguf": gguf}


def methods() -> dict[str, Any]:
    """The registry as the JSON that ``schemas/methods.schema.json`` describes."""
    return {"schema": METHODS_SCHEMA, "methods": [_entry(method) for method in REGISTRY.values()]}


def explain(name: str) -> dict[str, Any]:
    """One method as the JSON that ``schemas/explain.schema.json`` describes.

    Raises:
        UsageError: there is no such method.
    """
    method = find(name)
    return {
        "schema": EXPLAIN_SCHEMA,
        **_entry(method),
        "formula": method.formula,
        "paper": method.paper,
        "parameters": _parameters(method),
        "about": method.about,
    }


def _entry(method: type[Method]) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "reach": method.reach,
        "fine_tuning": method.fine_tuning,
        "applicable": method.applicable,
        "written": written(method),
    }


def _parameters(method: type[Method]) -> list[dict[str, Any]]:
    hints = typing.get_type_hints(method)
    found = []
    for field in dataclasses.fields(method):
        kind, optional = _kind(hints[field.name])
        required = field.default is dataclasses.MISSING
        found.append(
            {
                "name": field.name,
                "type": kind,
                "required": required,
                "nullable": optional,
                "default": None if required else field.default,
                "option": _option(field.name) if method.applicable else None,
            }
        )
    return found


def _option(parameter: str) -> str:
    return _OPTIONS.get(parameter, f"--set {parameter}=VALUE")


def default_text(parameter: Mapping[str, Any]) -> str:
    """What a parameter of :func:`explain` is when it is not given, in a few words."""
    if parameter["required"] or parameter["default"] is None:
        if parameter["option"] is None:
            return "from file"
        return _FILLED.get(parameter["name"], "required" if parameter["required"] else "computed")
    return short(parameter["default"])


def _kind(hint: Any) -> tuple[str, bool]:
    """The type as a word, and whether None is allowed."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return _kind(inner)[0], True
    if typing.get_origin(hint) is tuple:
        return "list of numbers", False
    return {bool: "true or false", int: "whole number", float: "number"}.get(hint, str(hint)), False
