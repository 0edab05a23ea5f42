"""Read, explain, rewrite and prove the RoPE of a checkpoint.

Names are loaded when they are first used, so that ``import ropepatch`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ropepatch import errors
from ropepatch._version import __version__

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint, open
    from ropepatch.diffing import Diff, diff
    from ropepatch.manifest import Manifest
    from ropepatch.methods.base import Frequencies
    from ropepatch.output import replay, revert
    from ropepatch.patch import Patch
    from ropepatch.planner.plan import Plan, plan
    from ropepatch.profile import RopeGroup, RopeProfile

_HOMES = {
    "Checkpoint": "checkpoint",
    "Diff": "diffing",
    "Frequencies": "methods.base",
    "Manifest": "manifest",
    "Patch": "patch",
    "Plan": "planner.plan",
    "RopeGroup": "profile",
    "RopeProfile": "profile",
    "diff": "diffing",
    "open": "checkpoint",
    "plan": "planner.plan",
    "replay": "output",
    "revert": "output",
}

__all__ = [
    "Checkpoint",
    "Diff",
    "Frequencies",
    "Manifest",
    "Patch",
    "Plan",
    "RopeGroup",
    "RopeProfile",
    "__version__",
    "diff",
    "errors",
    "open",
    "plan",
    "replay",
    "revert",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
