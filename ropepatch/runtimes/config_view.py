"""How engines get to see the rotation in a ``config.json``; and the old layout, as line 4 of transformers reads it.

Line 4 and those who read the file on its terms take ``rope_theta`` and ``rope_scaling`` from the top and never look at
``rope_parameters``. What line 5 makes of a file is in ``line5``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch.methods.base import Spectrum
from ropepatch.runtimes.base import Engine, Source

if TYPE_CHECKING:
    from ropepatch.dialects.hf_families import Entry
    from ropepatch.dialects.hf_section import Section

#: keys without which transformers refuses a rope type (``_validate_*_rope_parameters``)
REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
ORIGINAL = "original_max_position_embeddings"
#: keys of a rope dict that no scaling type reads as its own
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")


@dataclass(frozen=True)
class View:
    """One set of frequencies, as one line of readers sees the file.

    Attributes:
        group: its name.
        rope: the rope dict; empty when there is none.
        key: where the dict stands, from the top of the file.
        kind: the rope type in force; None where nobody decided it yet.
        theta: the base.
        entry: widths and layers, as the class of that line has them.
        section: the text section of the file, with the class defaults of that line.
        ignored: keys that this line of readers drops before anyone computes.
        copied: whether the dict is a flat one that was copied to every layer type.
    """

    group: str
    rope: Mapping[str, Any]
    key: tuple[str, ...]
    kind: str | None
    theta: float
    entry: Entry
    section: Section
    ignored: tuple[str, ...] = ()
    copied: bool = False

    @property
    def where(self) -> str:
        """File and key, for messages."""
        return f"{self.section.where}: {'.'.join(self.key)}"

    @property
    def model_type(self) -> str:
        """transformers' name of the architecture."""
        return self.section.model_type

    @property
    def head_dim(self) -> int:
        """The head's dimensions."""
        return self.entry.head_dim

    @property
    def partial(self) -> float:
        """The share of the head that is declared to rotate."""
        return self.entry.partial

    @property
    def nested(self) -> bool:
        """Whether the dict is one of several, by layer type."""
        return len(self.entry.key) > 1

    @property
    def original(self) -> int | None:
        """The top-level ``original_max_position_embeddings``."""
        value = self.section.given_number(ORIGINAL, limit=1 << 40)
        return int(value) if value else None

    @property
    def max_position(self) -> int | None:
        """The declared context; None when neither file nor class says."""
        return self.section.context()

    def spectrum(self, rotary_dim: int | None = None) -> Spectrum:
        """The plain rotation of ``rotary_dim`` dimensions; default all of the head."""
        return Spectrum.plain(self.theta, rotary_dim or self.head_dim, self.head_dim)

    def share(self) -> int:
        """The dimensions that rotate where the declared share always counts."""
        return max(2, int(self.head_dim * self.partial))

    def with_partial(self, partial: Any) -> View:
        """The view with another share, where one is given."""
        checked = self.section.check("partial_rotary_factor", partial, 1.0)
        return (
            self
            if checked is None
            else dataclasses.replace(self, entry=dataclasses.replace(self.entry, partial=checked))
        )

    def unread(self, *reads: str) -> tuple[str, ...]:
        """Keys of the dict that are neither in ``reads`` nor common to all types, and those dropped before."""
        return (*(".".join((*self.key, name)) for name in self.rope if name not in (*reads, *_COMMON)), *self.ignored)


class Reader:
    """Takes numbers from a view's dict the way an engine does: what is missing or null makes it fail."""

    def __init__(self, view: View, engine: Engine) -> None:
        self.view = view
        self.engine = engine

    def need(self, name: str) -> float:
        """A number that the engine indexes the dict for.

        Raises:
            RuntimeRejects: it is missing, null or no number.
        """
        if name not in self.view.rope:
            raise self.engine.rejects(f"stops with a KeyError: there is no {name!r}", self.view.where)
        return self._number(name, self.view.rope[name])

    def get(self, name: str, default: float) -> float:
        """A number with a default for a missing key; null is passed on and fails, as ``dict.get`` has it.

        Raises:
            RuntimeRejects: it is null or no number.
        """
        return self._number(name, self.view.rope.get(name, default))

    def either(self, name: str, default: float) -> float:
        """A number with a default for a missing, null or zero key, as ``dict.get(name) or default`` has it."""
        value = self.view.rope.get(name)
        return self._number(name, value) if value else default

    def optional(self, name: str) -> float | None:
        """A number, None where it is missing or null."""
        value = self.view.rope.get(name)
        return None if value is None else self._number(name, value)

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        return bool(self.view.rope.get(name, default))

    def factors(self, name: str, pairs: int) -> tuple[float, ...]:
        """A list of divisors, one per rotated pair.

        Raises:
            RuntimeRejects: it is missing, no list of numbers, or of another length.
        """
        values = self.view.rope.get(name)
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise self.engine.rejects(f"needs {name!r}, a list", self.view.where)
        if len(values) != pairs:
            raise self.engine.rejects(
                f"cannot use {name!r}: {len(values)} factors for {pairs} rotated pairs", self.view.where
            )
        return tuple(self._number(name, value) for value in values)

    def _number(self, name: str, value: Any) -> float:
        if value is None:
            raise self.engine.rejects(f"stops with a TypeError: {name!r} is null", self.view.where)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.engine.rejects(f"stops on {name!r}: {value!r:.40} is no number", self.view.where)
        return float(value)


def section_of(source: Source, line: str) -> Section:
    """The text section of the file, with the class defaults of a line of transformers (``4`` or ``5``)."""
    from ropepatch.dialects import hf_defaults
    from ropepatch.dialects.hf_section import text_section

    section = text_section(source.config, source.where)
    return dataclasses.replace(section, defaults=hf_defaults.lookup(section.model_type, line))


def views_of(section: Section, ignored: tuple[str, ...]) -> dict[str, View]:
    from ropepatch.dialects import hf_families

    found = hf_families.entries(section, [])
    return {
        name: View(name, entry.rope, (*section.path, *entry.key), None, entry.theta, entry, section, ignored)
        for name, entry in found.items()
    }


def without(section: Section, *names: str) -> Section:
    return dataclasses.replace(section, given={k: v for k, v in section.given.items() if k not in names})


def path_of(section: Section, *names: str) -> str:
    return ".".join((*section.path, *names))


def line4(source: Source) -> dict[str, View]:
    """``rope_theta`` and ``rope_scaling`` as readers of the old layout take them, by group name; nothing is checked.

    ``rope_parameters`` is not looked at, and an inner ``rope_theta`` neither: a file that has only the new layout
    gives the class defaults, without an error or a warning.
    """
    section = section_of(source, "4")
    ignored = [path_of(section, "rope_parameters")] if section.given.get("rope_parameters") else []
    rope = section.given.get("rope_scaling")
    section = without(section, "rope_parameters")
    if isinstance(rope, Mapping):
        inner = [name for name in ("rope_theta", "partial_rotary_factor") if name in rope]
        ignored += [path_of(section, "rope_scaling", name) for name in inner]
        kept = {name: value for name, value in rope.items() if name not in inner}
        section = dataclasses.replace(section, given={**section.given, "rope_scaling": kept})
    views = views_of(section, tuple(ignored))
    return {name: dataclasses.replace(view, key=(*section.path, "rope_scaling")) for name, view in views.items()}
