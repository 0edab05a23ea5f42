"""Cells on transformers' own models: any architecture it loads, with what texts have in common run once."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.audit.engine import Answers, Unanswered
from ropepatch.audit.hf_attention import Chunks, Enough, quicken
from ropepatch.audit.tasks import ANSWER, Texts
from ropepatch.audit.torch_engine import CHUNK, Scores, in_batches, scored
from ropepatch.errors import InputError, RopepatchError, UsageError
from ropepatch.frequencies import deviation, profile_frequencies
from ropepatch.verify import engines, memory

if TYPE_CHECKING:
    from ropepatch.audit.variants import Variant


class TransformersEngine:
    """Variants as transformers builds them from the patched config and the checkpoint's weights.

    Args:
        chosen: what it shall run.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: of weights and cache.

    Raises:
        UsageError: a library or the device is missing.
        InputError: a checkpoint is no Hugging Face folder.
    """

    needs_words = False

    def __init__(self, chosen: Sequence[Variant], device: str, dtype: str) -> None:
        with engines.needs("torch", "torch"):
            import torch
        with engines.needs("transformers", "transformers"):
            import transformers
        for variant in chosen:
            if variant.checkpoint.profile.source.format != "hf":
                raise InputError(
                    "transformers is given Hugging Face folders only",
                    where=variant.checkpoint.ref,
                    hint="--engine torch or llama.cpp takes a GGUF",
                )
        self._device, self._dtype = engines.device_of(device), getattr(torch, dtype)
        self.environment = {
            "engine": f"transformers {transformers.__version__}", "device": self._device, "dtype": dtype,
        }  # fmt: skip
        self._configs = {variant.name: _config(variant) for variant in chosen}
        self._loaded: tuple[str, Any] | None = None
        self._chunks = Chunks()
        self.vocabulary = min(int(config.get_text_config().vocab_size) for config in self._configs.values())
        self._weights = {variant.name: _bytes(variant) for variant in chosen}

    def estimate(self, variant: Variant, length: int, rows: int) -> dict[str, int]:
        """Bytes of the files, the key-value cache, and attention and logits of a chunk."""
        config = self._configs[variant.name].get_text_config()
        heads = int(getattr(config, "num_attention_heads", 1))
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        item, chunk = 4 if "32" in str(self._dtype) else 2, min(length, CHUNK[self._device])
        parts = {
            "weights": self._weights[variant.name],
            "keys_and_values": 4 * rows * length * int(config.num_hidden_layers) * kv_heads * width * item,
            "attention": rows * heads * chunk * length * item + chunk * length * 5,
            "activations": rows * chunk * 12 * int(config.hidden_size) * item,
            "logits": rows * ANSWER * self.vocabulary * 12,
        }
        return {"total": sum(parts.values()), **parts}

    def free(self) -> int | None:
        """What is available, and what the weights take already."""
        import torch

        if self._device == "cuda":
            return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_allocated())
        free = memory.available()
        if free is None or self._loaded is None:
            return free
        held = sum(int(item.numel() * item.element_size()) for item in self._loaded[1].parameters())
        return free + held

    def answers(self, variant: Variant, texts: Texts, rows: int) -> dict[float, Answers]:
        """By the model's own forward pass.

        Raises:
            OutOfMemory: not even a single text could be run.
            Unanswered: transformers does not load or run the variant.
        """
        model, chunk = self._model(variant), CHUNK[self._device]
        together = _steady(variant, texts.length)

        def run(part: Texts) -> Iterator[Scores]:
            return _shared(model, part, chunk, self._chunks) if together else _apart(model, part)

        try:
            return in_batches(texts, rows, run)
        except (ValueError, NotImplementedError, TypeError, AttributeError) as error:
            raise Unanswered(f"transformers: {' '.join(str(error).split())[:200]}") from None

    def _model(self, variant: Variant) -> Any:
        if self._loaded is None or self._loaded[0] != variant.name:
            self._loaded = None  # never two sets of weights
            self._loaded = (variant.name, self._load(variant))
        return self._loaded[1]

    def _load(self, variant: Variant) -> Any:
        import transformers

        try:
            with engines._silent(transformers):
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    str(variant.checkpoint.dialect.root), config=self._configs[variant.name], dtype=self._dtype,
                    local_files_only=True, trust_remote_code=False, use_safetensors=True,
                )  # fmt: skip
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise Unanswered(f"transformers cannot load it: {' '.join(str(error).split())[:200]}") from None
        model = model.to(self._device).eval()
        if variant.runtime is not None:
            from ropepatch.runtime_methods import self_extend

            self_extend(model, group=variant.runtime.group, window=variant.runtime.window)
        else:
            self._chunks = quicken(model)
        return model

    def close(self) -> None:
        """Let the weights go."""
        self._loaded = None


def _config(variant: Variant) -> Any:
    """The config as transformers reads it from the patched folder."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        root = Path(variant.checkpoint.dialect.root)
        try:
            if (patch := variant.patch()) is not None:
                root = Path(folder, "patched")
                patch.write(root, weights="none", digest="none", verify=False)
            return transformers.AutoConfig.from_pretrained(str(root), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(f"transformers cannot read {variant.name!r}: {why}", where=str(root)) from None
        except RopepatchError as error:
            raise UsageError(f"{variant.name!r} cannot be written for transformers: {error}") from None


def _steady(variant: Variant, length: int) -> bool:
    """Whether it rotates alike in every context up to a length: then a prefix is the same in all texts."""
    short, full = profile_frequencies(variant.profile), profile_frequencies(variant.profile, length)
    return all(deviation(short[name], full[name]) == 0 for name in short)


def _shared(model: Any, texts: Texts, chunk: int, chunks: Chunks) -> Iterator[Scores]:
    """Deepest block first: what was run behind a block is cut off again, what stands before it is kept."""
    import torch
    from transformers import DynamicCache

    starts = texts.starts
    shared = texts.trunk.shape[1]
    order = sorted(texts.blocks, reverse=True)
    cache, have = DynamicCache(), 0
    for depth in order:
        start = shared if starts is None else starts[depth]
        if (beyond := int(cache.get_seq_length()) - start) > 0:
            cache.crop(-beyond)  # a positive number is no longer taken by all caches
        tokens = torch.from_numpy(texts.at(depth)[:, :-1]).to(model.device)
        last = tokens.shape[1] - ANSWER
        at = start if have else 0
        while at < last:
            end = min(at + chunk, last)
            chunks.unread = True
            try:
                with contextlib.suppress(Enough):
                    _run(model, tokens[:, at:end], at, cache, 1)
            finally:
                chunks.unread = False
            at = end
        logits = _run(model, tokens[:, last:], last, cache, ANSWER)
        yield depth, *_scores(logits, texts, depth)
        have = start


def _apart(model: Any, texts: Texts) -> Iterator[Scores]:
    """Every text in one pass: its length decides how it rotates."""
    import torch

    for depth in texts.blocks:
        tokens = torch.from_numpy(texts.at(depth)[:, :-1]).to(model.device)
        yield depth, *_scores(_run(model, tokens, 0, None, ANSWER), texts, depth)


def _run(model: Any, tokens: Any, start: int, cache: Any, keep: int) -> Any:
    import torch

    where = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]
    few = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    options = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
    return model(input_ids=tokens, position_ids=where.expand(tokens.shape[0], -1), **options, **few).logits[:, -keep:]


def _scores(logits: Any, texts: Texts, depth: float) -> tuple[list[bool], list[float]]:
    import torch

    wanted = torch.from_numpy(texts.blocks[depth][:, 1:]).to(logits.device)
    return scored(torch.log_softmax(logits.float(), -1), wanted)


def _bytes(variant: Variant) -> int:
    root = Path(variant.checkpoint.dialect.root)
    return sum(path.stat().st_size for path in root.glob("*.safetensors"))
