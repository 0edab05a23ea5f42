"""A profile to GGUF edits: what llama.cpp has to find in the file to compute it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ropepatch.containers.gguf import TYPE_NAMES, ArrayRef, Header
from ropepatch.dialects import factors as factor_lists
from ropepatch.dialects import gguf_magnitude as magnitude
from ropepatch.dialects import gguf_sliding
from ropepatch.dialects.base import Lowering
from ropepatch.errors import InputError, MethodUnsupported
from ropepatch.methods.base import Array, Method
from ropepatch.methods.factors import Factors
from ropepatch.methods.linear import Linear
from ropepatch.methods.llama3 import Llama3
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.none import NoScaling
from ropepatch.methods.stack import Stack
from ropepatch.methods.yarn import Yarn
from ropepatch.naming import SHARD
from ropepatch.patch import Edit, Value, difference
from ropepatch.profile import RopeGroup, RopeProfile
from ropepatch.runtimes.llama_cpp_table import FREQS, LONG, SHORT, Row

if TYPE_CHECKING:
    from ropepatch.dialects.gguf import GgufDialect

#: keys of an older scaling, taken out before a new one is written
_CLEARED = (
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)
_COUNT = "split.tensors.count"
_FITTING = "linear, ntk, ntk-critical, theta and yarn (betas in the ratio 32:1) fit every architecture"


@dataclass
class _Spelling:
    """What shall stand in the file: keys without the architecture's prefix, and factor tensors."""

    keys: dict[str, tuple[str, Any] | None] = field(default_factory=dict)
    tensors: dict[str, Array] = field(default_factory=dict)


def lower(
    dialect: GgufDialect, before: RopeProfile, after: RopeProfile, options: Lowering
) -> tuple[list[Edit], list[str]]:
    """Edits and notes that take the file from ``before`` to ``after``; see :meth:`Dialect.lower`."""
    row, notes = dialect.row(), []
    name = "full_attention" if "full_attention" in after.groups else "default"
    old, new = before.groups[name], after.groups[name]
    gguf_sliding.check(dialect, row, before, after)
    spelling = _spell(dialect, row, old, new, options)
    gguf_sliding.check_magnitude(dialect, row, after, spelling.keys)
    moved = spelling.keys.get("rope.scaling.original_context_length")
    if moved and after.trained_context and moved[1] != after.trained_context:
        notes.append(
            f"these betas are spelled as an original context of {moved[1]} (llama.cpp fixes its own at 32 and 1): a "
            f"later --existing replace needs --original-length {after.trained_context}"
        )
    spelling.keys.update(_contexts(after, spelling))
    gguf_sliding.keep_base(dialect, row, before, old, spelling.keys)
    if spelling.keys.get("rope.scaling.attn_factor") or "yarn" in str(spelling.keys.get("rope.scaling.type")):
        notes.append(
            "do not use --context-shift, --cache-reuse or --grp-attn-n with this file: llama.cpp multiplies the "
            "attention factor into cached keys again on every shift"
        )
    return _edits(dialect, spelling), notes


def _spell(dialect: GgufDialect, row: Row, old: RopeGroup, new: RopeGroup, options: Lowering) -> _Spelling:
    scaling = new.scaling
    kept = _kept_stage(old, scaling)
    native = None if options.bake else _native(dialect, row, new, kept if kept is not None else scaling)
    if native is not None:
        if kept is None:
            _neutralise(dialect, native)
        return native
    return _bake(dialect, row, new)


def _kept_stage(old: RopeGroup, scaling: Method) -> Method | None:
    """What has to be written by keys when the file's own ``rope_freqs`` stays as the first stage."""
    tensor_only = isinstance(old.scaling, Llama3) or (
        isinstance(old.scaling, Factors) and old.scaling.attention_factor == 1
    )
    if tensor_only and isinstance(scaling, Stack) and len(scaling.stages) == 2 and scaling.stages[0] == old.scaling:
        return scaling.stages[1]
    return None


def _native(dialect: GgufDialect, row: Row, group: RopeGroup, scaling: Method) -> _Spelling | None:
    """The method by keys of its own; None when llama.cpp has none for it."""
    if isinstance(scaling, NoScaling):
        return _Spelling(_reset(dialect))
    if isinstance(scaling, Linear):
        return _Spelling({**_reset(dialect), **_typed("linear", scaling.factor), **_magnitude(dialect, row, scaling)})
    if scaling.rebases():
        theta = scaling.theta(group.spectrum())
        return _Spelling({**_reset(dialect), "rope.freq_base": ("FLOAT32", float(np.float32(theta)))})
    if isinstance(scaling, Yarn):
        return _native_yarn(dialect, row, scaling)
    if isinstance(scaling, LongRope):
        return _native_longrope(dialect, row, group, scaling)
    return None


