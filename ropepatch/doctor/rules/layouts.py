"""RP121 to RP129: where ``config.json`` keeps its settings, and who looks there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ropepatch.dialects import hf_values
from ropepatch.dialects.hf_scaling import KEPT_KEYS
from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.effects import effects
from ropepatch.doctor.rules.spelling import PHI, dotted, kind_of
from ropepatch.doctor.subject import Subject
from ropepatch.patch import Edit
from ropepatch.runtimes.config_view import ORIGINAL

_SCALING, _PARAMETERS = "rope_scaling", "rope_parameters"


def _dict(subject: Subject, key: str) -> Mapping[str, Any]:
    value = subject.section.given.get(key)
    return value if isinstance(value, Mapping) else {}


def _flat_for_several(subject: Subject) -> bool:
    """Whether rope_parameters is flat and the class keeps one dict for each layer type."""
    names, new = subject.section.defaults.facts.get("groups") or [], _dict(subject, _PARAMETERS)
    several = bool(names) and not str(names[0]).startswith("theta=")
    return several and bool(new) and not _nested(new) and not _dict(subject, _SCALING)


def _nested(rope: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) for value in rope.values())


@rule(
    "RP121",
    "settings only in the layout of transformers 5",
    "error",
    fix="write rope_theta and rope_scaling at the top as well (apply --hf-layout both)",
    upstream=("vllm-project/vllm#42624", "ml-explore/mlx-lm#1563", "Open-Athena/MarinFold#184"),
    automatic=True,
    explains=True,
)
def only_new(subject: Subject) -> Iterator[Hit]:
    """transformers 5 saves one dict, rope_parameters, with the base in it. transformers up to 4.57, TGI, exllamav2 and
    mlx-lm for most architectures never look there: without an error or a warning they take the class's default base and
    no scaling. A file with both layouts and the same content is read by all."""
    new = _dict(subject, _PARAMETERS)
    if not new or subject.section.given.get(_SCALING) or _flat_for_several(subject):
        return
    edits = () if _nested(new) else tuple(_old_layout(subject, new))
    if edits:
        concerned = subject.moved(edits)
    else:
        unread = {
            spec
            for spec in subject.scope.specs
            for one in subject.predictions(spec)
            for key in one.ignored
            if key.endswith(_PARAMETERS)
        }
        concerned = tuple(spec for spec in subject.scope.specs if spec in unread and subject.differs(spec))
    if concerned:
        text = f"the base and the scaling stand in rope_parameters alone: {effects(subject, concerned)}"
        fix = None if edits else "write the keys of transformers 4 beside it; which ones depends on the model type"
        yield Hit(dotted(*subject.at(_PARAMETERS)), text, concerned, edits, fix)


def _old_layout(subject: Subject, new: Mapping[str, Any]) -> Iterator[Edit]:
    """The same settings for readers of the old layout, beside the new one."""
    given = subject.section.given
    scaling = {key: value for key, value in new.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if subject.section.model_type in PHI and kind_of(new) == "longrope":
        if set(scaling) - {"rope_type", "type", "short_factor", "long_factor", ORIGINAL, "factor"}:
            return  # the class of transformers 4 takes three keys and no other
        original = new.get(ORIGINAL)
        if original and not given.get(ORIGINAL):
            yield subject.put(subject.at(ORIGINAL), original)
        scaling = {"type": "longrope", **{key: new[key] for key in ("short_factor", "long_factor") if key in new}}
    for key in ("rope_theta", "partial_rotary_factor"):
        if new.get(key) is not None and given.get(key) is None:
            yield subject.put(subject.at(key), new[key])
    if kind_of(new) != "default" or set(scaling) & KEPT_KEYS:
        yield subject.put(subject.at(_SCALING), scaling)


@rule(
    "RP122",
    "rope_scaling and rope_parameters disagree",
    "error",
    fix="keep what transformers 5 takes, rope_scaling, and take rope_parameters out",
    automatic=True,
    explains=True,
)
def two_layouts(subject: Subject) -> Iterator[Hit]:
    """Where both dicts are there, transformers 5 replaces rope_parameters by rope_scaling as a whole and takes the base
    from the top; other engines take the base from one and the scaling from the other. The two have to say the same."""
    old, new = _dict(subject, _SCALING), _dict(subject, _PARAMETERS)
    if not old or not new:
        return
    skip = ("rope_theta", "type", "rope_type", "partial_rotary_factor")
    plain = [{key: value for key, value in rope.items() if key not in skip} for rope in (old, new)]
    if plain[0] == plain[1] and kind_of(old) == kind_of(new):
        return
    edits = (subject.drop(subject.at(_PARAMETERS)),)
    concerned = subject.moved(edits)
    methods = f"rope_scaling says {kind_of(old)!r} and rope_parameters {kind_of(new)!r}"
    text = methods if kind_of(old) != kind_of(new) else f"both say {kind_of(old)!r}, with other values"
    text += f": {effects(subject, concerned)}" if concerned else "; transformers 5 takes rope_scaling"
    yield Hit(dotted(*subject.at(_PARAMETERS)), text, concerned, edits, severity=None if concerned else "warning")


@rule(
    "RP123",
    "two bases",
    "error",
    fix="write the base that is in the dict at the top as well: transformers 5 takes the inner one",
    upstream=("vllm-project/vllm#44158",),
    automatic=True,
    explains=True,
)
def two_bases(subject: Subject) -> Iterator[Hit]:
    """rope_theta stands at the top and in the dict with different values. transformers 5 and what loads through it take
    the inner one, transformers 4, TGI, mlx-lm and the exllamas the one at the top."""
    outer = subject.section.given.get("rope_theta")
    for path, rope in subject.ropes():
        inner = rope.get("rope_theta")
        if inner is None or outer is None or inner == outer or len(path) > len(subject.section.path) + 1:
            continue
        edits = (subject.put(subject.at("rope_theta"), inner),)
        concerned = subject.moved(edits)
        if concerned:
            text = f"rope_theta is {outer} at the top and {inner} in {path[-1]}: {effects(subject, concerned)}"
            yield Hit(dotted(*subject.at("rope_theta")), text, concerned, edits, f"write rope_theta {inner} at the top")


@rule(
    "RP129",
    "base in the dict alone",
    "error",
    fix="write rope_theta at the top as well",
    upstream=("lyogavin/airllm#368",),
    automatic=True,
    explains=True,
)
def inner_base(subject: Subject) -> Iterator[Hit]:
    """rope_theta stands in rope_scaling and nowhere else. transformers 5 and what loads through it find it there;
    the readers of the old layout take the class's default base, and mlx-lm does not load some models without one."""
    inner = _dict(subject, _SCALING).get("rope_theta")
    if inner is None or subject.section.given.get("rope_theta") is not None:
        return
    edits = (subject.put(subject.at("rope_theta"), inner),)
    concerned = subject.moved(edits)
    if concerned:
        text = f"rope_theta {inner} stands in rope_scaling alone: {effects(subject, concerned)}"
        yield Hit(dotted(*subject.at(_SCALING, "rope_theta")), text, concerned, edits)


