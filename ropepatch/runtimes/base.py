"""What every runtime's prediction has in common."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ropepatch.errors import InputError, RuntimeRejects
from ropepatch.methods.base import Array, Frequencies, Method, ParameterError, Spectrum
from ropepatch.profile import RopeProfile

Version = tuple[int, ...]


@dataclass(frozen=True)
class Behaviour:
    """A span of releases that read a checkpoint alike.

    Attributes:
        since: the first release of the span.
        label: the span as people write it, for example ``4.50-4.55``.
        newest: the newest release of the span that was read or run; what the span's name stands for.
    """

    since: Version
    label: str
    newest: Version


@dataclass(frozen=True)
class Source:
    """A checkpoint as a runtime gets to see it.

    Attributes:
        config: an HF ``config.json`` as spelled, the whole of it; for a GGUF file its metadata, as far as needed.
        profile: the lifted profile; None where the HF dialect cannot lift what some engine still loads.
        where: the file, for messages.
    """

    config: Mapping[str, Any]
    profile: RopeProfile | None = None
    where: str = "config.json"

    @property
    def format(self) -> str:
        """``gguf`` or ``hf``."""
        return "gguf" if self.profile is not None and self.profile.source.format == "gguf" else "hf"


@dataclass(frozen=True)
class Prediction:
    """What one runtime makes of one rope group at one length.

    Attributes:
        inv_freq: radians per position of each rotated pair, float64, shape ``(rotary_dim // 2,)``.
        attention_scale: factor on both cos and sin.
        context: the length in tokens that the engine derives when nobody tells it; None where it derives none.
        ignored: keys of the file that stand there and change nothing, as dotted paths.
        notes: what a person should know, one sentence each.
        switches: when the frequencies change: ``never``, ``at load``, ``per batch``, ``per forward pass``,
            ``per position``; a runtime that switches at load keeps one table for every sequence.
    """

    inv_freq: Array
    attention_scale: float = 1.0
    context: int | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    switches: str = "never"

    @property
    def frequencies(self) -> Frequencies:
        """The frequencies alone."""
        return Frequencies(self.inv_freq, self.attention_scale)


@dataclass(frozen=True)
class Engine:
    """Who reads, for messages: ``Engine("vllm", (0, 33))``."""

    name: str
    version: Version

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"

    def rejects(self, what: str, where: str, hint: str | None = None) -> RuntimeRejects:
        """The error to raise when the engine does not load the file."""
        return RuntimeRejects(f"{self} {what}", where=where, hint=hint)


@dataclass(frozen=True)
class Order:
    """What is asked of a launch line: which checkpoint, how long, and what the runtime makes of it by itself.

    Attributes:
        ref: the checkpoint as the line shall name it.
        length: the context in tokens.
        context: the one that the runtime derives when nobody tells it; None where it derives none.
        magnitude: whether cos and sin are multiplied by anything but 1.
        rope: a whole rope dict to put in force without changing the file; None to take the file's.
        path: the keys that lead to the text section of the config.
    """

    ref: str
    length: int
    context: int | None
    magnitude: bool
    rope: Mapping[str, Any] | None
    path: tuple[str, ...]

    @property
    def quoted(self) -> str:
        """The checkpoint, for a shell."""
        return shlex.quote(self.ref)

    @property
    def quoted_override(self) -> str:
        """``rope`` below the text section, with max_position_embeddings at the asked length: JSON for a shell."""
        found: dict[str, Any] = {"rope_parameters": dict(self.rope or {}), "max_position_embeddings": self.length}
        for key in reversed(self.path):
            found = {key: found}
        return shlex.quote(json.dumps(found))

    @property
    def beyond(self) -> bool:
        """Whether the length is more than the runtime derives."""
        return self.context is not None and self.length > self.context


class Runtime(ABC):
    """An inference engine at a version. A file with a subclass in ``runtimes/engines`` is all that a runtime takes.

    Attributes:
        name: as people write it, for example ``vllm``; the file is called so too, with ``_`` for what is no letter.
        behaviours: the spans of releases that read a checkpoint differently, oldest first.
        rank: where it stands in lists; the lowest comes first.
        reads_formats: ``hf``, ``gguf`` or both.
        caps_context: it serves no more than the context that it derives, unless told otherwise.
        from_folder: it starts from a folder on the disk and takes no name of the Hub.
        abbreviation: its name in the head of a wide table, where another than ``name``.
        avoided: notes that its launch line says again as options to avoid.
        version: the release whose behaviour is predicted.
        engine: the same, for messages.
    """

    name: ClassVar[str]
    behaviours: ClassVar[tuple[Behaviour, ...]]
    rank: ClassVar[int] = 1000
    reads_formats: ClassVar[tuple[str, ...]] = ("hf",)
    caps_context: ClassVar[bool] = False
    from_folder: ClassVar[bool] = False
    abbreviation: ClassVar[str | None] = None
    avoided: ClassVar[tuple[str, ...]] = ()

    def __init__(self, version: Version) -> None:
        self.version = version
        self.engine = Engine(self.name, version)

    @abstractmethod
    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What it computes, by group name; ``length`` None means what it does when nobody says a length.

        Raises:
            RuntimeRejects: it refuses the checkpoint or crashes on it.
            InputError: the file holds values that no engine can compute with.
        """

    @abstractmethod
    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """How it is started: the command, Modelfile or program, and options that would spoil the result, with why."""


def compute(build: Callable[[], Method], rope: Spectrum, length: int | None, where: str) -> Frequencies:
    """Apply the method that ``build`` makes.

    Raises:
        InputError: its parameters are impossible.
    """
    try:
        return build().apply(rope, length)
    except ParameterError as error:
        raise InputError(str(error), where=where) from None


def named_as(profile: RopeProfile | None, predictions: dict[str, Prediction]) -> dict[str, Prediction]:
    """The predictions under the profile's group names, where the profile joins groups that the engine keeps apart."""
    if profile is None or set(predictions) == set(profile.groups) or len(predictions) < 2:
        return predictions
    first, *rest = predictions.values()
    alike = all(
        other.inv_freq.shape == first.inv_freq.shape
        and bool((other.inv_freq == first.inv_freq).all())
        and other.attention_scale == first.attention_scale
        for other in rest
    )
    return {next(iter(profile.groups)): first} if alike and len(profile.groups) == 1 else predictions
