"""What Mistral's and Meta's ``params.json`` have in common: telling them apart, reading numbers, making edits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropepatch.errors import InputError, MethodUnsupported
from ropepatch.methods.base import Method
from ropepatch.methods.none import NoScaling
from ropepatch.patch import Edit, Value, difference
from ropepatch.profile import RopeGroup

#: larger than any head, model or layer count; beyond it a file is broken or hostile
MAX_WIDTH = 1 << 20
MAX_LAYERS = 1 << 16
MAX_CONTEXT = 1 << 40
CONTEXT_KEYS = ("max_position_embeddings", "max_seq_len")
#: keys that Meta's code and its descendants (ExecuTorch, tt-metal) have and Mistral's has not
_META_KEYS = frozenset(
    {
        "ffn_dim_multiplier", "multiple_of", "no_rope_layer_interval", "nope_layer_interval", "rope_freq_base",
        "rope_scale_factor", "rope_scaling_factor", "use_hf_rope", "use_scaled_rope",
    }
)  # fmt: skip
_MISTRAL_KEYS = frozenset({"head_dim", "hidden_dim", "llama_4_scaling", "moe", "sliding_window", "yarn"})


def is_params(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a ``params.json`` and no transformers config."""
    own = {"dim", "n_heads", "n_layers"} <= document.keys()
    return own and not document.keys() & {"architectures", "hidden_size", "num_attention_heads", "transformers_version"}


def is_meta(document: Mapping[str, Any]) -> bool:
    """Whether a ``params.json`` is Meta's spelling rather than Mistral's."""
    return bool(document.keys() & _META_KEYS) or not document.keys() & _MISTRAL_KEYS


class Params:
    """An opened ``params.json``.

    Attributes:
        root: the folder that edits' file names are relative to.
        path: the file.
        given: what it holds.
    """

    def __init__(self, root: Path, path: Path, given: Mapping[str, Any]) -> None:
        self.root = root
        self.path = path
        self.given = given

    def files(self) -> list[Path]:
        """The parameters, then the weights."""
        return [self.path, *sorted(self.root.glob("*.safetensors"))]

    def number(self, *names: str, limit: float = math.inf, within: Mapping[str, Any] | None = None) -> float | None:
        """The first of ``names`` that has a value, None where none has.

        Raises:
            InputError: it is no positive finite number up to ``limit``.
        """
        source = self.given if within is None else within
        for name in names:
            value = source.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= limit:
                raise InputError(f"is {value!r:.60}, not a usable number", where=f"{self.path}: {name}")
            if value == math.inf:
                raise InputError("is infinite", where=f"{self.path}: {name}")
            return value
        return None

    def whole(self, *names: str, limit: float, within: Mapping[str, Any] | None = None) -> int | None:
        """As :meth:`number`, a whole one."""
        value = self.number(*names, limit=limit, within=within)
        if value is not None and value != int(value):
            raise InputError(f"is {value!r}, not a whole number", where=f"{self.path}: {names[0]}")
        return None if value is None else int(value)

    def section(self, name: str) -> Mapping[str, Any] | None:
        """The object under ``name``, None where there is none.

        Raises:
            InputError: it is another kind of value.
        """
        value = self.given.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"is {value!r:.60}, not an object", where=f"{self.path}: {name}")
        return value or None

    def head_dim(self) -> int:
        """The dimensions of one head.

        Raises:
            InputError: the file does not say.
        """
        head = self.whole("head_dim", limit=MAX_WIDTH)
        if head is None:
            width = self.whole("dim", limit=MAX_WIDTH * 64)
            heads = self.whole("n_heads", limit=MAX_WIDTH)
            head = width // heads if width and heads else None
        if not head or head < 2 or head % 2:
            raise InputError("says neither head_dim nor dim and n_heads", where=str(self.path))
        return head

    def context(self) -> int | None:
        """The declared context in tokens, where the file has one."""
        return self.whole(*CONTEXT_KEYS, limit=MAX_CONTEXT)

    def layers(self) -> int:
        """How many layers there are, 0 where the file does not say."""
        return self.whole("n_layers", limit=MAX_LAYERS) or 0

    def context_values(self, declared: int | None, *, add: bool) -> dict[str, Any]:
        """The values that declare a context: every key that the file has one under, else one more when ``add``."""
        if declared is None:
            return {}
        keys = [key for key in CONTEXT_KEYS if self.given.get(key) is not None]
        return dict.fromkeys(keys or (CONTEXT_KEYS[:1] if add else ()), declared)

    def edits(self, wanted: Mapping[str, Any]) -> list[Edit]:
        """The edits that set each key of ``wanted``; None takes the key away."""
        before: dict[tuple[str, ...], Value] = {(key,): Value(self.given[key]) for key in wanted if key in self.given}
        after: dict[tuple[str, ...], Value | None] = {
            (key,): None if value is None else Value(value)
            for key, value in wanted.items()
            if value is not None or key in self.given
        }
        return difference(self.path.name, "json", before, after)


def changed_base(group: RopeGroup) -> float | None:
    """The base that alone makes ``group``, None for a method that is more than a base."""
    scaling: Method = group.scaling
    if isinstance(scaling, NoScaling):
        return group.rope_theta
    return scaling.theta(group.spectrum()) if scaling.rebases() else None


def refuse(path: Path, group: RopeGroup, fits: str) -> MethodUnsupported:
    """The refusal of a method that the file cannot hold; ``fits`` names those that it can."""
    name = group.scaling.to_json().get("method", group.scaling.name)
    return MethodUnsupported(f"{path.name} has no key for {name}", where=str(path), hint=f"it can hold {fits}")
