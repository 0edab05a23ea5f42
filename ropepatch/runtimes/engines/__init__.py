"""One file for each runtime; every module here is one, so that a new file is enough."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropepatch.runtimes.base import Runtime


def every() -> dict[str, type[Runtime]]:
    """The runtimes by name; this imports every file."""
    import pkgutil

    found = [_in(info.name) for info in pkgutil.iter_modules(__path__)]
    return {engine.name: engine for engine in found if engine is not None}


def named(name: str) -> type[Runtime] | None:
    """The runtime of a name, from the file that is called so: ``mlx-lm`` from ``mlx_lm``. None where there is none."""
    module = re.sub(r"[^a-z0-9]", "_", name)
    engine = _in(module) if module.strip("_") else None
    return engine if engine is not None and engine.name == name else None


def _in(module: str) -> type[Runtime] | None:
    from ropepatch.runtimes.base import Runtime

    path = f"{__name__}.{module}"
    try:
        members = vars(importlib.import_module(path))
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return None
    return next(
        (
            item
            for item in members.values()
            if isinstance(item, type) and issubclass(item, Runtime) and item.__module__ == path
        ),
        None,
    )
