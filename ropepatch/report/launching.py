"""Launch lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ropepatch import checkpoint
from ropepatch.dialects import dual_chunk
from ropepatch.errors import RopepatchError
from ropepatch.runtimes import launch
from ropepatch.runtimes.launch import Launch

#: up to this many runtimes everything is shown after a patch; of more, the commands alone
_FEW = 3


def full(found: Sequence[Launch]) -> list[str]:
    """Every runtime with its context, command, what must not be used, and what it does."""
    shown: list[str] = []
    for item in found:
        shown += ["", f"{item.runtime}: {_context(item) if item.text else _without(item)}"]
        shown += [f"    {line}" for line in item.text.splitlines()]
        shown += [f"  not: {option}" for option in item.avoid]
        shown += [f"  note: {note}" for note in item.notes]
    return shown[1:]


def brief(found: Sequence[Launch]) -> list[str]:
    """The commands, one line each; programs only by their runtime's name, and nothing else where there are many."""
    if len(found) <= _FEW:
        return full(found)
    width = max(len(item.runtime) for item in found)
    single = [item for item in found if len(item.text.splitlines()) == 1]
    shown = [f"{item.runtime:{width}}  {item.text}" for item in single]
    shown += [f"{item.runtime:{width}}  {_without(item)}" for item in found if not item.text]
    programs = [item.runtime for item in found if len(item.text.splitlines()) > 1]
    rest = f"programs for {', '.join(programs)}, and " if programs else ""
    return [*shown, f"({rest}what must not be used: ropepatch inspect --launch)"]


def _context(item: Launch) -> str:
    derived = f", {item.context:,} unless told" if item.context and item.context != item.length else ""
    return f"for {item.length:,} tokens{derived}"


def _without(item: Launch) -> str:
    return f"no line: {item.runtime} {item.ignored}" if item.ignored else f"no line: it refuses: {item.refused}"


def written(path: Path) -> list[Launch]:
    """The launch lines of what was just written; none where it holds nothing that a runtime starts from.

    Nor of dual chunk attention, which starts with options of its own: the patch's notes say them.
    """
    try:
        model = checkpoint.open(path)
        return [] if dual_chunk.trained(model.raw_config or {}) else launch.of_checkpoint(model)
    except RopepatchError:
        return []


def documents(found: Sequence[Launch]) -> list[dict[str, Any]]:
    """The lines as the JSON that ``schemas/runtimes.schema.json`` describes under ``launch``."""
    return [item.to_json() for item in found]