def _reset(dialect: GgufDialect) -> dict[str, tuple[str, Any] | None]:
    keys: dict[str, tuple[str, Any] | None] = dict.fromkeys(_CLEARED)
    if dialect.header.get(dialect.key("rope.scaling.type")) is not None:
        keys["rope.scaling.type"] = ("STRING", "none")
    return keys


def _typed(kind: str, factor: float | None = None) -> dict[str, tuple[str, Any] | None]:
    keys: dict[str, tuple[str, Any] | None] = {"rope.scaling.type": ("STRING", kind)}
    if factor is not None:
        keys["rope.scaling.factor"] = ("FLOAT32", float(np.float32(factor)))
    return keys


def _native_yarn(dialect: GgufDialect, row: Row, scaling: Yarn) -> _Spelling | None:
    original: float = scaling.original_max_position_embeddings
    keys = {**dict.fromkeys(_CLEARED), **_typed("yarn", scaling.factor)}
    if not scaling.truncate:
        return None
    if row.betas:
        keys["rope.scaling.yarn_beta_fast"] = ("FLOAT32", scaling.beta_fast)
        keys["rope.scaling.yarn_beta_slow"] = ("FLOAT32", scaling.beta_slow)
    elif scaling.beta_fast == 32 * scaling.beta_slow:
        # The ramp depends on original / beta alone, and llama.cpp fixes the betas at 32 and 1.
        original = original / scaling.beta_slow
        if original != int(original):
            return None
    else:
        return None
    keys["rope.scaling.original_context_length"] = ("UINT32", int(original))
    return _Spelling({**keys, **_magnitude(dialect, row, scaling)})


def _magnitude(dialect: GgufDialect, row: Row, scaling: Method) -> dict[str, tuple[str, Any] | None]:
    """The keys that bring cos and sin, and DeepSeek's softmax scale, to what the method says."""
    found = magnitude.spell(row, scaling)
    if found is None:
        raise MethodUnsupported(
            f"llama.cpp multiplies the softmax scale of {dialect.architecture} by this scaling's magnitude too, and "
            "reads no key that takes it back",
            where=str(dialect.path),
            hint="ntk and theta fit, and yarn with attention_factor=1",
        )
    attn_factor, multiplier = found
    keys: dict[str, tuple[str, Any] | None] = {}
    if abs(multiplier) > 1e-9:
        stored = multiplier * (0.1 if row.log_mul == "tenth" else 1.0)
        keys["rope.scaling.yarn_log_multiplier"] = ("FLOAT32", float(np.float32(stored)))
    if abs(attn_factor - 1) > 1e-9:
        keys["rope.scaling.attn_factor"] = ("FLOAT32", float(np.float32(attn_factor)))
    return keys


def _native_longrope(dialect: GgufDialect, row: Row, group: RopeGroup, scaling: LongRope) -> _Spelling | None:
    if row.factors not in ("L", "Fc"):
        if scaling.static:
            return None
        raise MethodUnsupported(
            f"llama.cpp reads no rope_factors_long and rope_factors_short for {dialect.architecture}",
            where=str(dialect.path),
            hint=f"{_FITTING}; equal short and long factors can be baked where rope_freqs.weight is read",
        )
    if dialect.holder(FREQS):
        raise MethodUnsupported(
            "the file carries rope_freqs.weight, and llama.cpp refuses it beside rope_factors_long and _short",
            where=str(dialect.path),
            hint="pass equal short and long factors, which are baked into rope_freqs.weight",
        )
    keys: dict[str, tuple[str, Any] | None] = {**dict.fromkeys(_CLEARED), **_typed("longrope")}
    keys["rope.scaling.attn_factor"] = ("FLOAT32", float(np.float32(scaling.attention)))
    keys["rope.scaling.original_context_length"] = ("UINT32", scaling.original_max_position_embeddings)
    tensors = {LONG: np.asarray(scaling.long_factor), SHORT: np.asarray(scaling.short_factor)}
    return _Spelling(keys, tensors)


def _bake(dialect: GgufDialect, row: Row, group: RopeGroup) -> _Spelling:
    if not group.scaling.static:
        raise MethodUnsupported(
            f"{group.scaling.name} follows the length at run time, which llama.cpp cannot do",
            where=str(dialect.path),
            hint="ntk sets the base for one length",
        )
    if row.factors not in ("F", "Fc"):
        method = group.scaling.to_json()["method"]
        raise MethodUnsupported(
            f"llama.cpp reads no per-pair factors for {dialect.architecture}, and has no key for this {method}",
            where=str(dialect.path),
            hint=_FITTING,
        )
    divisors, attention = factor_lists.baked(group)
    keys: dict[str, tuple[str, Any] | None] = _reset(dialect)
    if abs(attention - 1) > 1e-9:
        keys["rope.scaling.type"] = ("STRING", "none")
        keys["rope.scaling.attn_factor"] = ("FLOAT32", float(np.float32(attention)))
    return _Spelling(keys, {FREQS: divisors})


