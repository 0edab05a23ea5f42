"""A ref to its files, container, dialect and profile."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch import dialects
from ropepatch.dialects.base import Dialect
from ropepatch.errors import UsageError
from ropepatch.frequencies import profile_frequencies
from ropepatch.hub import refs
from ropepatch.methods.base import Frequencies
from ropepatch.profile import RopeProfile

if TYPE_CHECKING:
    from ropepatch.patch import Patch


class Checkpoint:
    """An opened checkpoint.

    Attributes:
        ref: what the person typed.
        dialect: how its format spells RoPE.
    """

    def __init__(self, ref: str, dialect: Dialect) -> None:
        self.ref = ref
        self.dialect = dialect

    @cached_property
    def profile(self) -> RopeProfile:
        """The normalised description of the checkpoint's RoPE.

        Raises:
            InputError: the metadata cannot be understood.
            NoRope: there is no RoPE.
        """
        return self.dialect.lift(self.ref)

    def frequencies(self, length: int | None = None, runtime: str | None = None) -> dict[str, Frequencies]:
        """``inv_freq`` and ``attention_scale`` by group name.

        Args:
            length: the context in tokens; None means at or below the trained one.
            runtime: None for what the method defines.

        Raises:
            UsageError: the runtime is unknown.
            RuntimeRejects: the runtime refuses this checkpoint.
        """
        if runtime is None:
            return profile_frequencies(self.profile, length)
        from ropepatch import runtimes

        found = runtimes.predict(runtime, self.profile, self.raw_config, length, self.ref)
        return {name: prediction.frequencies for name, prediction in found.items()}

    @property
    def raw_config(self) -> Mapping[str, Any] | None:
        """The whole ``config.json`` as spelled, None for other formats: runtimes read the spelling, not the profile."""
        config: Mapping[str, Any] | None = getattr(self.dialect, "config", None)
        return config

    def patch(
        self,
        method: str,
        factor: float | None = None,
        *,
        length: int | None = None,
        original: int | None = None,
        existing: str = "error",
        group: str | None = None,
        hf_layout: str | None = None,
        bake: bool = False,
        force: bool = False,
        target_gamma: float | None = None,
        record: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Patch:
        """The patch that extends this checkpoint; nothing is written.

        Args:
            method: a name from ``ropepatch.methods.REGISTRY``, or ``name+resonance``; or ``dca``, a key that SGLang
                reads for some models.
            factor: the extension; or give ``length``.
            length: the new context in tokens.
            original: the trained context, where the file does not say it.
            existing: ``error``, ``replace`` or ``compose`` for a checkpoint that is scaled already.
            group: the rope group to extend; default the one that a longer context reaches.
            hf_layout: ``v4``, ``v5`` or ``both``.
            bake: write per-pair factors even where a named method would do.
            force: patch a group that a longer context does not reach.
            target_gamma: for ``theta``: design the base for this γ at ``length``, an unvalidated heuristic.
            record: how the factors were found, as ``ropepatch search`` wrote it; it goes into the manifest.
            settings: the method's parameters.

        Raises:
            UsageError: the arguments do not fit the method.
            AlreadyScaled: it is scaled and ``existing`` is ``error``.
            MethodUnsupported: the format cannot hold the method.
        """
        from ropepatch import extending
        from ropepatch.dialects.base import Lowering
        from ropepatch.methods import runtime_only

        if method in runtime_only.NAMES:
            return extending.of_attention(self, method, factor, length, original, settings)
        asked = extending.Asked(
            method,
            factor,
            length,
            original,
            existing,
            group,
            Lowering(hf_layout, bake),
            force,
            target_gamma,
            record,
            settings,
        )
        return extending.patch(self, asked)

    def reached(self, wanted: str | None = None) -> str:
        """The name of the rope group that a longer context reaches, or of the one that is ``wanted``.

        Raises:
            UsageError: there is no group of that name.
        """
        profile = self.profile
        if wanted is not None:
            if wanted not in profile.groups:
                raise UsageError(f"there is no rope group {wanted!r}; there are: {', '.join(profile.groups)}")
            return wanted
        for name in ("full_attention", "default"):
            if name in profile.groups:
                return name
        reached = [name for name, group in profile.groups.items() if group.scalable is not False]
        full = [name for name in reached if not profile.groups[name].window]
        return next(iter([*full, *reached, *profile.groups]))


def open(ref: str | Path) -> Checkpoint:
    """Open the checkpoint that ``ref`` names: a path, or a place on the Hub, of which headers alone are read.

    Raises:
        InputError: there is no such checkpoint, or its format is unknown.
        UsageError: the ref is empty, as that of a variable of the shell that is not set.
        HubError: it is on the Hub and cannot be had.
    """
    if not str(ref).strip():
        raise UsageError("REF is empty", hint="name a file, a folder (. for this one) or hf://org/repo")
    if isinstance(ref, str) and refs.is_remote(ref):
        from ropepatch.hub import mirror

        found = mirror.opened(ref)
        return Checkpoint(str(found.ref), dialects.open(str(found.path)))
    dialect = dialects.open(str(ref))
    if Path(ref).is_dir() and isinstance(file := getattr(dialect, "path", None), Path) and file.suffix == ".gguf":
        ref = file  # the one model in a folder
    return Checkpoint(str(ref), dialect)


def open_whole(ref: str | Path) -> Checkpoint:
    """The same with its weights: a checkpoint on the Hub is downloaded into the cache and opened there.

    Raises:
        InputError, HubError: as :func:`open`.
    """
    if isinstance(ref, str) and refs.is_remote(ref):
        from ropepatch.hub import fetch

        ref = fetch.download(ref)
    return open(ref)