@rule(
    "RP124",
    "one flat dict for a model with several rotations",
    "error",
    fix="write rope_parameters with one dict for each layer type",
    upstream=("vllm-project/vllm#33911",),
    automatic=True,
    explains=True,
)
def flat_dict(subject: Subject) -> Iterator[Hit]:
    """The model's class keeps one dict per layer type (full and sliding attention). A flat rope_parameters, as an
    override on the command line makes it, stays beside those and is never read, or is refused."""
    new, names = _dict(subject, _PARAMETERS), subject.section.defaults.facts.get("groups") or []
    if not _flat_for_several(subject):
        return
    wrapped: dict[str, Any] = {}
    for name, default in hf_values.default_dict(subject.section).items():
        wrapped[name] = dict(new) if name == "full_attention" else default
    edits = (subject.put(subject.at(_PARAMETERS), wrapped),) if "full_attention" in wrapped else ()
    concerned = subject.moved(edits) if edits else subject.deviating()
    if concerned:
        text = f"{subject.section.model_type} keeps one dict for each of {', '.join(map(str, names))}, this one is flat"
        yield Hit(dotted(*subject.at(_PARAMETERS)), f"{text}: {_flat(subject, concerned)}", concerned, edits)


def _flat(subject: Subject, concerned: tuple[str, ...]) -> str:
    """What each does with the flat dict; an engine that computes the class's defaults has ignored it."""
    said = effects(subject, concerned)
    return said.replace("computes what the settings say", "takes the class's defaults, the dict is never read")


