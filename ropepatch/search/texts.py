"""Texts for perplexity: token ids, or words that a tokenizer.json beside the checkpoint knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropepatch.audit.tasks import IntArray
from ropepatch.errors import InputError, UsageError

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

#: more text than any search reads
MAX_SIZE = 1 << 30


def read(path: str | Path, model: Checkpoint, vocabulary: int, tokenizer: str | Path | None) -> IntArray:
    """The token ids of a text file.

    Args:
        path: ``.json`` with a list of token ids, ``.npy`` with an array of them, or else UTF-8 text.
        model: where a ``tokenizer.json`` is looked for.
        vocabulary: how many tokens there are.
        tokenizer: a ``tokenizer.json``, or the folder of one.

    Raises:
        InputError: it cannot be read, or has ids that the model has not.
        UsageError: it is text and there is no tokenizer.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_SIZE:
            raise InputError(f"is too large for a text (limit {MAX_SIZE >> 20} MiB)", where=str(path))
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if path.suffix == ".npy":
        ids = _array(path)
    elif path.suffix == ".json":
        ids = _list(path, raw)
    else:
        ids = _tokenized(path, raw, model, tokenizer)
    if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < vocabulary):
        raise InputError(f"has token ids beyond the model's {vocabulary}", where=str(path))
    return ids


def windows(ids: IntArray, length: int, count: int, where: str) -> tuple[IntArray, IntArray]:
    """Windows of ``length`` tokens to train on, from the first half, and to measure with, from the second.

    Raises:
        InputError: a half holds not even one.
    """
    half = ids.size // 2
    if half < length:
        raise InputError(f"has {ids.size} tokens; two windows of {length} are needed", where=where)
    return _spread(ids[:half], length, count), _spread(ids[half:], length, count)


def _spread(ids: IntArray, length: int, count: int) -> IntArray:
    starts = np.unique(np.linspace(0, ids.size - length, min(count, ids.size // length)).astype(int))
    return np.stack([ids[start : start + length] for start in starts])


def _array(path: Path) -> IntArray:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"is no array of numpy: {' '.join(str(error).split())[:120]}", where=str(path)) from None
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError("is no list of whole numbers", where=str(path))
    return found.astype(np.int64)


def _list(path: Path, raw: bytes) -> IntArray:
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or any(type(value) is not int or not 0 <= value < 1 << 31 for value in values):
        raise InputError("is no list of token ids", where=str(path))
    return np.asarray(values, np.int64)


def _tokenized(path: Path, raw: bytes, model: Checkpoint, tokenizer: str | Path | None) -> IntArray:
    from ropepatch.verify import engines

    home = Path(tokenizer) if tokenizer else Path(model.ref)
    file = home / "tokenizer.json" if home.is_dir() else home if tokenizer else home.parent / "tokenizer.json"
    if not file.is_file():
        raise UsageError(
            f"a text needs a tokenizer.json, and there is none at {file}",
            hint="--tokenizer FILE names one; or give token ids as .json or .npy",
        )
    with engines.needs("tokenizers", "transformers"):
        from tokenizers import Tokenizer
    try:
        words: Any = Tokenizer.from_file(str(file))
        return np.asarray(words.encode(raw.decode("utf-8")).ids, np.int64)
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at offset {error.start}", where=str(path)) from None
    except Exception as error:  # the library's own, without a common base
        raise InputError(f"is no tokenizer: {' '.join(str(error).split())[:120]}", where=str(file)) from None
