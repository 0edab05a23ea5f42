"""Answers under any frequencies: what a search for factors minimises, and what its held-out check measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ropepatch.audit import tasks
from ropepatch.audit.alphabets import alphabet_of
from ropepatch.audit.engine import Answers

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.methods.base import Frequencies


class Objective:
    """Fixed texts of one length for a model whose weights are held; frequencies in, answers out.

    Args:
        checkpoint: the model, of the llama family.
        length: tokens of a text.
        depths: where the blocks stand, from 0 to 1.
        samples: texts at each depth.
        task: a name from ``ropepatch.audit.tasks.TASKS``.
        seed: of the texts. Another seed gives others of the same kind: keep them apart for what is claimed in the end.
        alphabet: token ids, ``bos=0,filler=1-40,key=41-72,value=73-136``; default drawn from the vocabulary.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        rows: texts that are run at once; fewer when memory runs out.

    Raises:
        UsageError: torch is missing, or the task cannot be posed so.
        InputError: the built-in decoder cannot run the checkpoint.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        length: int,
        *,
        depths: Sequence[float] = (0.0, 0.33, 0.67, 0.97),
        samples: int = 10,
        task: str = "passkey",
        seed: int = 1,
        alphabet: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        rows: int | None = None,
    ) -> None:
        from ropepatch.verify import engines

        with engines.needs("torch", "torch"):
            import torch
        from ropepatch.audit.torch_engine import Model

        self.model = Model(checkpoint, engines.device_of(device), getattr(torch, dtype))
        letters = alphabet_of(checkpoint, self.model.vocabulary, alphabet)
        self.texts = tasks.texts(letters, task, length, depths, samples, seed)
        self.rows = rows or samples

    def __call__(self, frequencies: Mapping[str, Frequencies]) -> dict[float, Answers]:
        """Answers by depth when the named rope groups rotate by ``frequencies``, and the others as they did.

        Raises:
            OutOfMemory: not even a single text could be run.
        """
        ropes = self.model.rotating(frequencies)
        found: dict[float, Answers] = {}
        for texts in self.texts:
            found |= self.model.answers(ropes, texts, self.rows)
        return found

    def mean_log_probability(self, frequencies: Mapping[str, Frequencies]) -> float:
        """Of an answer's tokens together, over all depths and texts: 0 at best."""
        numbers = [value for answers in self(frequencies).values() for value in answers.log_probabilities or ()]
        return sum(numbers) / len(numbers)