@rule(
    "RP125",
    "base of the sliding layers",
    "warning",
    fix="write rope_parameters with a dict and a rope_theta for each layer type",
    automatic=True,
)
def sliding_base(subject: Subject) -> Iterator[Hit]:
    """transformers 5 hands the rope_theta at the top of an Olmo 3 config to the full-attention layers and gives the
    sliding ones the class's default; transformers 4 used one base for both."""
    given, profile = subject.section.given, subject.profile
    theta = given.get("rope_theta")
    if subject.section.model_type != "olmo3" or theta is None or profile is None or _dict(subject, _PARAMETERS):
        return
    sliding = profile.groups.get("sliding_attention")
    if sliding is None or sliding.rope_theta == theta:
        return
    scaling = {key: value for key, value in _dict(subject, _SCALING).items() if key != "type"}
    full = {"rope_type": kind_of(_dict(subject, _SCALING)), **scaling, "rope_theta": theta}
    wanted = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": theta}}
    edits = [subject.put(subject.at(_PARAMETERS), wanted)]
    edits += [subject.drop(subject.at(_SCALING))] if _SCALING in given else []
    concerned = subject.moved(edits)
    text = f"rope_theta {theta} reaches the full-attention layers; the sliding ones turn by {sliding.rope_theta:g}"
    yield Hit(dotted(*subject.at("rope_theta")), text, concerned, tuple(edits))


@rule("RP126", "share of the head that rotates", "warning", fix="check the engine's own model file", explains=True)
def partial(subject: Subject) -> Iterator[Hit]:
    """partial_rotary_factor makes a part of each head rotate. For some classes an engine looks for it where the file
    does not have it, or not at all, and rotates the whole head."""
    wide = tuple(
        spec
        for spec in subject.scope.specs
        if any(cell.ratio is None for _, _, cell in subject.cells(spec)) and not subject.refuses(spec)
    )
    given = subject.section.given
    inner = [path for path, rope in subject.ropes() if rope.get("partial_rotary_factor") is not None]
    if wide and (inner or given.get("partial_rotary_factor") is not None):
        where = (*inner[0], "partial_rotary_factor") if inner else subject.at("partial_rotary_factor")
        yield Hit(dotted(*where), effects(subject, wide), wide)


@rule("RP127", "settings beside the text model", "warning", fix="move them into the text model's section")
def beside(subject: Subject) -> Iterator[Hit]:
    """In a composite config the text model has a section of its own. Rope keys at the top of the file, where an
    override on the command line puts them, never reach it."""
    section = subject.section
    if not section.path:
        return
    for key in (_SCALING, _PARAMETERS, "rope_theta"):
        outer = subject.config.get(key)
        if outer and outer != section.given.get(key):
            text = f"stands beside {dotted(*section.path)}, where the text model's settings are, and is not read"
            yield Hit(key, text, (), (), f"move {key} into {dotted(*section.path)}")


@rule(
    "RP128",
    "scaling that the model's class does not take",
    "error",
    fix="change rope_theta alone (apply --method ntk), where the class reads it",
    explains=True,
)
def not_taken(subject: Subject) -> Iterator[Hit]:
    """The rotary class of this model type computes its frequencies from constants or from the base alone; a
    rope_scaling in the file changes nothing, and no engine says so."""
    profile = subject.profile
    if profile is None or any(group.scalable is not False for group in profile.groups.values()):
        return
    for path, rope in subject.ropes():
        if kind_of(rope) != "default":
            concerned = tuple(spec for spec in subject.scope.specs if spec.startswith("transformers"))
            text = f"{kind_of(rope)} does not reach the rotation of {subject.section.model_type}"
            yield Hit(dotted(*path), text, concerned)
