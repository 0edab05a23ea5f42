"""The token ids that an audit of a checkpoint uses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ropepatch.audit import pieces
from ropepatch.audit.tasks import Alphabet

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint


def alphabet_of(model: Checkpoint, vocabulary: int, text: str | None, *, words: bool = False) -> Alphabet:
    """The alphabet that ``text`` describes, else one drawn from the vocabulary.

    Args:
        model: whose vocabulary it is.
        vocabulary: ids are below this.
        text: ``bos=0,filler=1-40,key=41-72,value=73-136``.
        words: texts are sent as words, without a first token: draw only ids that stand for whole ones.

    Raises:
        UsageError: it cannot be read, or the vocabulary is too small to draw from.
    """
    bos = None if words else _bos(model, vocabulary)
    if text:
        found = Alphabet.parse(text, vocabulary)
        return dataclasses.replace(found, bos=None) if words else found
    return Alphabet.drawn(vocabulary, bos, among=pieces.words(pieces.pieces_of(model)) if words else None)


def _bos(model: Checkpoint, vocabulary: int) -> int | None:
    if model.profile.source.format == "gguf":
        from ropepatch.verify.weights import gguf_header

        value = gguf_header(model).get("tokenizer.ggml.bos_token_id")
    else:
        value = (model.raw_config or {}).get("bos_token_id")
    return value if isinstance(value, int) and 0 <= value < vocabulary else None
