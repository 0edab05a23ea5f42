"""A GGUF's keys and tensors as they stand in the file, or would after a patch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch.containers import gguf
from ropepatch.containers.gguf import TYPE_CODES, TYPE_NAMES, Header, KeyValue
from ropepatch.patch import Edit
from ropepatch.runtimes.llama_cpp_table import FREQS, LONG, OLLAMA_NAMES, SHORT, Row, reads

if TYPE_CHECKING:
    from ropepatch.dialects.gguf import GgufDialect

#: ggml's number of the type that factor tensors must have
F32 = gguf.GGML_F32


@dataclass(frozen=True)
class Tensor:
    """A factor tensor: whether it is F32, its type's number, and how many values it has."""

    kind: int
    count: int


class GgufView:
    """Raw metadata under the architecture's prefix.

    Attributes:
        dialect: the file.
        prefix: the architecture as spelled, which every key begins with.
        arch: the architecture as llama.cpp names it.
        row: what llama.cpp reads for it; None when it does not know it.
        tensors: the factor tensors by name.
    """

    def __init__(self, dialect: GgufDialect, edits: Sequence[Edit] = ()) -> None:
        self.dialect = dialect
        self.prefix = dialect.architecture
        self.arch = OLLAMA_NAMES.get(self.prefix, self.prefix)
        self.row: Row | None = reads(self.arch)
        self.tensors = _tensors(dialect, edits)

    def full(self, name: str) -> str:
        """A key with the prefix."""
        return f"{self.prefix}.{name}"

    def record(self, name: str) -> KeyValue | None:
        """The record of a key, by its exact name."""
        return self.dialect.header.keys.get(self.full(name))

    def get(self, name: str) -> Any:
        """The value of a key, by its exact name; None when absent."""
        record = self.record(name)
        return None if record is None else record.value

    def number(self, name: str) -> float | None:
        """The value where it is a finite number."""
        value = self.get(name)
        usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if usable else None

    def type_of(self, name: str) -> str | None:
        """The name of its value type."""
        record = self.record(name)
        return None if record is None else TYPE_NAMES[record.type]

    def array(self, name: str) -> list[Any] | None:
        """The elements of an array of scalars."""
        return self.dialect.header.array(self.full(name))

    def names(self) -> list[str]:
        """All keys of the architecture, without the prefix."""
        start = len(self.prefix) + 1
        return [key[start:] for key in self.dialect.header.keys if key.startswith(f"{self.prefix}.")]

    @property
    def kind(self) -> str | None:
        """``rope.scaling.type``."""
        value = self.get("rope.scaling.type")
        return value if isinstance(value, str) else None

    @property
    def factor(self) -> float:
        """The factor that llama.cpp takes: 0 and absence mean 1."""
        return self.number("rope.scaling.factor") or self.number("rope.scale_linear") or 1.0


def _tensors(dialect: GgufDialect, edits: Sequence[Edit]) -> Mapping[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in (FREQS, LONG, SHORT):
        holder = dialect.holder(name)
        if holder is not None:
            info = holder.tensors[name]
            count = 1
            for width in info.shape:
                count *= width
            found[name] = Tensor(info.type, count)
    for edit in edits:
        if edit.target == "tensor" and edit.after is not None and isinstance(edit.after.data, list):
            found[edit.name] = Tensor(F32, len(edit.after.data))
    return found


def with_edits(dialect: GgufDialect, edits: Sequence[Edit]) -> GgufDialect:
    """The file with its keys edited, in memory; tensors stay as they are."""
    from ropepatch.dialects.gguf import GgufDialect

    keys: dict[str, Any] = dict(dialect.header.keys)
    for edit in edits:
        if edit.target != "key":
            continue
        if edit.after is None:
            keys.pop(edit.name, None)
        else:
            keys[edit.name] = KeyValue(edit.name, TYPE_CODES[edit.after.type or "STRING"], edit.after.data, 0, 0)
    header: Header = dataclasses.replace(dialect.header, keys=keys)
    return GgufDialect([header, *dialect.shards[1:]])
