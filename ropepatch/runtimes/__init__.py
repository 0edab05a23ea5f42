"""What an inference engine makes of a checkpoint; each has a file in ``engines``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ropepatch.errors import RuntimeRejects, UsageError

if TYPE_CHECKING:
    from ropepatch.profile import RopeProfile
    from ropepatch.runtimes.base import Behaviour, Prediction, Runtime


class WrongFormat(RuntimeRejects):
    """The runtime reads another format (exit 3)."""


def names() -> tuple[str, ...]:
    """Every runtime, as lists show them; this imports them all."""
    from ropepatch.runtimes import engines

    return tuple(sorted(known := engines.every(), key=lambda name: (known[name].rank, name)))


def _class(name: str) -> type[Runtime]:
    """The class of a runtime; this imports its file and no other.

    Raises:
        UsageError: there is none of that name.
    """
    from ropepatch.runtimes import engines

    found = engines.named(name)
    if found is None:
        raise UsageError(f"unknown runtime {name!r}", hint=f"known: {', '.join(names())}")
    return found


def behaviours(name: str) -> tuple[Behaviour, ...]:
    """The spans of releases of ``name`` that read a checkpoint differently, oldest first."""
    return _class(name).behaviours


def get(spec: str) -> Runtime:
    """The runtime that ``spec`` names: ``vllm``, or ``vllm@0.29`` for a release.

    Without a release it is the newest that ropepatch knows.

    Raises:
        UsageError: name or release is unknown; the message lists those that are known.
    """
    name, _, release = spec.partition("@")
    engine = _class(name)
    known = engine.behaviours
    if not release:
        return engine(known[-1].newest)
    if not re.fullmatch(r"\d+(\.\d+){0,3}", release):
        raise UsageError(f"{spec!r} names no release", hint=f"write for example {name}@{_text(known[-1].newest)}")
    version = tuple(int(part) for part in release.split("."))
    if version < known[0].since:
        raise UsageError(f"{spec!r} is older than what is known", hint=_spans(name, known))
    return engine(version)


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _spans(name: str, known: tuple[Behaviour, ...]) -> str:
    return f"known of {name}: {', '.join(span.label for span in known)}"


def predicted(profile: RopeProfile, config: Mapping[str, Any] | None) -> bool:
    """Whether what runtimes make of a checkpoint is known: of a folder with its ``config.json``, and of a GGUF file."""
    return profile.source.format == "gguf" or (profile.source.format == "hf" and config is not None)


def predict(
    runtime: str,
    profile: RopeProfile | None,
    config: Mapping[str, Any] | None,
    length: int | None = None,
    where: str = "config.json",
) -> dict[str, Prediction]:
    """What ``runtime`` makes of a checkpoint, by group name.

    Args:
        runtime: a name, with or without a release.
        profile: the lifted profile; None where the HF dialect cannot lift the file.
        config: the whole ``config.json`` as spelled; None for a GGUF file.
        length: tokens; None means what the engine does when nobody names a length.
        where: the file, for messages.

    Raises:
        UsageError: the runtime is unknown.
        RuntimeRejects: it refuses the checkpoint, crashes on it, or does not read its format.
        InputError: the file holds values that no engine can compute with.
    """
    from ropepatch.runtimes.base import Source, named_as

    engine = get(runtime)
    if profile is not None and not predicted(profile, config):
        raise WrongFormat(
            f"what {engine.name} makes of a {profile.source.format} file is not known",
            where=where,
            hint="give the folder with its config.json, or a GGUF file",
        )
    source = Source(config or {}, profile, where)
    if source.format not in engine.reads_formats:
        wanted = "a GGUF file" if "gguf" in engine.reads_formats else "a Hugging Face folder"
        raise WrongFormat(f"{engine.name} does not read this format", where=where, hint=f"it takes {wanted}")
    try:
        return named_as(profile, engine.predict(source, length))
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        # A value of the wrong kind somewhere in a stranger's config; the engines stop on most of these as well.
        raise RuntimeRejects(
            f"what {engine.name} makes of it cannot be computed: {type(error).__name__} {error}"[:300], where=where
        ) from None
