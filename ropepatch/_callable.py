"""A package that is also the function of its name: ``ropepatch.verify`` is a room, ``ropepatch.verify(ref)`` a call.

Importing anything below the room binds the package to that name, so that a function beside it would be lost.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class Room(types.ModuleType):
    """A package that hands calls on to the function which ``_call`` names, as ``module:function``."""

    _call: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        module, function = self._call.split(":")
        return getattr(importlib.import_module(module), function)(*args, **options)


def make_callable(package: str, target: str) -> None:
    """Turn an imported package into a :class:`Room`."""
    module = sys.modules[package]
    module.__class__ = Room
    module._call = target  # type: ignore[attr-defined]
