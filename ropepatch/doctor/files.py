"""What a checkpoint's files say, and the edits that change it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ropepatch.containers import json_text
from ropepatch.dialects.base import Dialect, is_gguf, is_hf
from ropepatch.doctor.gguf_view import GgufView
from ropepatch.errors import InputError, RopepatchError
from ropepatch.patch import Edit, Value
from ropepatch.profile import RopeProfile
from ropepatch.storage import remote

if TYPE_CHECKING:
    from ropepatch.dialects.hf_section import Section

TOKENIZER = "tokenizer_config.json"
#: that some rule looks at
_FORMATS = ("hf", "gguf", "mistral", "safetensors")
_Path = tuple[str, ...]


class Files:
    """A checkpoint as spelled and lifted.

    Attributes:
        ref: what the person typed.
        dialect: the opened format.
    """

    def __init__(
        self,
        ref: str,
        dialect: Dialect,
        *,
        profile: RopeProfile | None = None,
        tokenizer: Mapping[str, Any] | None = None,
        edits: Sequence[Edit] = (),
    ) -> None:
        self.ref = ref
        self.dialect = dialect
        self._given = profile
        self._tokenizer = tokenizer
        self._edits = edits

    @cached_property
    def format(self) -> str:
        """``hf``, ``gguf``, ``mistral``, ``safetensors``, or nothing where no rule looks at it."""
        return self.dialect.kind if self.dialect.kind in _FORMATS else ""

    @property
    def file(self) -> str:
        """The name of the file that holds the settings."""
        return self.dialect.files()[0].name

    @property
    def config(self) -> Mapping[str, Any]:
        """``config.json`` as spelled."""
        assert is_hf(self.dialect)
        return self.dialect.config

    @property
    def section(self) -> Section:
        """The text model's part of it."""
        assert is_hf(self.dialect)
        return self.dialect.section

    @cached_property
    def gguf(self) -> GgufView:
        """The keys and tensors of a GGUF."""
        assert is_gguf(self.dialect)
        return GgufView(self.dialect, self._edits)

    @cached_property
    def tokenizer(self) -> Mapping[str, Any]:
        """``tokenizer_config.json``, empty where there is none or it cannot be read."""
        if self._tokenizer is not None:
            return self._tokenizer
        path = remote.bring(self.dialect.root / TOKENIZER)
        try:
            return json_text.read(path)[1] if path.exists() else {}
        except InputError:
            return {}

    def ropes(self) -> Iterator[tuple[_Path, Mapping[str, Any]]]:
        """Every rope dict of the text section that somebody reads, with its path from the top of the file."""
        for key in ("rope_scaling", "rope_parameters"):
            value = self.section.given.get(key)
            if not isinstance(value, Mapping) or not value:
                continue
            inner = {name: item for name, item in value.items() if isinstance(item, Mapping)}
            if inner:
                yield from ((self.at(key, name), item) for name, item in inner.items())
            else:
                yield self.at(key), value

    def at(self, *path: str) -> _Path:
        """A path below the text section, from the top of the file."""
        return (*self.section.path, *path)

    @cached_property
    def lifted(self) -> RopeProfile | RopepatchError:
        """The profile, or why there is none."""
        if self._given is not None:
            return self._given
        try:
            if is_hf(self.dialect):
                return self.dialect.lift_config(self.ref)
            return self.dialect.lift(self.ref)
        except RopepatchError as error:
            return error
        except TypeError as error:
            return InputError(f"holds a value of another kind than expected ({error})", where=self.file)

    @property
    def profile(self) -> RopeProfile | None:
        """The profile; None where the file cannot be lifted."""
        return self.lifted if isinstance(self.lifted, RopeProfile) else None

    # edits

    def put(self, path: _Path, value: Any, file: str | None = None) -> Edit:
        """The edit that sets a JSON value."""
        return Edit(file or self.file, "json", path, self._before(path, file), Value(value))

    def drop(self, path: _Path, file: str | None = None) -> Edit:
        """The edit that takes a JSON key out."""
        return Edit(file or self.file, "json", path, self._before(path, file), None)

    def _before(self, path: _Path, file: str | None) -> Value | None:
        found: Any = self.tokenizer if file == TOKENIZER else self.config
        for key in path:
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        return Value(found)

    def put_key(self, name: str, kind: str, value: Any) -> Edit:
        """The edit that sets a GGUF key, given without the architecture."""
        return Edit(self.file, "key", (self.gguf.full(name),), self._key_before(name), Value(value, kind))

    def drop_key(self, name: str) -> Edit:
        """The edit that takes a GGUF key out."""
        return Edit(self.file, "key", (self.gguf.full(name),), self._key_before(name), None)

    def _key_before(self, name: str) -> Value | None:
        record = self.gguf.record(name)
        return None if record is None else Value(record.value, self.gguf.type_of(name))


def edited(document: Mapping[str, Any], edits: Sequence[Edit]) -> dict[str, Any]:
    """A JSON object with edits made."""
    made: dict[str, Any] = copy.deepcopy(dict(document))
    for edit in edits:
        at = made
        for key in edit.path[:-1]:
            inner = at.get(key)
            if not isinstance(inner, dict):
                inner = at[key] = {}
            at = inner
        if edit.after is None:
            at.pop(edit.path[-1], None)
        else:
            at[edit.path[-1]] = copy.deepcopy(edit.after.data)
    return made
