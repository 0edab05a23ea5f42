"""What transformers computes: the other half of the conformance oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rotation:
    """What a group shall turn by: `inv_freq` per pair, the factors on cos and sin, and on the softmax scale."""

    inv_freq: np.ndarray[Any, Any]
    attention_scale: float = 1.0
    softmax_scale: float = 1.0


def transformers_logprobs(
    hf_dir: str | Path,
    tokens: Sequence[int],
    positions: Sequence[int] | None = None,
    *,
    at: Sequence[int] | None = None,
    attention: str = "eager",
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-probabilities of the next token after each position: shape (positions, vocab), one float32 forward pass.

    `positions` are indices into `tokens` (negative ones count from the end); None means all. `at`: where the tokens
    stand, if not one after the other. `attention`: transformers' implementation; "sdpa" keeps no matrix of all pairs.
    """
    return _logprobs(_load(hf_dir, attention), tokens, positions, at)


def rotation(hf_dir: str | Path, length: int) -> Rotation:
    """What transformers' own module turns by once it has seen a text of that length."""
    import torch

    module = _load(hf_dir).model.rotary_emb
    module(torch.zeros(1, 1, 1), torch.tensor([[length - 1]]))
    return Rotation(module.inv_freq.double().numpy(), float(module.attention_scaling))


class Turned:
    """A model that can be turned by other frequencies than transformers computes; its config must not be scaled."""

    def __init__(self, hf_dir: str | Path) -> None:
        self.model = _load(hf_dir)
        #: the softmax scales as they are
        self._scalings = {
            module: module.scaling
            for module in self.model.modules()
            if hasattr(module, "scaling") and hasattr(module, "o_proj")
        }

    def logprobs(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        rotations: Mapping[str, Rotation],
        at: Sequence[int] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """As `transformers_logprobs`, by `rotations`: by layer type, or `default`."""
        self._turn_by(rotations)
        return _logprobs(self.model, tokens, positions, at)

    def _turn_by(self, rotations: Mapping[str, Rotation]) -> None:
        """Put the frequencies into the rotary modules; each must find its place there, and keep its size."""
        import torch

        placed = set()
        for module in self.model.modules():
            for name, rotation in rotations.items():
                prefix = "" if name == "default" else f"{name}_"
                before = getattr(module, f"{prefix}inv_freq", None)
                if before is None:
                    continue
                assert before.shape == rotation.inv_freq.shape, (name, before.shape, rotation.inv_freq.shape)
                setattr(module, f"{prefix}inv_freq", torch.tensor(rotation.inv_freq, dtype=torch.float32))
                setattr(module, f"{prefix}attention_scaling", rotation.attention_scale)
                placed.add(name)
        assert placed == set(rotations), placed
        (softmax_scale,) = {rotation.softmax_scale for rotation in rotations.values()}
        for module, scaling in self._scalings.items():
            module.scaling = scaling * softmax_scale


def _load(hf_dir: str | Path, attention: str = "eager") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    # Matrices this small cost more to hand to a second thread than to multiply.
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(str(hf_dir), dtype=torch.float32, attn_implementation=attention)
    return model.eval()


def _logprobs(
    model: Any, tokens: Sequence[int], positions: Sequence[int] | None, at: Sequence[int] | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    import torch

    # A mask of ones says that positions with gaps are one text; transformers would take them for several packed ones.
    placed = {} if at is None else {"position_ids": torch.tensor([list(at)]), "attention_mask": torch.ones(1, len(at))}
    with torch.inference_mode():
        logits = model(torch.tensor([list(tokens)]), use_cache=False, **placed).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1).numpy()
    return logprobs if positions is None else logprobs[list(positions)]