def _neutralise(dialect: GgufDialect, spelling: _Spelling) -> None:
    """Set factor tensors that the new spelling does not use to ones: taking one out would move every other tensor."""
    for name in (FREQS, LONG, SHORT):
        holder = dialect.holder(name)
        if holder is not None and name not in spelling.tensors:
            spelling.tensors[name] = np.ones(holder.tensors[name].shape[::-1])
            if name != FREQS and dialect.row().factors == "Fc":
                # Without this type llama.cpp does not look for the two tensors and refuses the file.
                kind = spelling.keys.get("rope.scaling.type")
                if kind is not None and kind[1] in ("linear", "yarn"):
                    raise MethodUnsupported(
                        f"the file carries {name}, which llama.cpp loads only with rope.scaling.type longrope",
                        where=str(dialect.path),
                        hint="ntk, theta and longrope fit this file",
                    )
                spelling.keys["rope.scaling.type"] = ("STRING", "longrope")


def _contexts(after: RopeProfile, spelling: _Spelling) -> dict[str, tuple[str, Any] | None]:
    keys: dict[str, tuple[str, Any] | None] = {}
    if after.declared_context:
        keys["context_length"] = ("UINT32", after.declared_context)
    original = after.trained_context or after.declared_context
    if original and "rope.scaling.original_context_length" not in spelling.keys:
        keys["rope.scaling.original_context_length"] = ("UINT32", original)
    return keys


def _edits(dialect: GgufDialect, spelling: _Spelling) -> list[Edit]:
    added = [name for name in spelling.tensors if dialect.holder(name) is None]
    if added and len(dialect.shards) > 1:
        # llama.cpp holds the first shard's count against the tensors of all shards.
        count = dialect.header.keys.get(_COUNT)
        if count is not None and isinstance(count.value, int):
            spelling.keys[_COUNT] = (TYPE_NAMES[count.type], count.value + len(added))
    return _key_edits(dialect, spelling) + _tensor_edits(dialect, spelling)


def moved(dialect: GgufDialect, edits: Sequence[Edit]) -> list[Edit]:
    """A patch's edits in a sibling that may be cut into other shards.

    A tensor is edited in the shard that holds it; what is new goes to the shard of the same number, else to the first;
    and the count of tensors is the sibling's own.
    """
    kept = [dataclasses.replace(edit, file=_shard(dialect, edit)) for edit in edits if edit.path != (_COUNT,)]
    added = sum((edit.before is None) - (edit.after is None) for edit in kept if edit.target == "tensor")
    count = dialect.header.keys.get(_COUNT)
    if added and len(dialect.shards) > 1 and count is not None and isinstance(count.value, int):
        before, after = (Value(number, TYPE_NAMES[count.type]) for number in (count.value, count.value + added))
        kept.insert(0, Edit(dialect.header.path.name, "key", (_COUNT,), before, after))
    return kept


def _shard(dialect: GgufDialect, edit: Edit) -> str:
    holder = dialect.holder(edit.path[0]) if edit.target == "tensor" else None
    match = SHARD.match(edit.file)
    number = int(match["number"]) if match else 1
    return (holder or dialect.shards[number - 1 if number <= len(dialect.shards) else 0]).path.name


def _key_edits(dialect: GgufDialect, spelling: _Spelling) -> list[Edit]:
    header = dialect.header
    before: dict[tuple[str, ...], Value] = {}
    after: dict[tuple[str, ...], Value | None] = {}
    for name, value in spelling.keys.items():
        key = name if name == _COUNT else dialect.key(name)
        if key in header.keys:
            before[(key,)] = Value(_kept(header, key), header.type_of(key))
        after[(key,)] = Value(value[1], value[0]) if value is not None else None
    return difference(header.path.name, "key", before, {k: v for k, v in after.items() if v is not None or k in before})


def _kept(header: Header, key: str) -> Any:
    """A value that is replaced, and that a manifest can hold."""
    found = header.get(key)
    if isinstance(found, ArrayRef):
        raise InputError("is an array, where engines read one value", where=f"{header.path}: {key}")
    if isinstance(found, float) and not math.isfinite(found):
        raise InputError(f"is {found}, not a number that could be restored", where=f"{header.path}: {key}")
    return found


def _tensor_edits(dialect: GgufDialect, spelling: _Spelling) -> list[Edit]:
    edits = []
    for name, values in spelling.tensors.items():
        array, holder = values.astype(np.float32), dialect.holder(name)
        held: dict[tuple[str, ...], Value] = {}
        if holder is not None:
            old = holder.read_f32(name)
            held[(name,)] = Value([float(v) for v in old.reshape(-1)], "F32", old.shape)
            array = array.reshape(old.shape)
        wanted = Value([float(v) for v in array.reshape(-1)], "F32", array.shape)
        edits += difference((holder or dialect.header).path.name, "tensor", held, {(name,): wanted})
    return edits
