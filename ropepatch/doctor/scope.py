"""The runtimes that a checkpoint is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ropepatch import runtimes
from ropepatch.errors import UsageError


@dataclass(frozen=True)
class Scope:
    """Runtimes by the names that ``runtimes.get`` takes.

    Attributes:
        specs: all of them.
        named: those that a person asked for.
        current: those at the newest release that is known; a finding about older ones alone is only information.
    """

    specs: tuple[str, ...]
    named: frozenset[str] = frozenset()
    current: frozenset[str] = frozenset()

    def of(self, engine: str) -> tuple[str, ...]:
        """The releases of one engine."""
        return tuple(spec for spec in self.specs if spec.partition("@")[0] == engine)

    def but(self, engine: str) -> tuple[str, ...]:
        """All but the releases of one engine."""
        return tuple(spec for spec in self.specs if spec.partition("@")[0] != engine)

    def without(self, specs: Sequence[str]) -> Scope:
        """The scope less some runtimes that nobody asked for by name."""
        gone = set(specs) - self.named
        return Scope(tuple(spec for spec in self.specs if spec not in gone), self.named, self.current - gone)

    def level(self, severity: str, concerned: Sequence[str]) -> str:
        """How bad a finding is.

        An error stays one only for a runtime that was asked for by name, or where no current runtime is left that
        does better; what concerns superseded releases alone is information.
        """
        if not concerned or severity == "info":
            return severity
        if not (self.named | self.current) & set(concerned):
            return "info"
        if severity == "error" and not self.named & set(concerned) and not self.current <= set(concerned):
            return "warning"
        return severity


def split(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """``vllm,llama.cpp`` or a list of such texts as names, each once."""
    texts = [wanted] if isinstance(wanted, str) else wanted
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


def scope_of(container: str, wanted: str | Sequence[str] | None = None) -> Scope:
    """The runtimes that read ``container`` (``hf``, ``gguf``, …), or those of ``wanted`` that do.

    Without ``wanted`` the spans of older releases that behave otherwise are there as well.

    Raises:
        UsageError: a runtime is unknown, or none of ``wanted`` reads the format.
    """
    if wanted is not None:
        names = split(wanted)
        reading = tuple(name for name in names if container in runtimes.get(name).reads_formats)
        if not reading and (names == () or _readers(container)):
            what = f"none of {', '.join(names)} reads {container}" if names else "no runtime is named"
            raise UsageError(what, hint=f"these do: {', '.join(_readers(container))}")
        return Scope(reading, frozenset(reading), frozenset(reading))
    current = _readers(container)
    older = [f"{name}@{'.'.join(map(str, span.newest))}" for name in current for span in runtimes.behaviours(name)[:-1]]
    return Scope((*current, *older), frozenset(), frozenset(current))


def _readers(container: str) -> tuple[str, ...]:
    return tuple(name for name in runtimes.names() if container in runtimes.get(name).reads_formats)


def label(spec: str) -> str:
    """A runtime for people: ``transformers 4.50-4.55`` for the newest release of a span, else as it was asked for."""
    name, _, release = spec.partition("@")
    for span in runtimes.behaviours(name):
        if release and release == ".".join(map(str, span.newest)):
            return f"{name} {span.label}"
    return spec


def labels(specs: Sequence[str]) -> str:
    """Several of them, the releases of one engine together."""
    grouped: dict[str, list[str]] = {}
    for spec in specs:
        grouped.setdefault(spec.partition("@")[0], []).append(spec)
    return ", ".join(_together(name, found) for name, found in grouped.items())


def _together(name: str, specs: Sequence[str]) -> str:
    """``vllm up to 0.29``, ``transformers from 4.56 on``, else the spans one by one."""
    spans = [f"{name}@{'.'.join(map(str, span.newest))}" for span in runtimes.behaviours(name)]
    order = [spans.index(spec) if spec in spans else len(spans) - 1 for spec in specs]
    if any(spec not in (name, *spans) for spec in specs) or len(specs) == 1:
        return " and ".join(map(label, specs))
    if sorted(order) == list(range(len(spans))):
        return f"{name} (all releases)"
    if sorted(order) == list(range(max(order) + 1)):
        return f"{name} up to {spans[max(order)].partition('@')[2]}"
    if sorted(order) == list(range(min(order), len(spans))):
        return f"{name} from {'.'.join(map(str, runtimes.behaviours(name)[min(order)].since))} on"
    named = " and ".join(label(spec).partition(" ")[2] or "newest" for spec in sorted(specs, key=_release))
    return f"{name} {named}"


def _release(spec: str) -> tuple[int, ...]:
    release = spec.partition("@")[2]
    return tuple(int(part) for part in release.split(".")) if release else (1 << 30,)
