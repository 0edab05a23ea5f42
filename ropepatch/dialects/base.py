"""What every dialect does: lift a file into a profile, lower a profile into edits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeGuard

if TYPE_CHECKING:
    from ropepatch.dialects.gguf import GgufDialect
    from ropepatch.dialects.hf_config import HfDialect
    from ropepatch.patch import Edit
    from ropepatch.profile import RopeProfile


@dataclass(frozen=True)
class Lowering:
    """How a profile shall be written.

    Attributes:
        hf_layout: ``v4``, ``v5``, ``both``; None keeps the layout that the file has.
        bake: write per-pair factors even where a named method would do.
    """

    hf_layout: str | None = None
    bake: bool = False


class Dialect(Protocol):
    """One opened checkpoint in one format."""

    #: ``hf``, ``gguf``, ``mistral``, ``meta`` or ``safetensors``
    kind: ClassVar[str]
    #: the folder that edits' file names are relative to
    root: Path

    def lift(self, ref: str) -> RopeProfile:
        """The profile that the files hold."""

    def lower(self, before: RopeProfile, after: RopeProfile, options: Lowering) -> tuple[list[Edit], list[str]]:
        """The edits that make the files say ``after``, and notes for the person.

        Raises:
            MethodUnsupported: the format, or what reads it, cannot hold a method of ``after``.
        """

    def files(self) -> list[Path]:
        """The files that make up the checkpoint, those with metadata first."""


def is_hf(dialect: Dialect) -> TypeGuard[HfDialect]:
    """Whether a config.json says it; asking does not load the reader of those."""
    return dialect.kind == "hf"


def is_gguf(dialect: Dialect) -> TypeGuard[GgufDialect]:
    """Whether the keys of a GGUF say it; asking does not load the reader of those."""
    return dialect.kind == "gguf"
