"""Read, explain, rewrite and prove the RoPE of a checkpoint.

Names are loaded when they are first used, so that ``import ropepatch`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ropepatch import errors
from ropepatch._version import __version__

if TYPE_CHECKING:
    from ropepatch.audit.result import Audit
    from ropepatch.audit.run import audit
    from ropepatch.card import card
    from ropepatch.checkpoint import Checkpoint, open
    from ropepatch.diffing import Diff, diff
    from ropepatch.doctor import Finding, doctor
    from ropepatch.hub.push import Publication, push
    from ropepatch.manifest import Manifest
    from ropepatch.methods.base import Frequencies
    from ropepatch.patch import Patch
    from ropepatch.planner.plan import Plan, plan
    from ropepatch.profile import RopeGroup, RopeProfile
    from ropepatch.provenance import ManifestCheck, verify_manifest
    from ropepatch.replaying import replay
    from ropepatch.runtimes.readings import all_runtimes
    from ropepatch.search.result import Search
    from ropepatch.search.run import search
    from ropepatch.signing import sign
    from ropepatch.undoing import recover, revert
    from ropepatch.verify.verification import Verification, verify

_HOMES = {
    "Audit": "audit.result",
    "Checkpoint": "checkpoint",
    "Diff": "diffing",
    "Finding": "doctor",
    "Frequencies": "methods.base",
    "Manifest": "manifest",
    "ManifestCheck": "provenance",
    "Patch": "patch",
    "Plan": "planner.plan",
    "Publication": "hub.push",
    "RopeGroup": "profile",
    "RopeProfile": "profile",
    "Search": "search.result",
    "all_runtimes": "runtimes.readings",
    "Verification": "verify.verification",
    "audit": "",  # a room that can be called
    "card": "",  # likewise
    "diff": "diffing",
    "doctor": "",
    "open": "checkpoint",
    "plan": "planner.plan",
    "push": "hub.push",
    "recover": "undoing",
    "replay": "replaying",
    "revert": "undoing",
    "sign": "signing",
    "search": "",
    "verify": "",  # likewise
    "verify_manifest": "provenance",
}

__all__ = [
    "Audit",
    "Checkpoint",
    "Diff",
    "Finding",
    "Frequencies",
    "Manifest",
    "ManifestCheck",
    "Patch",
    "Plan",
    "Publication",
    "RopeGroup",
    "RopeProfile",
    "Search",
    "Verification",
    "__version__",
    "all_runtimes",
    "audit",
    "card",
    "diff",
    "doctor",
    "errors",
    "open",
    "plan",
    "push",
    "recover",
    "replay",
    "revert",
    "search",
    "sign",
    "verify",
    "verify_manifest",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not home:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
