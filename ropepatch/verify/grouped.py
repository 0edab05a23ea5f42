"""The built-in decoder attending by Self-Extend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ropepatch.runtime_methods import SelfExtend, attend, self_extend
from ropepatch.verify.decoder import Decoder
from ropepatch.verify.promise import Check

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.verify.forward import Settings


class GroupedDecoder(Decoder):
    """A decoder whose layers without a window attend by Self-Extend; ``how`` says with which numbers."""

    how: SelfExtend
    _layer = 0

    def queries_and_keys(self, y: Any, layer: int, positions: Any, asked: int | None = None) -> tuple[Any, Any, Any]:
        """As the decoder makes them; remembers the layer, whose frequencies the attention needs."""
        self._layer = layer
        return super().queries_and_keys(y, layer, positions, asked)

    def _attention(self, q: Any, k: Any, v: Any, at: Any, of: Any, window: int | None) -> Any:
        inv_freq = self.inv_freq[self._layer]
        if window is not None or not inv_freq.shape[0]:
            return super()._attention(q, k, v, at, of, window)
        shared = self.shape.heads // self.shape.kv_heads
        if shared > 1:
            k, v = (x.repeat_interleave(shared, 1) for x in (k, v))
        layout, scale = self.ropes[self._layer].layout, float(self.shape.head_dim) ** -0.5
        return attend(q, k, v, at, of, self.how, inv_freq, scale, layout=layout)


def check(checkpoint: Checkpoint, how: SelfExtend, settings: Settings) -> Check:
    """Whether Self-Extend runs on a checkpoint, changes far tokens and no near ones, and is the same in transformers.

    The text is contiguous, as long as the checkpoint declares and at most 1,024 tokens beyond the window, so that far
    queries meet both kinds of keys.

    Raises:
        InputError: the built-in decoder cannot run the checkpoint.
        UsageError: transformers was asked for and cannot switch the model.
    """
    import torch

    from ropepatch.verify import engines, shape, weights
    from ropepatch.verify.live import AGREEMENT
    from ropepatch.verify.promise import FAILED, PASSED

    sizes = shape.read(checkpoint)
    count = sizes.layers if settings.layers is None else min(settings.layers, sizes.layers)
    ropes = shape.ropes(checkpoint.profile, sizes, count, None)
    device = engines.device_of(settings.device)
    options: dict[str, Any] = {"device": device, "dtype": getattr(torch, settings.dtype)}
    tensors = weights.open_weights(checkpoint)
    plain, ours = Decoder(tensors, sizes, ropes, **options), GroupedDecoder(tensors, sizes, ropes, **options)
    ours.how = how
    length = min(max(checkpoint.profile.declared_context or 0, how.window + 2), how.window + _BEYOND)
    tokens = torch.randint(0, plain.vocabulary, (1, length), generator=torch.Generator().manual_seed(_SEED))
    near, far = [0, how.window - 1], list(range(length - _LAST, length)) if length > _LAST else [length - 1]
    with torch.inference_mode():
        rows = [engine.log_probabilities(engine.states(tokens, torch.arange(length))[0][0, [*near, *far]])
                for engine in (plain, ours)]  # fmt: skip
    kept = float((rows[1] - rows[0])[: len(near)].abs().max())
    changed = float((rows[1] - rows[0])[len(near) :].abs().max())
    numbers: dict[str, Any] = {"group": how.group, "window": how.window, "tokens": length, "near": kept, "far": changed}
    limit = AGREEMENT[settings.dtype]
    good = kept <= limit and (changed > limit or how.group == 1)
    told = f"far log-probabilities change by up to {changed:.2g}, near ones by {kept:.1g}"
    if settings.engine == "transformers":
        loaded = engines.TransformersEngine(checkpoint, settings.layers, device, settings.dtype)
        with self_extend(loaded.model, group=how.group, window=how.window):
            theirs = loaded.log_probabilities(tokens[0].tolist(), range(length), [*near, *far])
        apart = float((torch.from_numpy(theirs) - rows[1].double().cpu()).abs().max())
        numbers["transformers"] = apart
        good = good and apart <= limit
        told += f"; transformers differs from the built-in decoder by {apart:.1g}, limit {limit:g}"
    return Check("self-extend", PASSED if good else FAILED, told, numbers)


_SEED, _BEYOND, _LAST = 11, 1024, 8
