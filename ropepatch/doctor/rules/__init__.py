"""One file for each kind of rule; every module here is loaded, so that a new file is enough."""

from __future__ import annotations

import importlib
import pkgutil


def load() -> None:
    """Enter the rules of every module of this package."""
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
