"""What every context-extension method has in common."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class ParameterError(ValueError):
    """A parameter of a method is unknown, missing or impossible."""


@dataclass(frozen=True)
class Spectrum:
    """The rotation that a method starts from.

    Attributes:
        inv_freq: radians per position of each rotated pair, shape ``(rotary_dim // 2,)``, fastest first.
        rope_theta: the base θ that ``inv_freq`` was made with.
        rotary_dim: how many of the head's dimensions rotate.
        head_dim: the head's dimensions.
        attention_scale: factor on cos and sin that earlier stages brought.
    """

    inv_freq: Array
    rope_theta: float
    rotary_dim: int
    head_dim: int
    attention_scale: float = 1.0

    @classmethod
    def plain(cls, rope_theta: float, rotary_dim: int, head_dim: int | None = None) -> Spectrum:
        """Unscaled RoPE: ``inv_freq[i] = rope_theta ** (-2 i / rotary_dim)`` (RoFormer, arXiv 2104.09864 eq. 15)."""
        exponent = np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim
        return cls(float(rope_theta) ** -exponent, float(rope_theta), rotary_dim, head_dim or rotary_dim)


@dataclass(frozen=True)
class Frequencies:
    """What RoPE comes to at a length.

    Attributes:
        inv_freq: radians per position of each rotated pair, float64, shape ``(rotary_dim // 2,)``.
        attention_scale: factor on both cos and sin; logits scale by its square.
    """

    inv_freq: Array
    attention_scale: float = 1.0


@dataclass(frozen=True)
class Target:
    """What a user asks a method for.

    Attributes:
        factor: the extension ``s`` = new length / original length.
        original: the trained length ``T`` in tokens, None where nobody knows it.
        spectrum: the plain rotation of the group that shall be extended.
    """

    factor: float
    original: int | None
    spectrum: Spectrum

    @property
    def length(self) -> int:
        """The new length ``s * T`` in tokens."""
        if self.original is None:
            raise ParameterError("the original context is unknown; pass --original-length")
        return round(self.factor * self.original)


M = TypeVar("M", bound="Method")


@dataclass(frozen=True)
class Method(ABC):
    """A rule that turns a rope group into an extended one.

    A subclass is a frozen dataclass whose fields are the method's parameters. What stands in the class
    variables is what ``ropepatch methods`` and ``ropepatch explain`` print.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    reach: ClassVar[str]
    fine_tuning: ClassVar[str]
    about: ClassVar[str]
    #: pairs whose wavelength exceeds the trained context (7 tokens or more, so that the first pair turns once in it)
    #: are slowed by at least the factor, as long as beta_slow or low_freq_factor is at least 1 (the default)
    slows_long_pairs: ClassVar[bool] = False
    #: no pair turns faster than before
    never_faster: ClassVar[bool] = True
    #: a factor of 1 changes nothing
    identity_at_one: ClassVar[bool] = True
    #: can be asked for with ``apply --method``
    applicable: ClassVar[bool] = True
    #: place in lists, the lowest first; None for what has no name to ask for
    rank: ClassVar[int | None] = None
    #: how a Hugging Face config and a GGUF hold it: ``key``, ``base``, ``factors`` per pair, None where they cannot
    written: ClassVar[tuple[str | None, str | None]] = ("factors", "factors")
    #: place among the proposals of ``plan``, the lowest first; None for what it never proposes by itself
    preference: ClassVar[int | None] = None
    #: what it needs beyond a factor, where that alone does not determine it
    needs: ClassVar[str | None] = None
    #: published checkpoints were trained with it, so that it is a part of the model
    trained_with: ClassVar[bool] = False
    #: original context times factor is as far as it reaches
    factor_reaches: ClassVar[bool] = False
    #: parameters that a model was trained with, and that stay when the same method replaces it with another factor
    lasting: ClassVar[tuple[str, ...]] = ()
    #: it changes a rotation; False for what is a model's own rotation, which nothing has scaled yet
    scales: ClassVar[bool] = True
    #: why no method extends a model that rotates by it; None where methods do
    unextendable: ClassVar[str | None] = None
    #: it is counted over the head's dimensions, whichever of them rotate
    spans_head: ClassVar[bool] = False

    @abstractmethod
    def apply(self, rope: Spectrum, length: int | None) -> Frequencies:
        """The frequencies at ``length`` tokens; None means at or below the trained context."""

    @classmethod
    def extend(cls: type[M], target: Target, settings: Mapping[str, Any]) -> M:
        """The method as asked for: ``target`` fills factor and original context, ``settings`` the rest.

        Raises:
            ParameterError: a setting is unknown, missing or impossible.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        if "factor" in fields:
            values["factor"] = target.factor
        if "original_max_position_embeddings" in fields:
            if target.original is None and "original_max_position_embeddings" not in settings:
                raise ParameterError(f"{cls.name} needs the original context; pass --original-length")
            values["original_max_position_embeddings"] = target.original
        for key, field in fields.items():
            if key not in values and key not in settings and field.default is dataclasses.MISSING:
                raise ParameterError(f"{cls.name} needs {key}; pass --set {key}=VALUE")
        return cls.from_parameters({**values, **settings})

    @classmethod
    def from_parameters(cls: type[M], values: Mapping[str, Any]) -> M:
        """Build from a mapping, coercing texts and numbers to the fields' types.

        Raises:
            ParameterError: a name is unknown, a value missing or of the wrong type.
        """
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                known = ", ".join(fields) or "none"
                raise ParameterError(f"{cls.name} has no parameter {key!r}; it has: {known}")
        for key, field in fields.items():
            if key not in values and field.default is dataclasses.MISSING:
                raise ParameterError(f"{cls.name} needs {key}")
        return cls(**{key: coerce(f"{cls.name} {key}", value, hints[key]) for key, value in values.items()})

    def parameters(self) -> dict[str, Any]:
        """The parameters as plain JSON values; those that are None are left out."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    def kept(self) -> dict[str, Any]:
        """The parameters that another factor of the same method leaves as they are, but for those that are None."""
        return {name: value for name in self.lasting if (value := getattr(self, name)) is not None}

    def to_json(self) -> dict[str, Any]:
        """``{"method": name, …parameters}``."""
        return {"method": self.name, **self.parameters()}

    @classmethod
    def rebases(cls) -> bool:
        """Whether it comes to plain RoPE at another base, so that a key for the base is enough."""
        return "base" in cls.written

    def theta(self, rope: Spectrum) -> float:
        """The base of a method that :meth:`rebases`."""
        raise TypeError(f"{self.name} is more than a base")

    @classmethod
    def takes_factor(cls) -> bool:
        """Whether an extension is asked for with it."""
        return any(field.name == "factor" for field in dataclasses.fields(cls))

    @property
    def static(self) -> bool:
        """Whether the frequencies are the same at every length."""
        return True


def coerce(what: str, value: Any, hint: Any) -> Any:
    """``value`` as the type that ``hint`` names; texts come from the command line.

    Raises:
        ParameterError: it does not fit; ``what`` names it.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ParameterError(f"{what} must be a list of numbers, not {value!r}")
        inner = typing.get_args(hint)[0]
        return tuple(coerce(f"{what}[{i}]", item, inner) for i, item in enumerate(value))
    if hint is bool:
        return _bool(what, value)
    if hint in (int, float):
        return _number(what, value, hint)
    return value


def _bool(what: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "1", "yes", "on", "false", "0", "no", "off"):
        return value.lower() in ("true", "1", "yes", "on")
    raise ParameterError(f"{what} must be true or false, not {value!r}")


def _number(what: str, value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ParameterError(f"{what} must be a number, not {value!r}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ParameterError(f"{what} must be a number, not {value!r}") from None
    if not math.isfinite(number):
        raise ParameterError(f"{what} must be finite, not {value!r}")
    if kind is int:
        if number != int(number):
            raise ParameterError(f"{what} must be a whole number, not {value!r}")
        return int(number)
    return number


def check_factor(name: str, factor: float) -> None:
    """Refuse a factor that is not a finite number of at least 1."""
    if not math.isfinite(factor) or factor < 1:
        raise ParameterError(f"{name} factor must be at least 1, not {factor:g}")


def check_original(name: str, original: int) -> None:
    """Refuse an original context that is not a positive number of tokens."""
    if original < 1:
        raise ParameterError(f"{name} original_max_position_embeddings must be at least 1, not {original}")


def yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """YaRN's magnitude ``0.1 mscale ln s + 1`` for s > 1, else 1 (arXiv 2309.00071 eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rotations(rope: Spectrum, original: int) -> Array:
    """How often each pair turns over the trained context: ``T / wavelength``, shape ``(pairs,)``."""
    return original * rope.inv_freq / (2 * math.pi)


def blend_by_rotations(rope: Spectrum, factor: float, original: int, slow: float, fast: float) -> Frequencies:
    """Pairs that turn more than ``fast`` times over the original context stay, fewer than ``slow``: divided by factor.

    Between, the two are blended linearly in the number of rotations (YaRN paper, arXiv 2309.00071 eq. 17 and 18).
    """
    turns = rotations(rope, original)
    width = fast - slow
    keep = np.clip((turns - slow) / width, 0.0, 1.0) if width > 0 else (turns > fast).astype(np.float64)
    return Frequencies(rope.inv_freq * (keep + (1.0 - keep) / factor), rope.attention_scale)
