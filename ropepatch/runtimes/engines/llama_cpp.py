"""llama.cpp: what it reads of a GGUF, and what it makes of it (``src/llama-context.cpp``, ``src/llama-model.cpp``)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ropepatch.frequencies import group_frequencies
from ropepatch.methods.factors import Factors
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.stack import stages
from ropepatch.profile import RopeGroup, RopeProfile
from ropepatch.runtimes.base import Behaviour, Engine, Order, Prediction, Runtime, Source, Version
from ropepatch.runtimes.llama_cpp_table import ARCHITECTURES

BEHAVIOURS = (Behaviour((0,), "since December 2025", (0, 6, 0)),)
#: a context is allocated in multiples of this many tokens
PADDING = 256
#: what a context with an attention factor must not do
SHIFTS = "a context shift, cache reuse or self-extend multiplies the cached keys by the attention factor again"


class LlamaCpp(Runtime):
    """llama.cpp; the lifted profile of a GGUF is what it reads, this adds what it does with it."""

    name = "llama.cpp"
    behaviours = BEHAVIOURS
    rank = 50
    avoided = (SHIFTS,)
    reads_formats = ("gguf",)

    def __init__(
        self, version: Version, engine: Engine | None = None, aliases: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(version)
        self.engine = engine or self.engine
        self.aliases = aliases or {}

    def predict(self, source: Source, length: int | None) -> dict[str, Prediction]:
        """What a context of ``length`` tokens per sequence computes; None takes the file's context_length."""
        profile = source.profile
        if profile is None or profile.source.format != "gguf":
            raise self.engine.rejects("reads GGUF files", source.where, "convert it with convert_hf_to_gguf.py")
        profile = profile.read_by.get(self.engine.name, profile)
        architecture = profile.source.architecture
        row = ARCHITECTURES.get(self.aliases.get(architecture, architecture))
        if row is None:
            raise self.engine.rejects(f"does not know the architecture {architecture!r}", source.where)
        missing = next((note for note in profile.notes if "will refuse the file" in note), None)
        if missing is not None:
            raise self.engine.rejects(f"refuses the file: {missing}", source.where)
        allocated = self.allocated(profile, length)
        ignored = tuple(profile.unrecognised)
        return {name: self._group(profile, group, allocated, ignored) for name, group in profile.groups.items()}

    def launch(self, order: Order, predicted: Mapping[str, Prediction]) -> tuple[str, tuple[str, ...]]:
        """The command that serves it."""
        command = f"llama-server -m {order.quoted} -c {order.length}"
        flags = "--rope-scaling, --rope-scale, --rope-freq-base: flags win over what the file says"
        if not order.magnitude:
            return command, (flags,)
        shifts = "--context-shift, --cache-reuse, --grp-attn-n: cached keys get the attention factor a second time"
        return f"{command} --no-context-shift", (flags, shifts)

    def allocated(self, profile: RopeProfile, length: int | None) -> int | None:
        """``n_ctx_seq``: the asked length, or the file's, padded."""
        wanted = length or profile.declared_context
        return None if wanted is None else math.ceil(wanted / PADDING) * PADDING

    def _group(
        self, profile: RopeProfile, group: RopeGroup, allocated: int | None, ignored: tuple[str, ...]
    ) -> Prediction:
        result = group_frequencies(group, allocated)
        scale = result.attention_scale
        notes: list[str] = []
        if not math.isclose(scale, 1.0, rel_tol=1e-9):
            notes.append(SHIFTS)
        switched = any(isinstance(stage, (LongRope, Factors)) and not stage.static for stage in stages(group.scaling))
        if switched:
            notes.append(f"one list for all sequences, chosen by the allocated context ({allocated} tokens)")
        declared = profile.declared_context
        if allocated and declared and allocated > math.ceil(declared / PADDING) * PADDING:
            notes.append(f"llama-server gives each slot no more than context_length {declared}")
        return Prediction(result.inv_freq, scale, declared, ignored, tuple(notes), "at load" if switched else "never")
