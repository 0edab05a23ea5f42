"""The profile: what a checkpoint says about its RoPE, in one vocabulary for all formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropepatch import methods
from ropepatch.methods.base import Method, Spectrum
from ropepatch.methods.none import NoScaling

SCHEMA = "ropepatch.rope-profile/1"
#: beyond this, a length is a typing mistake: no format's context field holds more
MAX_CONTEXT = (1 << 31) - 1
#: dimensions of a head, before memory is taken for as many frequencies
MAX_WIDTH = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a profile was read from.

    Attributes:
        ref: what the person typed.
        format: ``hf``, ``gguf``, ``safetensors``, ``mistral`` or ``meta``.
        architecture: the model type or GGUF architecture.
        layout_version: the spelling found, for example ``v4``, ``v5`` or ``gguf-v3``.
    """

    ref: str
    format: str
    architecture: str
    layout_version: str | None = None


@dataclass(frozen=True)
class RopeGroup:
    """The layers that share one set of frequencies.

    Attributes:
        rope_theta: the base θ.
        rotary_dim: how many of the head's dimensions rotate.
        head_dim: the head's dimensions.
        layout: ``half`` (pairs i and i + rotary_dim/2) or ``interleaved`` (pairs 2i and 2i + 1).
        layers: the layers' indices; None when all layers are in this group.
        window: the sliding window in tokens, None for full attention.
        mrope_section: pairs given to time, height and width in multimodal RoPE.
        scaling: the method in force.
        factors: the divisors as the file holds them, where ``scaling`` names the method that they equal.
        softmax_scale: extra factor on the softmax scale that the scaling brings (DeepSeek's MLA).
        query_temperature: position-dependent query scaling: ``{"scale", "length"}``.
        scalable: False where no scaling in the file reaches these layers; None else.
    """

    rope_theta: float
    rotary_dim: int
    head_dim: int
    layout: str = "half"
    layers: tuple[int, ...] | None = None
    window: int | None = None
    mrope_section: tuple[int, ...] | None = None
    scaling: Method = field(default_factory=NoScaling)
    factors: tuple[float, ...] | None = None
    softmax_scale: float | None = None
    query_temperature: Mapping[str, float] | None = None
    scalable: bool | None = None

    def spectrum(self) -> Spectrum:
        """The plain rotation of this group, before any scaling."""
        return Spectrum.plain(self.rope_theta, self.width, self.head_dim)

    @property
    def width(self) -> int:
        """The dimensions over which the frequencies are counted."""
        return self.head_dim if self.scaling.spans_head else self.rotary_dim

    @property
    def scaled(self) -> bool:
        """Whether a method is in force that changes the model's own rotation."""
        return self.scaling.scales

    def to_json(self) -> dict[str, Any]:
        """The group as plain JSON; what is None is left out."""
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if isinstance(value, Method):
                value = value.to_json()
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            values[item.name] = value
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RopeGroup:
        """The group that :meth:`to_json` wrote."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        values["scaling"] = methods.from_json(data["scaling"])
        group = cls(**values)
        if not 2 <= group.width <= MAX_WIDTH:
            raise ValueError(f"a rotation of {group.width} dimensions")
        return group


@dataclass(frozen=True)
class RopeProfile:
    """The normalised description of a checkpoint's RoPE.

    Attributes:
        source: where it was read.
        groups: rope groups by name, ``default`` when all layers agree.
        trained_context: tokens that the model was trained on before any scaling; None where the file does not say.
        declared_context: tokens that the file claims.
        nope_layers: layers without RoPE.
        unrecognised: rope keys that were read and not understood; they are kept on write.
        notes: what a reader should know: defaults taken, ambiguities.
        read_by: what a runtime reads of a file whose spelling is another one's, by the runtime's name; not part of the
            JSON.
    """

    source: Source
    groups: Mapping[str, RopeGroup]
    trained_context: int | None = None
    declared_context: int | None = None
    nope_layers: tuple[int, ...] | None = None
    unrecognised: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    read_by: Mapping[str, RopeProfile] = field(default_factory=dict, compare=False, repr=False)

    @property
    def scaled(self) -> bool:
        """Whether any group is scaled, or the declared context exceeds the trained one."""
        return any(group.scaled for group in self.groups.values()) or (
            self.trained_context is not None
            and self.declared_context is not None
            and self.declared_context > self.trained_context
        )

    def to_json(self) -> dict[str, Any]:
        """The profile as the JSON that ``schemas/rope-profile.schema.json`` describes."""
        return {
            "schema": SCHEMA,
            "source": {k: v for k, v in dataclasses.asdict(self.source).items() if v is not None},
            "trained_context": self.trained_context,
            "declared_context": self.declared_context,
            "groups": {name: group.to_json() for name, group in self.groups.items()},
            **({"nope_layers": list(self.nope_layers)} if self.nope_layers else {}),
            "unrecognised": dict(self.unrecognised),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RopeProfile:
        """The profile that :meth:`to_json` wrote."""
        return cls(
            source=Source(**data["source"]),
            groups={name: RopeGroup.from_json(group) for name, group in data["groups"].items()},
            trained_context=data.get("trained_context"),
            declared_context=data.get("declared_context"),
            nope_layers=tuple(data["nope_layers"]) if data.get("nope_layers") else None,
            unrecognised=data.get("unrecognised", {}),
            notes=tuple(data.get("notes", ())),
        )
