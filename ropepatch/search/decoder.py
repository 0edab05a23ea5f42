"""The built-in decoder with several lists of frequencies at once: the batch holds candidates times texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ropepatch.verify.cache import Cache
from ropepatch.verify.decoder import Decoder

#: tokens of a text that are run at once; bounds the attention matrix
CHUNK = 2048


class CandidateDecoder(Decoder):
    """A decoder whose layers of one group rotate by a list of their own for each candidate.

    What does not depend on the candidate (the embedding, and the first layer's norm, queries, keys and values before
    they are rotated) is computed once for all; the last layer's queries only where an answer is asked for.
    """

    #: texts of the batch; rows are candidates times texts, the candidate changing last
    texts = 1
    _tables: dict[int, Any]

    def rotate_by(self, group: str, inv_freq: Any, attention_scale: float) -> None:
        """Take the candidates of the next pass.

        Args:
            group: the rope group that is searched.
            inv_freq: float64, (candidates, pairs).
            attention_scale: that of the group, the same for all.
        """
        import torch

        self._candidates = torch.tensor(np.asarray(inv_freq, np.float32), device=self.device)
        self._searched = {layer for layer, rope in enumerate(self.ropes) if rope.group == group and rope.inv_freq.size}
        self._scale = attention_scale
        self._last_tables: tuple[tuple[bool, int, int], Any] | None = None

    def tables(self, layer: int, positions: Any) -> tuple[Any, Any]:
        """cos and sin, (candidates, 1, 1, length, pairs) for layers of the searched group, else as the decoder has."""
        import torch

        if layer not in self._searched:
            cos, sin = super().tables(layer, positions)
            return cos, sin
        key = (True, int(positions[0]), int(positions[-1]))
        if self._last_tables is None or self._last_tables[0] != key:
            angles = positions.cpu().double()[None, :, None] * self._candidates.cpu().double()[:, None, :]
            self._last_tables = (
                key,
                tuple(
                    (f(angles) * self._scale).to(self.device, torch.float32)[:, None, None]
                    for f in (torch.cos, torch.sin)
                ),
            )
        made: tuple[Any, Any] = self._last_tables[1]
        return made

    def _rotate(self, x: Any, layer: int, cos: Any, sin: Any) -> Any:
        """Rows of one candidate (the first layer's) come out as rows of all."""
        rows = x.unflatten(0, (-1, self.texts)).expand(self._candidates.shape[0], -1, -1, -1, -1)
        return super()._rotate(rows, layer, cos, sin).flatten(0, 1)

    def states_from(self, tokens: Any, first: int) -> Iterator[Any]:
        """States after the last norm from position ``first`` on, chunk by chunk.

        Args:
            tokens: (texts, length) token ids.
            first: the first position whose state is wanted.

        Yields:
            (candidates * texts, positions, hidden); the candidate changes last.
        """
        import torch

        self.texts, length = tokens.shape
        cache = Cache()
        for at in range(0, length, CHUNK):
            end = min(at + CHUNK, length)
            positions, of = torch.arange(at, end, device=self.device), torch.arange(end, device=self.device)
            states, cache = self._chunk(tokens[:, at:end], positions, of, cache, max(first - at, 0))
            if states is not None:
                yield states

    def _chunk(self, tokens: Any, positions: Any, of: Any, cache: Cache, skip: int) -> tuple[Any, Cache]:
        """One chunk through all layers; the last layer only behind the first ``skip`` tokens, None where none is."""
        import torch

        candidates, after = self._candidates.shape[0], Cache()
        x = self.embed(tokens)
        for layer, rope in enumerate(self.ropes):
            y = self._norm(x, self._vector("attn_norm", layer))
            q, k, v = self.queries_and_keys(y, layer, positions)
            v = self._of_all(v, candidates)
            if cache.keys:
                k, v = (torch.cat((old[layer], new), 2) for old, new in ((cache.keys, k), (cache.values, v)))
            after.keys.append(k)
            after.values.append(v)
            x, at = self._of_all(x, candidates), positions
            if layer == len(self.ropes) - 1:
                if skip >= q.shape[2]:
                    return None, after
                q, x, at = q[:, :, skip:], x[:, skip:], positions[skip:]
            heads = self._attention(q, k, v, at, of, rope.window)
            x = x + self._linear(heads.transpose(1, 2).flatten(-2), "o", layer)
            x = x + self._feed_forward(self._norm(x, self._vector("ffn_norm", layer)), layer)
        return self._norm(x, self._vector("final_norm", None)), after

    def _of_all(self, x: Any, candidates: int) -> Any:
        """Rows of one candidate as rows of all of them."""
        if x.shape[0] == candidates * self.texts:
            return x
        return x[None].expand(candidates, *(-1,) * x.ndim).flatten(0, 1)
