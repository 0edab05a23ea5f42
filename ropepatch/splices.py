"""Edits of a checkpoint's files as the byte splices that bring them about: the seam of dialects and containers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ropepatch.containers import gguf, gguf_rewrite, json_text
from ropepatch.errors import InputError
from ropepatch.patch import Edit
from ropepatch.storage import splice
from ropepatch.storage.splice import Splice

if TYPE_CHECKING:
    from ropepatch.containers import safetensors


def for_file(path: Path, edits: Sequence[Edit], *, block: int = 0) -> list[Splice]:
    """The splices that apply ``edits`` to the file at ``path``.

    Args:
        path: the file.
        edits: what changes in it.
        block: the data of a GGUF file may move by a multiple of this only; 0 for as few bytes as can be.

    Raises:
        InputError: the file does not hold what an edit says that it replaces.
    """
    if path.suffix == ".safetensors":
        return _safetensors(path, edits)
    if all(edit.target == "json" for edit in edits):
        return _json(path, edits)
    return _gguf(path, edits, block)


def check(path: Path, edits: Sequence[Edit]) -> None:
    """Hold the file at ``path`` against what ``edits`` say that they replace.

    Raises:
        InputError: it holds something else.
    """
    if path.suffix == ".safetensors":
        for_file(path, edits)
    elif all(edit.target == "json" for edit in edits):
        _, document = json_text.read(path)
        for edit in edits:
            _check_json(path, document, edit)
    else:
        header = gguf.scan(path)
        for edit in edits:
            (_check_key if edit.target == "key" else _check_tensor)(path, header, edit)


def _json(path: Path, edits: Sequence[Edit]) -> list[Splice]:
    text, document = json_text.read(path)
    return splice.between(text.encode(), _edited(path, text, document, edits).encode())


def _edited(path: Path, text: str, document: object, edits: Sequence[Edit]) -> str:
    """``text``, which holds ``document``, with ``edits`` applied."""
    for edit in edits:
        _check_json(path, document, edit)
        try:
            text = (
                json_text.delete_value(text, edit.path)
                if edit.after is None
                else json_text.set_value(text, edit.path, edit.after.data)
            )
        except KeyError:
            raise InputError(
                "cannot be set: it is below something that is no object", where=f"{path}: {edit.name}"
            ) from None
    return text


def _check_json(path: Path, document: object, edit: Edit) -> None:
    absent = object()
    found: object = document
    for key in edit.path:
        found = found.get(key, absent) if isinstance(found, dict) else absent
    expected = absent if edit.before is None else edit.before.data
    if found is not expected and found != expected:
        raise _mismatch(path, edit, None if found is absent else found)


def _mismatch(path: Path, edit: Edit, found: object) -> InputError:
    expected = "nothing" if edit.before is None else repr(edit.before.data)[:80]
    return InputError(
        f"{edit.name} is {repr(found)[:80]}, the patch expects {expected}",
        where=str(path),
        hint="the patch was made for another checkpoint",
    )


def _gguf(path: Path, edits: Sequence[Edit], block: int) -> list[Splice]:
    header = gguf.scan(path)
    keys: dict[str, tuple[str, object] | None] = {}
    tensors = {}
    for edit in edits:
        if edit.target == "key":
            _check_key(path, header, edit)
            keys[edit.name] = None if edit.after is None else (edit.after.type or "", edit.after.data)
        elif edit.target == "tensor" and edit.after is not None:
            _check_tensor(path, header, edit)
            tensors[edit.name] = np.asarray(edit.after.data, dtype=np.float32).reshape(edit.after.shape or (-1,))
        else:
            raise InputError(f"cannot apply an edit of a {edit.target} to a GGUF file", where=f"{path}: {edit.name}")
    return gguf_rewrite.splices(header, keys, tensors, block=block)


def _check_key(path: Path, header: gguf.Header, edit: Edit) -> None:
    expected = None if edit.before is None else edit.before.data
    if header.get(edit.name) != expected:
        raise _mismatch(path, edit, header.get(edit.name))


def _check_tensor(path: Path, header: gguf.Header, edit: Edit) -> None:
    if (edit.name in header.tensors) != (edit.before is not None):
        raise _mismatch(path, edit, "there" if edit.name in header.tensors else "not there")
    if edit.before is not None and header.read_f32(edit.name).reshape(-1).tolist() != edit.before.data:
        raise _mismatch(path, edit, "another list of factors")


def _safetensors(path: Path, edits: Sequence[Edit]) -> list[Splice]:
    """Tensors are overwritten where they lie; a config in the metadata may make the header longer."""
    from ropepatch.containers import safetensors

    header = safetensors.scan(path)
    found = []
    for edit in edits:
        if edit.target == "tensor":
            found += _stored_tensor(header, edit)
        elif edit.path[: len(safetensors.CONFIG)] != safetensors.CONFIG:
            raise InputError(f"cannot apply an edit of a {edit.target}", where=f"{path}: {edit.name}")
    inner = [dataclasses.replace(edit, path=edit.path[2:]) for edit in edits if edit.target == "json"]
    if inner:
        text = safetensors.config_text(header)
        document = json_text.parse(text, f"{path}: config in __metadata__")
        found += safetensors.with_config(header, _edited(path, text, document, inner))
    return sorted(found, key=lambda item: item.offset)


def _stored_tensor(header: safetensors.Header, edit: Edit) -> list[Splice]:
    from ropepatch.dialects import inv_freq_tensors

    tensor, before, after = header.tensors.get(edit.name), edit.before, edit.after
    if tensor is None or before is None or after is None or not before.type == after.type == tensor.dtype:
        raise InputError("has no such tensor to overwrite", where=f"{header.path}: {edit.name}")
    with open(header.path, "rb", buffering=0) as file:
        old = os.pread(file.fileno(), tensor.end - tensor.start, tensor.start)
    new = inv_freq_tensors.encode(after.data, tensor.dtype)
    if len(new) != len(old) or not np.array_equal(inv_freq_tensors.decode(old, tensor.dtype), before.data):
        raise _mismatch(header.path, edit, "another list of frequencies")
    return [Splice(tensor.start, old, new)] if new != old else []
