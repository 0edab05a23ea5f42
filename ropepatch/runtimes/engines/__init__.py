"""One file for each runtime; every module here is one, so that a new file is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ropepatch import _discovery

if TYPE_CHECKING:
    from ropepatch.runtimes.base import Runtime


def every() -> dict[str, type[Runtime]]:
    """The runtimes by name; this imports every file."""
    found = [_runtime(_discovery.classes_in(__name__, module)) for module in _discovery.modules(__name__)]
    return {engine.name: engine for engine in found if engine is not None}


def named(name: str) -> type[Runtime] | None:
    """The runtime of a name, from the file that is called so: ``mlx-lm`` from ``mlx_lm``. None where there is none."""
    engine = _runtime(_discovery.classes_of(__name__, name))
    return engine if engine is not None and engine.name == name else None


def _runtime(found: list[type]) -> type[Runtime] | None:
    from ropepatch.runtimes.base import Runtime

    return next((item for item in found if issubclass(item, Runtime)), None)
