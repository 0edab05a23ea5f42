"""Candidates to scores: one loaded model, several candidates in a pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ropepatch.audit import tasks
from ropepatch.audit.engine import Answers, OutOfMemory
from ropepatch.audit.tasks import BLOCK, IntArray
from ropepatch.audit.torch_engine import Model, is_out_of_memory
from ropepatch.errors import InputError
from ropepatch.frequencies import group_frequencies
from ropepatch.search import heldout
from ropepatch.search.decoder import CandidateDecoder
from ropepatch.search.heldout import Work
from ropepatch.verify import memory, shape

if TYPE_CHECKING:
    from ropepatch.profile import RopeProfile

OBJECTIVES = ("needle", "ppl")
#: candidates that are one piece of work; fixed, so that every executor runs the same passes
BATCH = 4
#: significant digits of a score, so that the last bits of a sum do not choose between candidates
_DIGITS = 6
#: tokens of a pass on a CPU beyond which larger passes are not faster
_CPU_TOKENS = 1 << 16


@dataclass(frozen=True)
class Task:
    """What candidates are scored on; plain data, so that it travels to another machine.

    Attributes:
        kind: ``needle`` or ``ppl``.
        tokens: (texts, length) token ids.
        profile: the unscaled model; its ``group`` is rotated by the candidates.
        group: the rope group that is searched.
        inv_freq: float64, the group's plain frequencies, (pairs,).
        attention_scale: the factor on cos and sin that goes with every candidate.
    """

    kind: str
    tokens: IntArray
    profile: RopeProfile
    group: str
    inv_freq: Any
    attention_scale: float

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return int(self.tokens.shape[1])


class Evaluator:
    """A model in memory that scores candidates on tasks.

    Args:
        ref: the checkpoint.
        device: ``cuda`` or ``cpu``.
        dtype: name of a torch dtype.
        limit: bytes that may be taken; None for what is free.
    """

    def __init__(self, ref: str, device: str, dtype: str, limit: int | None = None) -> None:
        import torch

        from ropepatch import checkpoint

        self.model = Model(checkpoint.open(ref), device, getattr(torch, dtype))
        self.limit = limit

    def _decoder(self, task: Task) -> CandidateDecoder:
        size = self.model.sizes
        ropes = shape.ropes(task.profile, size, size.layers, task.length)
        made = CandidateDecoder(
            self.model.weights, size, ropes, device=self.model.device, dtype=self.model.dtype, keep=True
        )
        made.share(self.model.first)
        return made

    def scores(self, task: Task, factors: Sequence[Sequence[float]]) -> list[float]:
        """The score of each list of factors, higher is better: mean log-probability.

        ``needle``: of an answer's tokens together, as the audit reports it; ``ppl``: of a token.

        Raises:
            InputError: not even one candidate on one text fits into memory.
        """
        import torch

        decoder = self._decoder(task)
        inv_freq = np.asarray(task.inv_freq)[None, :] / np.asarray(factors, np.float64)
        rows = self._rows(task.length, len(factors) * task.tokens.shape[0], task.tokens.shape[0])
        found = np.empty((len(factors), task.tokens.shape[0]))
        at = 0
        while at < found.size:
            # Whole candidates where one fits, else one candidate's texts in parts.
            one, first = divmod(at, task.tokens.shape[0])
            many = max(1, rows // task.tokens.shape[0]) if first == 0 else 1
            part = task.tokens[first : first + rows]
            decoder.rotate_by(task.group, inv_freq[one : one + many], task.attention_scale)
            try:
                with torch.inference_mode():
                    made = _log_probabilities(decoder, task.kind, torch.from_numpy(part))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows == 1:
                    raise InputError(f"one text of {task.length} tokens does not fit into memory") from None
                rows //= 2
                continue
            found[one : one + many, first : first + len(part)] = made.reshape(-1, len(part))
            at += made.size
        return [_rounded(float(mean)) for mean in found.mean(1)]

    def held_out(self, profile: RopeProfile, work: Work) -> dict[str, Any]:
        """Retrieval or perplexity of one variant at one length, see :mod:`ropepatch.search.heldout`."""
        if work.windows is not None:
            group, group_now = next(iter(profile.groups.items()))
            now = group_frequencies(group_now, work.length)
            task = Task("ppl", work.windows, profile, group, now.inv_freq, now.attention_scale)
            return heldout.perplexity(self.scores(task, [[1.0] * now.inv_freq.size])[0], work.windows)
        assert work.alphabet is not None
        name = heldout.task_of(work.length)
        drawn = tasks.texts(work.alphabet, name, work.length, heldout.DEPTHS, work.samples, work.seed)
        found: dict[float, Answers] = {}
        for one in drawn:
            try:
                rows = self._rows(work.length, one.samples, one.samples)
                found |= self.model.answers(self.model.ropes(profile, work.length), one, rows)
            except OutOfMemory as error:
                raise InputError(f"one text of {work.length} tokens does not fit into memory: {error}") from None
        return heldout.retrieval(found)

    def _rows(self, length: int, rows: int, texts: int) -> int:
        """Rows (candidates times texts) of a pass: as many as fit, and on a CPU no more than help."""
        free = self.limit if self.limit is not None else memory.available()
        if self.model.device != "cpu":
            import torch

            free = min(self.limit or 1 << 62, int(torch.cuda.mem_get_info()[0]))
        elif rows * length > _CPU_TOKENS:
            rows = max(texts, _CPU_TOKENS // length)
        while rows > 1 and free is not None and self.model.estimate(length, rows)["total"] > free:
            rows //= 2
        return rows


def _rounded(score: float) -> float:
    """A score that a frequency without sense gives is the worst there is, and no NaN."""
    return float(f"{score:.{_DIGITS}g}") if math.isfinite(score) else -1e9


def _log_probabilities(decoder: CandidateDecoder, kind: str, tokens: Any) -> Any:
    """(rows,) float64: of the answer's tokens together, or the mean of all tokens but the first."""
    texts, length = tokens.shape
    first = length - BLOCK if kind == "needle" else 0
    total = np.zeros(1)
    at = first
    for states in decoder.states_from(tokens, first):
        end = min(at + states.shape[1], length - 1)  # the last token's state says nothing that is known
        wanted = tokens[:, at + 1 : end + 1].to(states.device)
        sums = np.zeros(states.shape[0])
        for a in range(0, end - at, _SLICE):  # the logits of a long text at once would not fit
            numbers = decoder.log_probabilities(states[:, a : a + _SLICE][:, : end - at - a])
            want = wanted[:, a : a + _SLICE].repeat(states.shape[0] // texts, 1)
            sums += numbers.gather(-1, want[..., None])[..., 0].sum(-1).double().cpu().numpy()
        total = total + sums
        at += states.shape[1]
    return total if kind == "needle" else total / (length - 1)


_SLICE = 256
