"""What token ids stand for, as texts: servers that take no ids are sent words."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.containers.gguf import STRING, ArrayRef, Header

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

#: how vocabularies write a blank in front of a word
_BLANKS = str.maketrans({"▁": " ", "Ġ": " "})
_MOST_BYTES = 256 << 20


def pieces_of(model: Checkpoint) -> list[str]:
    """The text of each token id, by ``tokenizer.json`` or a GGUF's vocabulary; empty where there is none."""
    if model.profile.source.format == "gguf":
        from ropepatch.verify.weights import gguf_header

        return [piece.translate(_BLANKS) for piece in from_gguf(gguf_header(model))]
    path = Path(getattr(model.dialect, "root", ".")) / "tokenizer.json"
    try:
        if path.stat().st_size > _MOST_BYTES:
            return []
        document = json.loads(path.read_text(encoding="utf-8"))
        return _from_tokenizer(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def from_gguf(header: Header) -> Iterator[str]:
    """The texts of the vocabulary, from where they stand; empty where there are none, or implausibly many."""
    found = header.get("tokenizer.ggml.tokens")
    if not isinstance(found, ArrayRef) or found.type != STRING or header.kv_end - found.offset > _MOST_BYTES:
        return
    with open(header.path, "rb") as file:
        file.seek(found.offset)
        data = file.read(header.kv_end - found.offset)
    at, length = 0, struct.Struct(header.endian + "Q")
    for _ in range(found.count):
        start = at + length.size
        at = start + int(length.unpack_from(data, at)[0])
        yield data[start:at].decode("utf-8", "replace")


def _from_tokenizer(document: Any) -> list[str]:
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, dict):
        by_id = {int(number): str(piece) for piece, number in vocabulary.items()}
    else:
        by_id = {number: str(item[0]) for number, item in enumerate(vocabulary)}
    by_id |= {int(item["id"]): str(item["content"]) for item in document.get("added_tokens") or ()}
    size = max(by_id) + 1
    return [by_id.get(number, "").translate(_BLANKS) for number in range(size)] if size < 1 << 24 else []


def words(pieces: list[str]) -> list[int]:
    """Ids that stand for a whole word of plain letters: texts of them come to the same ids again."""
    return [
        number
        for number, piece in enumerate(pieces)
        if piece.startswith(" ") and len(piece) > 3 and piece[1:].isascii() and piece[1:].isalpha()
    ]
