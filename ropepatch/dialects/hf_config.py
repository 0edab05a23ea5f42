"""Hugging Face folders: ``config.json`` to a profile.

Reads the layout of transformers 4 (``rope_theta`` and ``rope_scaling``), of 5 (``rope_parameters``, flat or by layer
type), and both at once. The order of precedence is transformers 5's ``convert_rope_params_to_dict``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ropepatch.containers import json_text
from ropepatch.dialects import dual_chunk, hf_defaults, hf_families, hf_layers, hf_scaling, inv_freq_tensors
from ropepatch.dialects.base import Lowering
from ropepatch.dialects.hf_families import Entry
from ropepatch.dialects.hf_section import THETA_KEYS, text_section
from ropepatch.errors import InputError, NoRope
from ropepatch.methods.base import Method, ParameterError
from ropepatch.patch import Edit
from ropepatch.profile import RopeGroup, RopeProfile, Source


class HfDialect:
    """An opened folder with a ``config.json``."""

    kind: ClassVar[str] = "hf"

    def __init__(self, root: Path, path: Path, config: Mapping[str, Any]) -> None:
        self.root = root
        self.path = path
        self.config = config
        self.section = text_section(config, str(path))

    @classmethod
    def open(cls, root: Path, config: Path) -> HfDialect:
        """Read ``config``, which describes the checkpoint in ``root``."""
        return cls(root, config, json_text.read(config)[1])

    def files(self) -> list[Path]:
        """The config, then the weights."""
        return [self.path, *sorted(self.root.glob("*.safetensors"))]

    @property
    def layout_version(self) -> str:
        """``v4``, ``v5``, ``both``, or ``none`` when the config spells no scaling and no base."""
        given = self.section.given
        beside = [key for key in ("rope_theta", *THETA_KEYS) if key not in self.section.own_keys]
        old = any(given.get(key) is not None for key in ("rope_scaling", *beside))
        new = given.get("rope_parameters") is not None
        return {(True, True): "both", (True, False): "v4", (False, True): "v5"}.get((old, new), "none")

    def lift(self, ref: str) -> RopeProfile:
        """The profile that the config describes, with what is to know about frequencies stored beside it."""
        profile = self.lift_config(ref)
        return dataclasses.replace(profile, notes=(*profile.notes, *inv_freq_tensors.attach(self, profile)))

    def lift_config(self, ref: str) -> RopeProfile:
        """The profile that the config describes."""
        section, notes = self.section, list[str]()
        if not section.rotates:
            if not section.defaults.known and section.model_type not in hf_defaults.WITHOUT_ROPE and section.silent:
                if "model_type" not in self.config:
                    raise InputError(
                        "is no model's config: it has neither model_type nor a RoPE key",
                        where=str(self.path),
                        hint="give the model's folder or its config.json",
                    )
                raise InputError(
                    f"model type {section.model_type!r} is unknown, and the config has no RoPE key",
                    where=str(self.path),
                    hint="write rope_theta into the config if the model has RoPE",
                )
            raise NoRope(
                f"model type {section.model_type!r} has no rotary position embedding; there is nothing to patch",
                where=str(self.path),
            )
        entries = hf_families.entries(section, notes)
        declared = section.context()
        groups: dict[str, RopeGroup] = {}
        unread: dict[str, Any] = {}
        for name, entry in entries.items():
            groups[name] = self._group(name, entry, declared, notes, unread)
        return RopeProfile(
            source=Source(ref, "hf", section.model_type, self.layout_version),
            groups=hf_layers.merge_equal(groups, entries),
            trained_context=self._trained(groups, declared, notes),
            declared_context=declared,
            nope_layers=hf_layers.nope_layers(section),
            unrecognised=unread,
            notes=tuple(dict.fromkeys([*section.notes, *notes])),  # reading the entries adds to the section's
        )

    def _group(
        self, name: str, entry: Entry, declared: int | None, notes: list[str], unread: dict[str, Any]
    ) -> RopeGroup:
        where = f"{self.path}: {'.'.join((*self.section.path, *entry.key))}"
        context = hf_scaling.Context(where, declared, entry.original, notes)
        scaling = entry.scaling or hf_scaling.lift(entry.rope, context)
        kind = hf_scaling.rope_type(entry.rope, where)
        unread |= {".".join((*entry.key, key)): v for key, v in hf_scaling.unread(entry.rope, kind).items()}
        sections = entry.rope.get("mrope_section")
        group = RopeGroup(
            rope_theta=entry.theta,
            rotary_dim=entry.head_dim if kind == "proportional" else entry.rotary_dim(kind),
            head_dim=entry.head_dim,
            layout=self.section.layout,
            layers=entry.layers,
            window=entry.window,
            mrope_section=tuple(sections) if isinstance(sections, list) else None,
            scaling=scaling,
            scalable=None if entry.reached else False,
            softmax_scale=hf_layers.softmax_scale(self.section, scaling),
            query_temperature=hf_layers.query_temperature(self.section, entry.rope),
        )
        self._check(group.scaling, group, where)
        return group

    def _check(self, scaling: Method, group: RopeGroup, where: str) -> None:
        """Refuse a method that cannot be computed on this group, such as a factor list of the wrong length."""
        try:
            scaling.apply(group.spectrum(), None)
            scaling.apply(group.spectrum(), 1 << 30)
        except ParameterError as error:
            raise InputError(str(error), where=where) from None

    def _trained(self, groups: Mapping[str, RopeGroup], declared: int | None, notes: list[str]) -> int | None:
        main = groups.get("full_attention") or next(iter(groups.values()))
        chunked = dual_chunk.trained(self.section.given)
        if chunked is not None and declared is not None and chunked <= declared:
            notes.append(
                f"{dual_chunk.KEY}: engines that read it divide attention into chunks within {chunked} tokens, others "
                "read a plain model"
            )
            return chunked
        if not main.scaled:
            return declared
        known: int | None = getattr(main.scaling, "original_max_position_embeddings", None)
        if known is None:
            factor = getattr(main.scaling, "factor", 1.0)
            notes.append(
                f"the original context is not written; a {main.scaling.name} factor of {factor:g} does not say it: "
                "pass --original-length for a method that needs it"
            )
        elif declared is not None and known > declared:
            raise InputError(
                f"the original context {known} is larger than the declared one {declared}",
                where=f"{self.path}: original_max_position_embeddings",
            )
        return known

    def lower(self, before: RopeProfile, after: RopeProfile, options: Lowering) -> tuple[list[Edit], list[str]]:
        """The edits of ``config.json`` that make transformers compute ``after``."""
        from ropepatch.dialects import hf_lower

        edits, notes = hf_lower.lower(self, before, after, options)
        tensors, more = inv_freq_tensors.edits(self, before, after)
        if (self.root / "params.json").exists():
            more.append("params.json stays as it is: engines that read Mistral's format need it patched too, by name")
        return [*edits, *tensors], [*notes, *more]
