"""Context-extension methods: one file a method, and the registry of their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ropepatch import _discovery
from ropepatch.methods.base import Frequencies, Method, ParameterError, Spectrum, Target
from ropepatch.methods.stack import Stack

__all__ = ["REGISTRY", "Frequencies", "Method", "ParameterError", "Spectrum", "Target", "extend", "from_json", "get"]


class _Registry(Mapping[str, type[Method]]):
    """The methods by name, in the order of lists; asking for one imports its file alone, going through them all.

    A method is a class with a ``rank`` in the file that is called as it is: ``ntk-critical`` in ``ntk_critical``.
    """

    def __getitem__(self, name: str) -> type[Method]:
        for found in _listed(_discovery.classes_of(__name__, name)):
            if found.name == name:
                return found
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        found = [
            method for module in _discovery.modules(__name__)
            for method in _listed(_discovery.classes_in(__name__, module))
        ]  # fmt: skip
        return iter([method.name for method in sorted(found, key=lambda method: (method.rank, method.name))])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _listed(found: list[type]) -> list[type[Method]]:
    return [item for item in found if issubclass(item, Method) and item.rank is not None]


REGISTRY = _Registry()


def get(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ParameterError: there is no method of that name; the message lists those that there are.
    """
    try:
        return REGISTRY[name]
    except KeyError:
        import difflib

        near = difflib.get_close_matches(name.lower(), REGISTRY, n=1)
        suggestion = f" (did you mean {near[0]!r}?)" if near else ""
        raise ParameterError(f"unknown method {name!r}{suggestion}; known: {', '.join(REGISTRY)}") from None


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
