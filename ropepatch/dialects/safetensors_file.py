"""A single ``.safetensors`` file without a folder around it: a config in its metadata, or nothing but frequencies."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import ClassVar

import numpy as np

from ropepatch.containers import json_text, safetensors
from ropepatch.dialects import hf_lower, inv_freq_tensors
from ropepatch.dialects.base import Lowering
from ropepatch.dialects.hf_config import HfDialect
from ropepatch.dialects.inv_freq_tensors import Buffer
from ropepatch.dialects.params_json import changed_base
from ropepatch.errors import InputError, MethodUnsupported
from ropepatch.methods.base import Array, Method, Spectrum
from ropepatch.methods.linear import Linear
from ropepatch.methods.none import NoScaling
from ropepatch.patch import Edit
from ropepatch.profile import RopeGroup, RopeProfile, Source

#: digits of a base that are tried, with the relative error allowed: round bases first, those of a patch exactly
_BASES = (*((digits, 1e-6) for digits in range(1, 5)), *((digits, 3e-7) for digits in range(5, 13)), (12, 1e-5))


class SafetensorsDialect:
    """An opened ``.safetensors`` file that has no ``config.json`` beside it."""

    kind: ClassVar[str] = "safetensors"

    def __init__(self, header: safetensors.Header) -> None:
        self.path = header.path
        self.root = header.path.parent
        self.header = header
        self.inner = _Inner.of(header) if "config" in header.metadata else None

    @classmethod
    def open(cls, path: Path) -> SafetensorsDialect:
        """Read the header of ``path``."""
        return cls(safetensors.scan(path))

    def files(self) -> list[Path]:
        """The file."""
        return [self.path]

    def lift(self, ref: str) -> RopeProfile:
        """The profile by the config in the metadata, else by the stored frequencies alone.

        Raises:
            InputError: there is neither.
        """
        notes: list[str] = []
        buffers = inv_freq_tensors.in_header(self.header, notes)
        if self.inner is None:
            return self._lift_buffers(ref, buffers, notes)
        profile = self.inner.lift(ref)
        source = dataclasses.replace(profile.source, format="safetensors")
        notes += inv_freq_tensors.compare(buffers, profile)
        return dataclasses.replace(profile, source=source, notes=(*profile.notes, *notes))

    def _lift_buffers(self, ref: str, buffers: list[Buffer], notes: list[str]) -> RopeProfile:
        if not buffers:
            raise InputError(
                "has no config.json beside it, no config in its __metadata__ and no stored frequencies",
                where=str(self.path),
                hint="put the model's config.json into the same folder",
            )
        first = buffers[0]
        for other in buffers[1:]:
            if not np.array_equal(other.values, first.values):
                raise InputError(
                    f"{first.tensor.name} and {other.tensor.name} differ; a config.json is needed to tell the layers",
                    where=str(self.path),
                )
        fastest = float(first.values[0])
        theta = base_of(first.values / fastest, first.tensor.dtype) if 0 < fastest <= 1 else None
        if theta is None:
            raise InputError(
                f"{first.tensor.name} is not plain or linear RoPE of one base: a config.json is needed to tell which "
                "scaling it has",
                where=str(self.path),
            )
        scaling: Method = NoScaling() if fastest == 1 else Linear(1 / fastest)
        width = 2 * first.values.size
        notes.append(f"rope_theta {theta:g} is solved from {first.tensor.name}; head and context are not known")
        return RopeProfile(
            source=Source(ref, "safetensors", "unknown", "inv_freq"),
            groups={"default": RopeGroup(theta, width, width, scaling=scaling)},
            notes=tuple(notes),
        )

    def lower(self, before: RopeProfile, after: RopeProfile, options: Lowering) -> tuple[list[Edit], list[str]]:
        """The edits of the metadata's config and of the stored frequencies."""
        notes: list[str] = []
        buffers = inv_freq_tensors.in_header(self.header, notes)
        edits: list[Edit] = []
        if self.inner is not None:
            edits, more = self.inner.lower(before, after, options)
            notes += more
            edits = [dataclasses.replace(edit, path=(*safetensors.CONFIG, *edit.path)) for edit in edits]
        else:
            self._refuse_unheld(after)
        return [*edits, *inv_freq_tensors.rewrite(buffers, before, after, notes)], notes

    def _refuse_unheld(self, after: RopeProfile) -> None:
        """Refuse what would leave frequencies behind that nobody can tell the method of."""
        for group in after.groups.values():
            if changed_base(group) is None and not isinstance(group.scaling, Linear):
                method = group.scaling.to_json().get("method", group.scaling.name)
                raise MethodUnsupported(
                    f"bare frequencies do not say that they are {method}",
                    where=str(self.path),
                    hint="they can be linear, ntk, ntk-critical, theta or none; for others put the model's config.json "
                    "into the same folder",
                )


class _Inner(HfDialect):
    """The config in the metadata, read as a ``config.json``; the frequencies stay its owner's business."""

    @classmethod
    def of(cls, header: safetensors.Header) -> _Inner:
        where = f"{header.path}: config in __metadata__"
        config = json_text.parse(safetensors.config_text(header), where)
        return cls(header.path.parent, header.path, config)

    def lift(self, ref: str) -> RopeProfile:
        """The profile that the config describes."""
        return self.lift_config(ref)

    def lower(self, before: RopeProfile, after: RopeProfile, options: Lowering) -> tuple[list[Edit], list[str]]:
        """The edits of the config."""
        return hf_lower.lower(self, before, after, options)


def base_of(inv_freq: Array, dtype: str) -> float | None:
    """The base whose plain RoPE these frequencies are, None where there is none.

    Args:
        inv_freq: shape ``(pairs,)``, as a tensor of ``dtype`` stores them.
        dtype: ``F64``, ``F32``, ``F16`` or ``BF16``: how closely they can be told.
    """
    last = inv_freq.size - 1
    if last < 1 or not np.all(inv_freq > 0) or inv_freq[last] >= 1:
        return None
    solved = math.exp(-math.log(inv_freq[last]) * inv_freq.size / last)
    for digits, relative in _BASES:
        theta = float(f"{solved:.{digits - 1}e}")
        if not 1 < theta < math.inf:
            continue
        plain = Spectrum.plain(theta, 2 * inv_freq.size).inv_freq
        if np.all(np.abs(plain - inv_freq) <= inv_freq_tensors.tolerance(plain, dtype, relative)):
            return theta
    return None
