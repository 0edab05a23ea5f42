"""The tensors of a model by their part in a layer, in slices that are read when they are needed, or held."""

from __future__ import annotations

from typing import Any

from ropepatch.errors import InputError
from ropepatch.verify.weights import Weights

#: bytes of float32 that a slice of a matrix may have
SLICE = 128 << 20
_BIASES = ("q_bias", "k_bias", "v_bias", "o_bias", "gate_bias", "up_bias", "down_bias")


def rows_of_a_slice(columns: int) -> int:
    """How many rows of a matrix with so many columns are read at once."""
    return max(1, SLICE // (4 * columns))


class Held:
    """Slices of weights that stay in memory.

    Args:
        limit: how many bytes they may have together; None for any number.
    """

    def __init__(self, limit: int | None = 0) -> None:
        self.limit, self.taken = limit, 0
        self.slices: dict[tuple[str, int, int], Any] = {}

    def add(self, key: tuple[str, int, int], value: Any) -> None:
        """Keep a slice if there is room."""
        size = value.numel() * value.element_size()
        if self.limit is None or self.taken + size <= self.limit:
            self.slices[key] = value
            self.taken += size


class Tensors:
    """What a decoder multiplies by.

    Args:
        weights: the tensors.
        device: a torch device.
        dtype: a torch dtype.
        held: what stays of them in memory.
    """

    def __init__(self, weights: Weights, device: Any, dtype: Any, held: Held) -> None:
        self.weights, self.device, self.dtype, self._held = weights, device, dtype, held

    def share(self, other: Tensors) -> None:
        """Hold the weights that another decoder of the same model holds, instead of copies."""
        self._held = other._held

    def _need(self, role: str, layer: int | None, *sizes: int | None) -> str:
        name = self.weights.role(role, layer)
        found = self.weights.shape(name)
        if found is None:
            raise InputError(f"there is no tensor {name}, which a decoder of the llama family has")
        if len(found) != len(sizes) or any(want not in (None, have) for have, want in zip(found, sizes, strict=True)):
            raise InputError(f"tensor {name} has shape {list(found)}, not {list(sizes)} as the metadata says")
        return name

    def _has(self, role: str, layer: int) -> bool:
        return self.weights.shape(self.weights.role(role, layer)) is not None

    def _rows(self, name: str, start: int, stop: int) -> Any:
        key = (name, start, stop)
        if key in self._held.slices:
            return self._held.slices[key]
        value = self.weights.rows(name, start, stop).to(self.device, self.dtype)
        self._held.add(key, value)
        return value

    def _vector(self, role: str, layer: int | None) -> Any:
        name = self.weights.role(role, layer)
        return self._rows(name, 0, (self.weights.shape(name) or (0,))[0])

    def _linear(self, x: Any, role: str, layer: int, first: int = 0, last: int | None = None) -> Any:
        """``x`` by rows ``first`` to ``last`` of a matrix, and its bias, in slices."""
        import torch

        name = self.weights.role(role, layer)
        rows, columns = self.weights.shape(name) or (0, 0)
        last = rows if last is None else last
        step = rows_of_a_slice(columns)
        parts = [x @ self._rows(name, at, min(at + step, last)).T for at in range(first, last, step)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        bias = f"{role}_bias"
        if bias in _BIASES and self._has(bias, layer):
            y = y + self._vector(bias, layer)
        return y
