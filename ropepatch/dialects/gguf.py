"""GGUF metadata and tensors to a profile, as llama.cpp reads them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ropepatch.bundle import bundle_of
from ropepatch.containers import gguf as container
from ropepatch.containers.gguf import ArrayRef
from ropepatch.dialects import gguf_scaling, gguf_sliding
from ropepatch.errors import InputError, NoRope
from ropepatch.methods.base import Method, ParameterError
from ropepatch.methods.linear import Linear
from ropepatch.methods.yarn import Yarn
from ropepatch.profile import RopeGroup, RopeProfile, Source
from ropepatch.runtimes import llama_cpp_keys
from ropepatch.runtimes.llama_cpp_table import Row, reads

if TYPE_CHECKING:
    from ropepatch.dialects.base import Lowering
    from ropepatch.patch import Edit

#: names that Ollama's converter gives; its own loader translates them (llama/compat/llama-ollama-compat.cpp). The
#: factor's is llama.cpp's own of 2023, still read; the older yet `rope.scale` is not.
ALIASES: dict[str, tuple[str, ...]] = {
    "rope.freq_base": ("rope.global.freq_base",),
    "rope.freq_base_swa": ("rope.local.freq_base", "rope.freq_base_local", "rope.swa.freq_base"),
    "rope.dimension_count_swa": ("rope.swa.dimension_count",),
    "rope.dimension_sections": ("rope.mrope_section", "rope.mrope_sections"),
    "rope.scaling.yarn_beta_fast": ("rope.scaling.beta_fast",),
    "rope.scaling.yarn_beta_slow": ("rope.scaling.beta_slow",),
    "rope.scaling.yarn_log_multiplier": ("rope.scaling.mscale_all_dim",),
    "rope.scaling.factor": ("rope.scale_linear",),
}
#: the one old name that llama.cpp itself still reads
NATIVE_ALIASES = frozenset({"rope.scale_linear"})
#: keys that the profile takes in; every other rope key is kept under ``unrecognised``
_KNOWN = frozenset(
    {
        "rope.dimension_count",
        "rope.dimension_count_swa",
        "rope.dimension_sections",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
    }
)


class GgufDialect:
    """An opened GGUF file, or all shards of a split one; the first shard's metadata is what counts."""

    kind: ClassVar[str] = "gguf"

    def __init__(self, shards: list[container.Header], *, translated: bool = True) -> None:
        #: whether keys under Ollama's names count, as they do for Ollama
        self.translated = translated
        self.shards = shards
        self.header = header = shards[0]
        self.path = header.path
        self.root = header.path.parent
        architecture = header.get("general.architecture")
        if not isinstance(architecture, str):
            raise InputError("has no general.architecture", where=str(self.path))
        self.architecture = architecture

    @classmethod
    def open(cls, path: Path) -> GgufDialect:
        """Scan the header of ``path``, and of its sibling shards when it is one of a split model.

        Raises:
            InputError: a shard is missing, or is no GGUF file.
        """
        found = bundle_of(path)
        return cls([container.scan(found.path(name)) for name in found.names])

    def files(self) -> list[Path]:
        """The file, or all shards in order."""
        return [shard.path for shard in self.shards]

    def holder(self, tensor: str) -> container.Header | None:
        """The shard that holds ``tensor``; None when there is no such tensor."""
        return next((shard for shard in self.shards if tensor in shard.tensors), None)

    def key(self, name: str) -> str:
        """The full name of an architecture's key, as this file spells it."""
        for spelling in (name, *ALIASES.get(name, ())):
            if not self.translated and spelling != name and spelling not in NATIVE_ALIASES:
                continue
            if f"{self.architecture}.{spelling}" in self.header.keys:
                return f"{self.architecture}.{spelling}"
        return f"{self.architecture}.{name}"

    def row(self) -> Row:
        """What llama.cpp reads for this architecture.

        Raises:
            InputError: the architecture is unknown.
            NoRope: it has no rotary embedding.
        """
        row = reads(self.architecture)
        if row is None:
            raise InputError(
                f"architecture {self.architecture!r} is not one that llama.cpp loads",
                where=f"{self.path}: general.architecture",
                hint="ropepatch will not guess which keys its engine reads",
            )
        off = self.header.get(f"{self.architecture}.rope.scaling.finetuned") is False
        if not row.rotates or (off and row.nope == "key" and row.arch != "granite_swa"):
            raise NoRope(
                f"architecture {self.architecture!r} has no rotary position embedding; there is nothing to patch",
                where=str(self.path),
            )
        return row

    def number(self, name: str, *, signed: bool = False) -> float | None:
        """A finite number under an architecture's key, not negative unless ``signed``; None when absent.

        Raises:
            InputError: it is something else.
        """
        value = self.header.get(self.key(name))
        if value is None:
            return None
        if isinstance(value, ArrayRef):
            items = self.header.array(self.key(name)) or []
            value = next((item for item in items if item), None)
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
        if wrong or (value < 0 and not signed):
            raise InputError(f"is {value!r}, not a usable number", where=f"{self.path}: {self.key(name)}")
        return float(value) if isinstance(value, float) else int(value)

    def lift(self, ref: str) -> RopeProfile:
        """The profile that llama.cpp makes of this file."""
        row = self.row()
        notes: list[str] = []
        context = self.number("context_length")
        declared = int(context) if context else None
        group = self._group(row, notes)
        original = self.number("rope.scaling.original_context_length")
        try:
            scaling, kept = gguf_scaling.read(self, row, group, declared, notes)
        except ParameterError as error:
            raise InputError(str(error), where=f"{self.path}: {self.key('rope.scaling')}") from None
        trained = self._trained(scaling, int(original) if original else None, declared, notes)
        notes += llama_cpp_keys.refusals(row, self.type_of, group.rotary_dim, group.head_dim)
        if not self.translated and (count := self._sections()) not in (None, 4) and row.needs_sections:
            notes.append(f"{llama_cpp_keys.SECTIONS} has {count} numbers; llama.cpp takes 4 and will refuse the file")
        groups = gguf_sliding.groups(self, row, self._full(row, group, scaling, kept))
        unrotated = gguf_sliding.layers(self)[1] if row.nope == "full" and groups["default"].window else None
        return RopeProfile(
            source=Source(ref, "gguf", self.architecture, f"gguf-v{self.header.version}"),
            groups=groups,
            trained_context=trained,
            declared_context=declared,
            nope_layers=unrotated,
            unrecognised=self._unrecognised(row),
            notes=tuple(notes),
            read_by=self._read_by(ref),
        )

    def type_of(self, name: str) -> str | None:
        """The name of the value type of an architecture's key; None when absent."""
        return self.header.type_of(self.key(name))

    def _sections(self) -> int | None:
        """How many M-RoPE sections the file has."""
        found = self.header.get(self.key(llama_cpp_keys.SECTIONS))
        return found.count if isinstance(found, ArrayRef) else None

    def _read_by(self, ref: str) -> dict[str, RopeProfile]:
        """What llama.cpp reads where keys stand under names that Ollama alone translates."""
        native = GgufDialect(self.shards, translated=False)
        names = all(self.key(name) == native.key(name) for name in ALIASES)
        if not self.translated or (names and self._sections() in (None, 4)):
            return {}
        return {"llama.cpp": native.lift(ref)}

    def rotated(self, name: str, width: float) -> int:
        """How many dimensions a key makes rotate.

        Raises:
            InputError: no head has so many: they are not whole pairs, or more than 65,536.
        """
        if width != int(width) or width < 2 or width % 2 or width > 1 << 16:
            raise InputError(f"rotates {width:g} dimensions", where=f"{self.path}: {self.key(name)}")
        return int(width)

    def _group(self, row: Row, notes: list[str]) -> RopeGroup:
        head = self.number("attention.key_length")
        if head is None:
            width, heads = self.number("embedding_length"), self.number("attention.head_count")
            head = width / heads if width and heads else None
        rotary = self.number("rope.dimension_count")
        if rotary is None and head is None:
            if self.header.get("general.type") == "adapter":
                from ropepatch.dialects import strangers

                raise strangers.adapter(str(self.path))
            raise InputError(
                "says neither rope.dimension_count nor attention.key_length nor embedding_length and head_count",
                where=str(self.path),
            )
        rotary = self.rotated("rope.dimension_count", rotary or head or 0)
        theta = self.number("rope.freq_base")
        if theta is None:
            notes.append("rope.freq_base is not written; llama.cpp takes 10000")
        elif theta <= 0:
            raise InputError(f"is {theta:g}", where=f"{self.path}: {self.key('rope.freq_base')}")
        if self.number("attention.kv_lora_rank"):
            head = rotary  # the rest of a latent-attention head does not rotate, and its length is the cache's
        sections = self.header.array(self.key("rope.dimension_sections"))
        return RopeGroup(
            rope_theta=float(theta or 10000.0),
            rotary_dim=rotary,
            head_dim=int(head or rotary),
            layout="interleaved" if row.pairs == "norm" else "half",
            mrope_section=tuple(int(n) for n in sections if n) if sections and any(sections) else None,
        )

    def log_multiplier(self, row: Row) -> float | None:
        """``mscale_all_dim`` as the architecture's files store it: itself, or a tenth of it; None when not read."""
        if row.log_mul not in ("raw", "tenth"):
            return None
        value = self.number("rope.scaling.yarn_log_multiplier", signed=True)
        if not value:
            return None
        return float(value) / 0.1 if row.log_mul == "tenth" else float(value)

    def factors(self, name: str) -> tuple[float, ...]:
        """The values of a tensor of per-pair factors; none where there is no such tensor."""
        holder = self.holder(name)
        return tuple(float(value) for value in holder.read_f32(name).reshape(-1)) if holder else ()

    def _trained(self, scaling: Method, original: int | None, declared: int | None, notes: list[str]) -> int | None:
        if original:
            return original
        known: int | None = getattr(scaling, "original_max_position_embeddings", None)
        if known:
            return known
        if scaling.name == "none":
            return declared
        notes.append("the original context is not written; pass --original-length for a method that needs it")
        return None

    def _full(self, row: Row, group: RopeGroup, scaling: Method, kept: tuple[float, ...] | None) -> RopeGroup:
        """The full-attention layers."""
        factor = scaling.factor if isinstance(scaling, (Linear, Yarn)) else 1.0
        _, softmax = gguf_scaling.magnitudes(self, row, isinstance(scaling, Yarn), factor)
        extra = None if math.isclose(softmax, 1.0, rel_tol=1e-6) else softmax
        return dataclasses.replace(group, scaling=scaling, factors=kept, softmax_scale=extra)

    def _unrecognised(self, row: Row) -> dict[str, Any]:
        read = {*_KNOWN}
        if row.betas:
            read |= {"rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}
        if row.log_mul in ("raw", "tenth"):
            read.add("rope.scaling.yarn_log_multiplier")
        taken = {self.key(name) for name in read}
        found: dict[str, Any] = {}
        for key, record in self.header.keys.items():
            if not key.startswith(f"{self.architecture}.rope.") or key in taken:
                continue
            if isinstance(record.value, ArrayRef):
                found[key] = [_json(item) for item in self.header.array(key) or ()] or "array"
            else:
                found[key] = _json(record.value)
        return found

    def lower(self, before: RopeProfile, after: RopeProfile, options: Lowering) -> tuple[list[Edit], list[str]]:
        """The metadata and tensor edits that make llama.cpp compute ``after``."""
        from ropepatch.dialects import gguf_lower

        return gguf_lower.lower(self, before, after, options)


def _json(value: Any) -> Any:
    """A value as JSON has it, which knows no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
