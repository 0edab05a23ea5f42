"""Ollama: llama.cpp behind a context length of its own (``llm/server.go``)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import PurePath

from ropepatch.bundle import stem_of
from ropepatch.runtimes.base import Behaviour, Order, Prediction, Runtime, Source, Version
from ropepatch.runtimes.engines.llama_cpp import LlamaCpp
from ropepatch.runtimes.llama_cpp_table import OLLAMA_NAMES

BEHAVIOURS = (Behaviour((0,), "that starts llama-server", (0, 30)),)


class Ollama(Runtime):
    """Ollama; what it computes is what the llama-server that it starts computes."""

    name = "ollama"
    behaviours = BEHAVIOURS
    rank = 60
    reads_formats = ("gguf",)

    def __init__(self, version: Version) -> None:
        super().__init__(version)
        self._inner = LlamaCpp(version, self.engine, OLLAMA_NAMES)

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """As llama.cpp at ``num_ctx`` = ``length``, which is cut to the file's context_length."""
        declared = source.profile.declared_context if source.profile is not None else None
        served = min(length, declared) if length and declared else length
        predictions = self._inner.predict(source, served)
        if length == served:
            return predictions
        note = f"num_ctx {length} is cut to the file's context_length {declared}"
        return {
            name: dataclasses.replace(prediction, notes=(*prediction.notes, note))
            for name, prediction in predictions.items()
        }

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The Modelfile."""
        served = min(order.length, order.context or order.length)
        # a bare name would be looked up among Ollama's own models
        path = order.ref if "/" in order.ref else f"./{order.ref}"
        name = re.sub(r"[^a-z0-9._-]+", "-", stem_of(PurePath(order.ref).name).lower()).strip("-") or "model"
        text = f"# Modelfile, for: ollama create {name} -f Modelfile\nFROM {path}\nPARAMETER num_ctx {served}"
        return text, (
            "LLAMA_ARG_ROPE_* and LLAMA_ARG_YARN_* in its environment: they reach llama-server and win over the file",
        )
