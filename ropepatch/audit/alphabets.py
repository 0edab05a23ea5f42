"""The token ids that an audit of a checkpoint uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ropepatch.audit.tasks import Alphabet

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint


def alphabet_of(model: Checkpoint, vocabulary: int, text: str | None) -> Alphabet:
    """The alphabet that ``text`` describes, else one drawn from the vocabulary.

    Raises:
        UsageError: it cannot be read, or the vocabulary is too small to draw from.
    """
    return Alphabet.parse(text, vocabulary) if text else Alphabet.drawn(vocabulary, _bos(model, vocabulary))


def _bos(model: Checkpoint, vocabulary: int) -> int | None:
    if model.profile.source.format == "gguf":
        from ropepatch.verify.weights import gguf_header

        value = gguf_header(model).get("tokenizer.ggml.bos_token_id")
    else:
        value = (model.raw_config or {}).get("bos_token_id")
    return value if isinstance(value, int) and 0 <= value < vocabulary else None
