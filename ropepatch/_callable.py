"""A package that is also the function of its name: ``ropepatch.verify`` is a room, ``ropepatch.verify(ref)`` a call.

Importing anything below the room binds the package to that name, so that a function beside it would be lost.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


class Room(types.ModuleType):
    """A package that hands calls on to the function which ``_call`` names, as ``module:function``."""

    _call: str
    _about: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function()(*args, **options)

    def _function(self) -> Callable[..., Any]:
        module, function = self._call.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return found

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function, for editors and notebooks."""
        return inspect.signature(self._function())

    def _described(self) -> str:
        """What ``help`` shows: the room's own words, and how it is called."""
        function = self._function()
        return f"{self._about}\n\nCalled: {function.__name__}{self.__signature__}\n\n{inspect.getdoc(function)}"

    __doc__ = property(_described)


def make_callable(package: str, target: str) -> None:
    """Turn an imported package into a :class:`Room`."""
    module = sys.modules[package]
    module._about = module.__doc__  # type: ignore[attr-defined]
    module.__class__ = Room
    module._call = target  # type: ignore[attr-defined]
