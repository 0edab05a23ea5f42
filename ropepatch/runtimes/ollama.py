"""Ollama: llama.cpp behind a context length of its own (``llm/server.go``)."""

from __future__ import annotations

import dataclasses

from ropepatch.runtimes.base import Behaviour, Engine, Prediction, Source, Version
from ropepatch.runtimes.llama_cpp import LlamaCpp

BEHAVIOURS = (Behaviour((0,), "that starts llama-server", (0, 30)),)
#: architectures that its converter names its own way and its loader translates (llama/compat/llama-ollama-compat.cpp)
ARCHITECTURES = {"gptoss": "gpt-oss", "qwen25vl": "qwen2vl", "olmo3": "olmo2"}


class Ollama:
    """Ollama; what it computes is what the llama-server that it starts computes."""

    name = "ollama"
    behaviours = BEHAVIOURS
    reads_formats = ("gguf",)

    def __init__(self, version: Version) -> None:
        self.version = version
        self.engine = Engine(self.name, version)
        self._inner = LlamaCpp(version, self.engine, ARCHITECTURES)

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
