"""What is compared: a baseline, the checkpoint as it is, and methods that are tried without changing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropepatch import checkpoint
from ropepatch.checkpoint import Checkpoint
from ropepatch.errors import InputError, UsageError
from ropepatch.methods.runtime_only import SELF_EXTEND
from ropepatch.patch import Patch
from ropepatch.profile import RopeProfile
from ropepatch.runtime_methods import SelfExtend, advised
from ropepatch.verify.promise import trained_context, unscaled

UNPATCHED, BASE, AS_IT_IS = "none", "base", "as it is"


@dataclass(frozen=True)
class Variant:
    """A way to rotate one checkpoint's weights.

    Attributes:
        name: in tables and documents.
        checkpoint: whose weights it has.
        profile: how it rotates.
        baseline: whether the others are held against it.
        method: the method that is tried; None for a checkpoint as it is.
        factor: the method's.
        settings: the method's.
        runtime: how it attends, where no file can say it; then nothing is written for it.
        url: where it is served, for engines that do not load it themselves.
    """

    name: str
    checkpoint: Checkpoint
    profile: RopeProfile
    baseline: bool = False
    method: str | None = None
    factor: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    runtime: SelfExtend | None = None

    def patch(self) -> Patch | None:
        """What would have to be written for it; None where nothing has to."""
        if self.method is None or self.runtime is not None:
            return None
        return _patch(self.checkpoint, self.method, self.factor, self.settings)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "name": self.name, "ref": self.url or self.checkpoint.ref, "baseline": self.baseline,
            "method": self.method, "factor": self.factor,
            "settings": {key: str(value) for key, value in self.settings.items()},
        }  # fmt: skip


def resolve(
    model: Checkpoint,
    base: Checkpoint | None = None,
    methods: Sequence[str] = (),
    factors: Sequence[float] = (),
    wanted: Sequence[str] = (),
    urls: Sequence[str] = (),
) -> list[Variant]:
    """The baseline first, then the checkpoint where it is not the baseline itself, then what is to be tried.

    Args:
        model: the checkpoint that is audited.
        base: what it is an extension of; default itself without its scaling.
        methods: methods to try on the base, each by each of ``factors``.
        factors: extensions.
        wanted: ``method:factor``, ``method:factor:key=value,…``, ``self-extend:group=4,window=64``, or the name of
            another checkpoint.
        urls: servers, each ``URL`` or ``NAME=URL``; then they are all that is compared.

    Raises:
        UsageError: a method has no factor, or a text is neither a variant nor a checkpoint.
    """
    if urls:
        if methods or wanted or base:
            raise UsageError("what a server has is decided there", hint="give each server as --url NAME=URL")
        return _distinct([_served(model, text) for text in urls])
    if methods and not factors:
        raise UsageError("--method needs --factor")
    if factors and not methods:
        raise UsageError("--factor needs --method", hint="or --variant METHOD:FACTOR")
    scaled = any(group.scaled for group in model.profile.groups.values())
    if base is not None:
        found = [Variant(BASE, base, base.profile, True), Variant(AS_IT_IS, model, model.profile)]
    elif scaled:
        plain = Variant(UNPATCHED, model, unscaled(model.profile), True, UNPATCHED)
        found = [plain, Variant(AS_IT_IS, model, model.profile)]
    else:
        found = [Variant(UNPATCHED, model, model.profile, True)]
    start = base or model
    tried = [_tried(start, name, factor, {}) for name in methods if name != UNPATCHED for factor in factors]
    return _distinct([*found, *tried, *(_parsed(start, text) for text in wanted)])


def _tried(start: Checkpoint, method: str, factor: float | None, settings: Mapping[str, Any]) -> Variant:
    trained = trained_context(start.profile)
    if method == SELF_EXTEND and factor and trained:
        how = advised(trained, round(factor * trained))
        return _grouped(start, method, f"group={how.group},window={how.window}")
    profile = _patch(start, method, factor, settings).after
    words = [method, *([f"{factor:g}x"] if factor is not None else []), *(f"{k}={v}" for k, v in settings.items())]
    return Variant(" ".join(words), start, profile, method=method, factor=factor, settings=settings)


def _patch(start: Checkpoint, method: str, factor: float | None, settings: Mapping[str, Any]) -> Patch:
    return start.patch(method, factor, existing="replace" if start.profile.scaled else "error", **settings)


def _parsed(start: Checkpoint, text: str) -> Variant:
    """``yarn:4``, ``yarn:4:beta_fast=16``, ``self-extend:group=4,window=64``, or a checkpoint's path."""
    from ropepatch.methods import REGISTRY

    method, _, rest = text.partition(":")
    if method == SELF_EXTEND:
        return _grouped(start, text, rest)
    if method.split("+")[0] not in REGISTRY:
        try:
            other = checkpoint.open_whole(text)
        except InputError:
            raise UsageError(
                f"{text!r:.80} is neither METHOD:FACTOR nor a checkpoint", hint="for example --variant yarn:4"
            ) from None
        path = Path(text)
        return Variant(path.name.removesuffix(".gguf") or text, other, other.profile)
    factor, _, pairs = rest.partition(":")
    settings = dict(pair.partition("=")[::2] for pair in pairs.split(",") if pair)
    try:
        number = float(factor) if factor else None
    except ValueError:
        raise UsageError(f"{text!r:.80}: {factor!r:.20} is no factor", hint="for example --variant yarn:4") from None
    return _tried(start, method, number, settings)


def _grouped(start: Checkpoint, text: str, rest: str) -> Variant:
    """The checkpoint as it is, attending by Self-Extend."""
    pairs = dict(pair.partition("=")[::2] for pair in rest.split(",") if pair)
    if set(pairs) != {"group", "window"} or not all(value.isdigit() and len(value) < 10 for value in pairs.values()):
        raise UsageError(
            f"{text!r:.80} is not how self-extend is set", hint="for example self-extend:group=4,window=64"
        )
    how = SelfExtend(int(pairs["group"]), int(pairs["window"]))
    trained = trained_context(start.profile)
    longest = how.reach(trained) if trained else start.profile.declared_context
    profile = dataclasses.replace(start.profile, declared_context=longest)
    name = f"{SELF_EXTEND} group={how.group} window={how.window}"
    return Variant(name, start, profile, method=SELF_EXTEND, settings=dataclasses.asdict(how), runtime=how)


def _served(model: Checkpoint, text: str) -> Variant:
    name, sign, url = text.partition("=")
    if not sign or "/" in name:
        name, url = "served", text
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r:.80} is no http:// address", hint="for example --url http://127.0.0.1:8080/v1")
    return Variant(name, model, model.profile, name in (UNPATCHED, BASE), url=url)


def _distinct(found: list[Variant]) -> list[Variant]:
    names: dict[str, Variant] = {}
    for variant in found:
        same = names.get(variant.name)
        if same is None:
            names[variant.name] = variant
        elif (same.checkpoint.ref, same.url) != (variant.checkpoint.ref, variant.url):
            name = f"{variant.name} ({variant.url or variant.checkpoint.ref})"
            names[name] = dataclasses.replace(variant, name=name)
    return list(names.values())
