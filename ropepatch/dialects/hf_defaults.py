"""What a config leaves out: transformers' config classes and rotary classes, by model type and line.

The data, ``hf_class_defaults.json``, is written by ``tools/collect_hf_defaults.py`` from installed transformers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: rotary classes that transformers has and the walk cannot build: sinusoids at a fixed base, no scaling
_GPTJ = {"n_embd": 4096, "n_head": 16, "rotary_dim": 64, "n_positions": 2048}
_FIXED: dict[str, dict[str, Any]] = {
    "gptj": _GPTJ,
    "codegen": _GPTJ,
    "roformer": {"hidden_size": 768, "num_attention_heads": 12, "max_position_embeddings": 1536},
}


#: language models with learned positions, ALiBi, relative biases or no attention, which people point the tool at
WITHOUT_ROPE = frozenset(
    {
        "albert", "bart", "bert", "biogpt", "bloom", "camembert", "ctrl", "deberta", "deberta-v2", "distilbert",
        "electra", "gpt2", "gpt_bigcode", "gpt_neo", "imagegpt", "jamba", "kimi_linear", "mamba", "mamba2", "mbart",
        "mpt", "mt5", "openai-gpt", "opt", "pegasus", "roberta", "rwkv", "t5", "transfo-xl", "umt5", "whisper", "xglm",
        "xlm-roberta", "xlnet",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Defaults:
    """What transformers adds for one model type.

    Attributes:
        model_type: the model type.
        line: the transformers release that the values are of; empty when the type is unknown.
        values: config keys with the class's values.
        facts: what the rotary class does; see the tool's docstring.
        disagree: keys for which the lines have different defaults.
        only_new: whether transformers 4 does not know the model type.
    """

    model_type: str = ""
    line: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    disagree: tuple[str, ...] = ()
    only_new: bool = False

    @property
    def known(self) -> bool:
        """Whether transformers has a rotary class for the model type."""
        return bool(self.line)

    @property
    def layout(self) -> str:
        """``half`` or ``interleaved``."""
        return str(self.facts.get("layout", "half"))

    @property
    def partial(self) -> str:
        """When ``partial_rotary_factor`` counts: ``always``, ``scaled``, ``default`` (scaling off) or ``never``."""
        return str(self.facts.get("partial", "always"))

    @property
    def width_from(self) -> tuple[str, ...]:
        """The keys that move the rotary width."""
        return tuple(self.facts.get("width_from", ()))

    @property
    def fixed(self) -> bool:
        """Whether the class computes its angles from constants, so that nothing in a config changes them."""
        return self.model_type in _FIXED

    def takes(self, kind: str) -> str | None:
        """Why the class does not take the rope type ``kind``; None when it does."""
        scaling = self.facts.get("scaling")
        if scaling is None:
            return None
        found = scaling.get(kind, scaling.get("all"))
        if isinstance(found, str):
            # The probe of a class with an odd default width; a real width is checked where it is known.
            return None if "size of tensor" in found else found.removeprefix("error: ")
        return None if found else "transformers' rotary class for it ignores or refuses that"


@functools.lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    from importlib import resources

    path = resources.files("ropepatch") / "dialects" / "hf_class_defaults.json"
    table: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    return table


def lines() -> tuple[str, ...]:
    """The transformers releases that the data was collected from, oldest first."""
    return tuple(_table()["transformers"])


def lookup(model_type: str, version: str | None) -> Defaults:
    """The defaults of ``model_type`` in the line of the transformers ``version`` that wrote the config."""
    if model_type in _FIXED:
        facts = {"layout": "interleaved", "scaling": {"all": []}, "partial": "always"}
        return Defaults(model_type, lines()[-1], {"rope_theta": 10000.0, **_FIXED[model_type]}, facts)
    entry = _table()["models"].get(model_type)
    if entry is None:
        return Defaults(model_type)
    old, new = lines()[0], lines()[-1]
    line = old if version is not None and version.split(".")[0] == "4" else new
    if line not in entry.get("lines", (old, new)):
        line = entry["lines"][0]
    if "unbuildable" in entry.get(line, {}).get("facts", {}):
        line = new if line == old else old
    own, other = entry.get(line, {}), entry.get(new if line == old else old, {})
    values = {**entry.get("config", {}), **own.get("config", {})}
    facts = {**entry.get("facts", {}), **own.get("facts", {})}
    disagree = tuple(sorted(set(own.get("config", {})) & set(other.get("config", {}))))
    return Defaults(model_type, line, values, facts, disagree, only_new=old not in entry.get("lines", (old, new)))
