"""The versions of installed libraries, as each output's manifest names them.

``importlib.metadata`` costs more to import than a header takes to patch, so that it is asked only where the folder of
a library is not named as the specification for recorded projects says: ``{name}-{version}.dist-info``.
"""

from __future__ import annotations

import os
import sys
from functools import cache

_END = ".dist-info"


def installed(name: str) -> str | None:
    """The version of ``name`` (lower case, words joined by ``_``) that an import finds; None where there is none."""
    for folder in sys.path:
        if name in (found := _recorded(folder or os.curdir)):
            return found[name]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _recorded(folder: str) -> dict[str, str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    pairs = (name[: -len(_END)].rpartition("-") for name in names if name.endswith(_END))
    return {library.lower().replace("-", "_").replace(".", "_"): version for library, _, version in pairs if library}
