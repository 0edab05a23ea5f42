"""Things that each have a file of their own in a folder, found by the file's name: adding one is adding its file."""

from __future__ import annotations

import importlib
import re
import sys

#: what a thing may be called; its file has ``_`` for ``-`` and ``.``
_NAME = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


def modules(package: str) -> list[str]:
    """The files of a package."""
    import pkgutil

    return [info.name for info in pkgutil.iter_modules(sys.modules[package].__path__)]


def classes_of(package: str, name: str) -> list[type]:
    """The classes that the file of ``name`` defines; none where there is no such file. No other file is imported."""
    return classes_in(package, re.sub(r"[.-]", "_", name)) if _NAME.fullmatch(name) else []


def classes_in(package: str, module: str) -> list[type]:
    """The classes that a file of a package defines; none where there is no such file."""
    path = f"{package}.{module}"
    try:
        members = vars(importlib.import_module(path))
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return []
    return [item for item in members.values() if isinstance(item, type) and item.__module__ == path]
