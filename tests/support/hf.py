"""What transformers computes: the other half of the conformance oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def transformers_logprobs(
    hf_dir: str | Path, tokens: Sequence[int], positions: Sequence[int] | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-probabilities of the next token after each position: shape (positions, vocab), one float32 forward pass.

    `positions` are indices into `tokens` (negative ones count from the end); None means all.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(hf_dir), dtype=torch.float32, attn_implementation="eager")
    model.eval()
    with torch.inference_mode():
        logits = model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1).numpy()
    return logprobs if positions is None else logprobs[list(positions)]
