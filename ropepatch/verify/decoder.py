"""A small decoder of the llama family in torch, on weights that are read as they are needed.

RMSNorm, grouped queries, biases, a norm on queries and keys, partial rotation in both pair layouts, sliding windows.
A layer whose feed-forward part has experts stops at its attention: RoPE does not reach any farther.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ropepatch.errors import InputError
from ropepatch.verify import attention, tensors
from ropepatch.verify.cache import Cache
from ropepatch.verify.shape import LayerRope, Shape
from ropepatch.verify.tensors import Held, Tensors
from ropepatch.verify.weights import Weights

#: sees the layer, the rotated queries and keys (rows, heads, length, head_dim)
Observer = Callable[[int, Any, Any], None]


class Decoder(Tensors):
    """The first layers of a model.

    Args:
        weights: the tensors.
        shape: the sizes.
        ropes: how each layer rotates; as many layers are run.
        device: a torch device.
        dtype: a torch dtype.
        keep: hold the weights in memory; otherwise each is read again in slices when it is needed.
        held: what is held of the weights in slices; by default nothing.

    Raises:
        InputError: a tensor is missing, or has another shape than the metadata says.
    """

    def __init__(
        self,
        weights: Weights,
        shape: Shape,
        ropes: Sequence[LayerRope],
        *,
        device: str = "cpu",
        dtype: Any = None,
        keep: bool = False,
        held: Held | None = None,
    ) -> None:
        import torch

        held = held or Held(None if keep else 0)
        super().__init__(weights, torch.device(device), dtype or torch.float32, held)
        self.shape, self.ropes, self.keep = shape, list(ropes), keep
        #: the type in which positions are held, None for exact angles (float64), and that of cos and sin
        self.positions_dtype: Any = None
        self.tables_dtype: Any = None
        self._check()
        #: what the layers rotate by, as the module holds it
        self.inv_freq = [torch.tensor(rope.inv_freq, dtype=torch.float32, device=self.device) for rope in ropes]
        self.attention_scale = [rope.attention_scale for rope in ropes]

    @property
    def weights_are_quantised(self) -> bool:
        """Whether the first layer's matrices are in blocks."""
        return self.weights.quantised(self.weights.role("o", 0))

    @property
    def stops_at_attention(self) -> bool:
        """Whether any layer has experts, which are left out."""
        return not all(self._dense(layer) for layer in range(len(self.ropes)))

    def _check(self) -> None:
        shape = self.shape
        self.embedding = self._need("embed", None, None, shape.hidden)
        self.vocabulary = self.weights.shape(self.embedding)[0]  # type: ignore[index]
        head = self.weights.role("head")
        self.head = head if self.weights.shape(head) else self.embedding
        inner, inner_kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        for layer, rope in enumerate(self.ropes):
            if 2 * rope.inv_freq.size > shape.head_dim:
                raise InputError(f"layer {layer} rotates {2 * rope.inv_freq.size} of {shape.head_dim} dimensions")
            self._need("attn_norm", layer, shape.hidden)
            self._need("o", layer, shape.hidden, inner)
            if self._has("qkv", layer):
                self._need("qkv", layer, inner + 2 * inner_kv, shape.hidden)
                continue
            for role, rows in (("q", inner), ("k", inner_kv), ("v", inner_kv)):
                self._need(role, layer, rows, shape.hidden)
            for role in ("q_norm", "k_norm"):
                if self._has(role, layer):
                    self._need(role, layer, shape.head_dim)

    def _dense(self, layer: int) -> bool:
        return self._has("down", layer) and len(self.weights.shape(self.weights.role("down", layer)) or ()) == 2

    # ---- tensors ----------------------------------------------------------------------------------------------------

    def _norm(self, x: Any, weight: Any) -> Any:
        import torch

        wide = x.to(torch.float32)
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1])
        # In place wherever a tensor is our own: fresh memory costs more than these operations.
        return (wide * mean.add_(self.shape.eps).rsqrt_()).to(x.dtype).mul_(weight)

    # ---- the pass ---------------------------------------------------------------------------------------------------

    def tables(self, layer: int, positions: Any) -> tuple[Any, Any]:
        """cos and sin of a layer at ``positions``, (length, pairs), times the attention scale."""
        import torch

        inv_freq = self.inv_freq[layer]
        if self.positions_dtype is not None:
            angles = torch.outer(positions.to(self.positions_dtype).float(), inv_freq)
        else:
            # MPS and the like have no float64; a CPU table costs nothing beside a layer.
            angles = torch.outer(positions.cpu().double(), inv_freq.cpu().double())
        scale = self.attention_scale[layer]
        tables = ((f(angles) * scale).to(self.device, torch.float32) for f in (torch.cos, torch.sin))
        cos, sin = tables if self.tables_dtype is None else (table.to(self.tables_dtype).float() for table in tables)
        return cos, sin

    def _rotate(self, x: Any, layer: int, cos: Any, sin: Any) -> Any:
        import torch

        pairs = int(cos.shape[-1])
        if not pairs:
            return x
        turned = x[..., : 2 * pairs].to(torch.float32)
        if self.ropes[layer].layout == "interleaved":
            a, b = turned[..., 0::2], turned[..., 1::2]
            out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        else:
            wide_cos, wide_sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
            out = (turned * wide_cos).addcmul_(turned.roll(pairs, -1), wide_sin)
        out = out.to(x.dtype)
        return out if 2 * pairs == x.shape[-1] else torch.cat((out, x[..., 2 * pairs :]), -1)

    def queries_and_keys(self, y: Any, layer: int, positions: Any, asked: int | None = None) -> tuple[Any, Any, Any]:
        """Rotated queries and keys, and values, each (rows, heads, length, head_dim); queries of the last ``asked``."""
        shape = self.shape
        inner, inner_kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        last = y if asked is None else y[:, y.shape[1] - asked :]
        if self._has("qkv", layer):
            cuts = (0, inner, inner + inner_kv, inner + 2 * inner_kv)
            of = zip((last, y, y), itertools.pairwise(cuts), strict=True)
            q, k, v = (self._linear(x, "qkv", layer, a, b) for x, (a, b) in of)
        else:
            q, k, v = (self._linear(x, role, layer) for x, role in ((last, "q"), (y, "k"), (y, "v")))
        q, k, v = (x.unflatten(-1, (-1, shape.head_dim)) for x in (q, k, v))
        if self._has("q_norm", layer):
            q = self._norm(q, self._vector("q_norm", layer))
            k = self._norm(k, self._vector("k_norm", layer))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        cos, sin = self.tables(layer, positions)
        q_tables = (table[..., table.shape[-2] - q.shape[2] :, :] for table in (cos, sin))
        return self._rotate(q, layer, *q_tables), self._rotate(k, layer, cos, sin), v

    def _attention(self, q: Any, k: Any, v: Any, at: Any, of: Any, window: int | None) -> Any:
        """Attention of queries at positions ``at`` on keys at positions ``of``, which end with the queries' own."""
        import torch

        if window is None or int(at[-1] - of[0]) < window:
            return attention.causal(q, k, v)
        seen = int(torch.searchsorted(of, at[0] - window, right=True))  # the first key that any query sees
        k, v, of = k[:, :, seen:], v[:, :, seen:], of[seen:]
        order = torch.arange(k.shape[2], device=self.device)
        allowed = order[None, :] <= order[k.shape[2] - q.shape[2] :, None]
        allowed &= (at[:, None] - of[None, :]) < window
        return attention.masked(q, k, v, allowed)

    def _feed_forward(self, y: Any, layer: int) -> Any:
        from torch.nn import functional

        if self._has("gate", layer):
            gate, up = self._linear(y, "gate", layer), self._linear(y, "up", layer)
        else:
            role = "gate_up" if self._has("gate_up", layer) else "up"  # phi3 keeps both in one, gate first
            gate, up = self._linear(y, role, layer).chunk(2, -1)
        return self._linear(functional.silu(gate).mul_(up), "down", layer)

    def embed(self, tokens: Any) -> Any:
        """Rows of the embedding, each different token read once; (rows, length, hidden)."""
        import torch

        if self.keep:
            return self._rows(self.embedding, 0, self.vocabulary)[tokens.to(self.device)]
        different, back = torch.unique(tokens.cpu(), return_inverse=True)
        table = torch.cat([self.weights.rows(self.embedding, int(t), int(t) + 1) for t in different])
        return table[back].to(self.device, self.dtype)

    def states(
        self,
        tokens: Any,
        positions: Any,
        cache: Cache | None = None,
        observe: Observer | None = None,
        asked: int | None = None,
    ) -> tuple[Any, Cache]:
        """Run the layers.

        Args:
            tokens: (rows, length) token ids.
            positions: (length,) positions of these tokens, ascending.
            cache: what comes before; None for nothing. It is not changed, but for what it says of its ``room``.
            observe: called with each layer's rotated queries and keys (its own, without the cache's).
            asked: how many of the last tokens' states are wanted, None for all: the last layer makes keys and values
                only of the others.

        Returns:
            States after the last norm, (rows, length or asked, hidden), and the cache with these tokens in it.
        """
        import torch

        cache = cache if cache is not None else Cache()
        past, length = cache.length, int(tokens.shape[1])
        positions = positions.to(self.device)
        # A cache is only ever that of contiguous positions.
        of = torch.cat((torch.arange(past, device=self.device), positions)) if past else positions
        x, after = self.embed(tokens), Cache(room=cache.room, whole=cache.whole)
        wanted = [None] * (len(self.ropes) - 1) + [asked]
        for layer, (rope, few) in enumerate(zip(self.ropes, wanted, strict=True)):
            y = self._norm(x, self._vector("attn_norm", layer))
            q, k, v = self.queries_and_keys(y, layer, positions, few)
            if observe is not None:
                observe(layer, q, k)
            k, v = cache.and_(layer, k, v)
            after.keys.append(k)
            after.values.append(v)
            first = length - q.shape[2]
            if first == length:
                return x[:, first:], after
            x = x[:, first:]
            heads = self._attention(q, k, v, positions[first:], of, rope.window)
            x = x + self._linear(heads.transpose(1, 2).flatten(-2), "o", layer)
            if self._dense(layer):
                x = x + self._feed_forward(self._norm(x, self._vector("ffn_norm", layer)), layer)
        return self._norm(x, self._vector("final_norm", None)), after

    def log_probabilities(self, states: Any) -> Any:
        """Float32 log-probabilities of the next token, (..., vocabulary); the head is read in slices."""
        import torch

        step = self.vocabulary if self.keep else tensors.rows_of_a_slice(self.shape.hidden)
        parts = [
            (states @ self._rows(self.head, at, min(at + step, self.vocabulary)).T).to(torch.float32)
            for at in range(0, self.vocabulary, step)
        ]
        return torch.log_softmax(torch.cat(parts, -1), -1)

    def first_norm(self, x: Any) -> Any:
        """The norm in front of the first layer's attention."""
        return self._norm(x, self._vector("attn_norm", 0))

    def scores(self, q: Any, k: Any) -> Any:
        """Attention logits of every query on every key, (rows, heads, queries, keys), float32."""
        shared = self.shape.heads // self.shape.kv_heads
        k = k.repeat_interleave(shared, 1)
        return q.float() @ k.float().transpose(-1, -2) / math.sqrt(self.shape.head_dim)
