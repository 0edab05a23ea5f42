"""Collect what transformers' config and rotary classes say about RoPE that no config.json does.

Run once under each line of transformers; a run replaces its own line and keeps the other:

    python tools/collect_hf_defaults.py

writes `ropepatch/dialects/hf_class_defaults.json` (package data: class defaults and facts of each model type) and
`tests/data/hf_rotary_<version>.json.gz` (what each rotary module computed from the full and from the sparse config).

Facts are found by behaviour: a key counts as read when another value of it changes the module's frequencies. Only what
no call on a CPU shows without a model (which layers skip RoPE) stands in a table here.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import inspect
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import hf_walk as walk  # noqa: E402

VERSION = walk.transformers.__version__
SCHEMA = "ropepatch.hf-class-defaults/1"

# Config keys that say something about RoPE, by name.
KEY = re.compile(
    r"rope|rotary|theta|head_dim|layer_types$|layer_type$|sliding|local_attention|attn_every|interval|every_n"
    r"|position_embeddings?$|position_embedding_type|n_positions|max_seq|seq_length|max_sequence_length"
    r"|use_mem_rope|alibi$|attn_temperature|floor_scale|attn_scale$|mla|attn_config"
)
PLAIN = ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "d_model", "n_embd",
         "n_head", "n_layer", "n_heads", "n_layers", "attention_head_size", "kv_channels", "attn_config",
         "per_layer_config")  # fmt: skip
DROP = re.compile(r"vision|image|mtp|indexer|audio|tokenizer|norm|bias|mask|init|conv")

# Keys that could set the width or the base of some class; which of them do is found by trying.
WIDTH_KEYS = ("head_dim", "hidden_size", "num_attention_heads", "partial_rotary_factor", "rotary_pct", "rotary_dim",
              "qk_rope_head_dim", "kv_channels", "attention_head_size", "d_model", "n_embd", "n_heads",
              "global_head_dim", "swa_head_dim", "index_head_dim", "projection_dim", "attention_hidden_size",
              "qk_head_dim", "qk_nope_head_dim", "v_head_dim", "swa_partial_rotary_factor",
              "rotary_emb_fraction")  # fmt: skip
BASE_KEYS = ("rope_theta", "rotary_emb_base", "rotary_embedding_base", "rope_local_base_freq", "global_rope_theta",
             "local_rope_theta", "swa_rope_theta", "compress_rope_theta", "rope_ratio")  # fmt: skip
LAYER_KEYS = ("sliding_window_pattern", "_sliding_window_pattern", "layer_types", "use_sliding_window",
              "max_window_layers", "sliding_window", "no_rope_layer_interval", "no_rope_layers",
              "global_attn_every_n_layers", "full_attention_interval", "full_attn_interval")  # fmt: skip

# Which layers rotate, as the attention or model code tests it. Lines: both unless one is named.
#   window      only layers whose layer type is sliding_attention
#   window-any  every layer where sliding_window is null, else only sliding_attention layers
#   list        layers whose entry of no_rope_layers is not 0
#   theta       layers whose entry of layer_rope_theta is not 0
#   full        only full_attention layers
#   null        layer types whose entry of rope_parameters is null do not rotate
#   flag K      only if the config's K is true (position_embedding_type: only if it has the value behind "=")
ROTATES = {
    "afmoe":             "window",
    "cohere2":           "window",
    "cohere2_moe":       "window",      # and layers that force_rope names
    "flint":             "window",
    "exaone4":           "window-any",
    "exaone_moe":        "window-any",
    "kolibri1":          "window-any",
    "llama4_text":       "list",
    "mistral_large4_text": "list",
    "smollm3":           "list",
    "granite_swa":       "theta",
    "granitemoe_swa":    "theta",
    "muse_glimmer_text": "theta",
    "muse_spark_text":   "theta",
    "olmo_hybrid":       "full",
    "cohere_compass_text": "null",
    "beam":              "null",
    "zamba2":            "flag use_mem_rope",
    "falcon":            "flag not alibi",
    "esm":               "flag position_embedding_type=rotary",
    "granitemoehybrid":  "flag position_embedding_type=rope",
    "wav2vec2-bert":     "flag position_embeddings_type=rotary",
    "wav2vec2-conformer": "flag position_embeddings_type=rotary",
    "seamless_m4t":      "flag position_embeddings_type=rotary",
}  # fmt: skip


# Classes whose forward takes no positions; their sources join the two halves.
HALF = {"ClvpRotaryPositionalEmbedding", "Wav2Vec2BertRotaryPositionalEmbedding", "RotaryEmbedding",
        "IdeficsEmbedding", "PhimoeRotaryEmbedding",
        "Wav2Vec2ConformerRotaryPositionalEmbedding", "SeamlessM4TConformerRotaryPositionalEmbedding"}  # fmt: skip


def main() -> None:
    """Collect under the installed transformers and merge into the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--defaults", type=Path, default=ROOT / "ropepatch/dialects/hf_class_defaults.json")
    parser.add_argument("--vectors", type=Path, default=ROOT / f"tests/data/hf_rotary_{VERSION}.json.gz")
    parser.add_argument("--only", nargs="*", help="model types to collect (for trying this script)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    entries, vectors = {}, Vectors()
    for model_type in arguments.only or walk.all_model_types():
        entry = collect(model_type, vectors)
        if entry is not None:
            entries[model_type] = entry
    if arguments.only:
        print(json.dumps(entries, indent=1))
        return
    write_vectors(arguments.vectors, vectors)
    write_defaults(arguments.defaults, entries)
    print(f"{VERSION}: {len(entries)} model types, {len(vectors.models)} build a rotary module")


def collect(model_type: str, vectors: Vectors) -> dict[str, Any] | None:
    """Defaults and facts of one model type, or None where no rotary class belongs to it; records its vectors."""
    try:
        config = walk.default_config(model_type)
    except walk.Unbuildable as error:
        vectors.skipped[model_type] = str(error)
        return None
    try:
        path = walk.text_path(config)
    except walk.Unbuildable as error:
        if "Error" not in str(error):
            return None  # nothing to build, here or below
        vectors.skipped[model_type] = str(error)
        return {"defaults": rope_keys(config), "facts": {"unbuildable": str(error)}}
    vectors.add(model_type, config, path)
    if path:
        text = walk.text_config(config)
        entry = {"text": ".".join(path), "text_type": text.model_type}
        plain = rope_keys(walk.default_config(text.model_type)) if text.model_type in walk.all_model_types() else {}
        changed = {k: v for k, v in rope_keys(text).items() if plain.get(k) != v}
        return {"defaults": {**entry, **({"text_defaults": changed} if changed else {})}, "facts": {}}
    return {"defaults": rope_keys(config), "facts": facts(model_type, config)}


# --- class defaults ---------------------------------------------------------------------------------------------------


def rope_keys(config: Any) -> dict[str, Any]:
    """The keys of a config that bear on RoPE, nulls left out, with what its class computes or defines besides."""
    values = json_safe(config.to_dict())
    found = {}
    for key, value in values.items():
        if (key in PLAIN or KEY.search(key)) and not DROP.search(key) and value is not None:
            found[key] = value
    n = getattr(config, "num_hidden_layers", None)
    for key, value in found.items():
        if isinstance(value, list) and len(value) > 8 and len(value) == n:
            found[key] = per_layer(config, key, value)
    computed = {k: v for k in ("head_dim", "max_position_embeddings", "hidden_size", "num_attention_heads",
                               "num_hidden_layers", "rope_theta", "partial_rotary_factor", "rotary_ndims")
                if k not in found and isinstance(v := safe_get(config, k), (int, float))}  # fmt: skip
    if computed:
        found["(computed)"] = computed
    aliases = {k: v for k, v in (getattr(type(config), "attribute_map", None) or {}).items()
               if k in PLAIN or KEY.search(k)}  # fmt: skip
    if aliases:
        found["(aliases)"] = aliases
    for name in ("default_theta", "default_rope_type", "_rope_type_labels", "default_partial_rotary_factor"):
        value = getattr(type(config), name, None)
        if value not in (None, 10000.0, "default"):
            found[f"({name})"] = json_safe(value)
    return found


def per_layer(config: Any, key: str, value: list[Any]) -> Any:
    """A list with one entry a layer, as the rule that the class makes it by, where other depths show one.

    {"cycle": [...]} repeats; "last" says what the last layer is besides; {"runs": [[entry, count], ...]} otherwise.
    """
    others = [value]
    for n in (len(value) + 1, 2 * len(value) + 3):
        try:
            other = getattr(walk.default_config(config.model_type, num_hidden_layers=n), key)
        except walk.Unbuildable:
            break
        others.append(json_safe(other))
    whole = len(others) == 3 and all(isinstance(o, list) for o in others)
    if whole and [len(o) for o in others] == [len(value), len(value) + 1, 2 * len(value) + 3]:
        for period in range(1, min(17, len(value) + 1)):
            cycle = value[:period]
            fits = [[cycle[i % period] for i in range(len(o))] for o in others]
            if fits == others:
                return {"cycle": cycle}
            if [f[:-1] for f in fits] == [o[:-1] for o in others] and len({str(o[-1]) for o in others}) == 1:
                return {"cycle": cycle, "last": value[-1]}
    runs: list[list[Any]] = []
    for entry in value:
        if runs and runs[-1][0] == entry:
            runs[-1][1] += 1
        else:
            runs.append([entry, 1])
    return {"runs": runs}


def safe_get(config: Any, key: str) -> Any:
    """An attribute, or None where asking for it raises (configs whose layers differ refuse some)."""
    try:
        return getattr(config, key, None)
    except Exception:
        return None


def json_safe(value: Any) -> Any:
    """The value as JSON would give it back; what JSON cannot hold becomes its name."""
    return json.loads(json.dumps(value, default=lambda o: list(o) if isinstance(o, (set, tuple)) else str(o)))


# --- facts by behaviour -----------------------------------------------------------------------------------------------


def facts(model_type: str, config: Any) -> dict[str, Any]:
    """What the rotary class and the code around it do that the config does not state."""
    before = walk.rotary(config)
    modules = walk.build(config)
    found: dict[str, Any] = {"class": type(next(iter(modules.values()))).__name__, "groups": sorted(before)}
    found["width"] = {g: rotary_dim(v[0], modules[g]) for g, v in sorted(before.items())}
    if len(set(found["width"].values())) == 1:
        found["width"] = next(iter(found["width"].values()))
    if found["groups"] == ["default"]:
        del found["groups"]
    found["width_from"] = width_from(model_type, config, before)
    found["base_from"] = base_from(model_type, config, before)
    found["scaling"] = accepted(config, before)
    found["partial"] = partial(config, before)
    if walk.line() == "5":
        found["fills"] = fills(config)
    found["layout"] = layout(config, modules)
    source = inspect.getsource(walk.modeling_module(type(config)))
    if "mscale_all_dim" in source:
        found["softmax_factor"] = "mscale_all_dim"
    if "get_llama_4_attn_scale" in source:
        found["query_temperature"] = "llama_4_scaling_beta"
    elif "floor_scale" in source:
        found["query_temperature"] = "floor_scale"
    if model_type in ROTATES:
        found["rotates"] = ROTATES[model_type]
    section = getattr(next(iter(modules.values())), "mrope_section", None)
    if section is not None:
        found["mrope_section"] = json_safe(section)
    if "layer_types" in config.to_dict() and config.to_dict()["layer_types"]:
        names = [k for k in LAYER_KEYS if k != "layer_types" and changes_layers(model_type, config, k)]
        if names:
            found["layer_types_from"] = names
    return {k: v for k, v in found.items() if v not in (None, {}, [])}


def rotary_dim(inv_freq: np.ndarray, module: Any) -> int:
    """Rotated channels: two a pair."""
    return 2 * int(inv_freq.size)


def width_from(model_type: str, config: Any, before: dict[str, Any]) -> list[str]:
    """Which keys, given to the config class with another value, change how many channels rotate."""
    found = []
    for key in WIDTH_KEYS:
        for value in other_values(config, key):
            try:
                after = walk.rotary(walk.default_config(model_type, **{key: value}))
            except walk.Unbuildable:
                continue
            if any(after[g][0].size != before[g][0].size for g in before if g in after):
                found.append(key)
                break
    return found


def other_values(config: Any, key: str) -> list[Any]:
    """Values to try for a key: twice and half of what it is, or a plain guess where the class has none."""
    now = safe_get(config, key)
    if isinstance(now, bool) or not isinstance(now, (int, float)) or not now:
        return [0.5] if "factor" in key or "pct" in key or "fraction" in key else [32, 96]
    return [now / 2, now / 4] if isinstance(now, float) else [now * 2, now // 2]


def base_from(model_type: str, config: Any, before: dict[str, Any]) -> dict[str, list[str]]:
    """For each key that sets a base: the groups whose frequencies it moves."""
    found = {}
    for key in BASE_KEYS:
        try:
            after = walk.rotary(walk.default_config(model_type, **{key: 54321.0}))
        except walk.Unbuildable:
            continue
        if set(after) == set(before):
            groups = [g for g in sorted(after) if not same(after[g], before[g])]
        else:
            groups = ["default"]
        if groups:
            found[key] = groups
    return found


def same(a: tuple[np.ndarray, float], b: tuple[np.ndarray, float]) -> bool:
    return a[0].shape == b[0].shape and np.allclose(a[0], b[0], rtol=1e-7, atol=0) and abs(a[1] - b[1]) < 1e-9


def reload(config: Any, spec: dict[str, Any], group: str) -> Any:
    """The config as its class reads it back from a config.json that gives this group this scaling."""
    values = copy.deepcopy(json_safe(config.to_dict()))
    if walk.line() == "4":
        values["rope_scaling"] = spec
    else:
        rope = values.get("rope_parameters") or {}
        if group in rope and isinstance(rope[group], dict):
            rope[group] = {**rope[group], **spec}
        else:
            rope = {**rope, **spec}
        values["rope_parameters"] = rope
    try:
        return type(config).from_dict(values)
    except Exception as error:
        raise walk.Unbuildable(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}") from error


def accepted(config: Any, before: dict[str, Any]) -> dict[str, Any]:
    """For each scaling type: the groups that change when config.json asks for it, or why it does not load or build.

    An empty list means that the class ignores the type. " type" behind a type: only that older spelling, alone, loads.
    """
    top = safe_get(config, "max_position_embeddings") or 4096
    wanted = ("full_attention", "compress", "indexed_attention", "hybrid", "scaled")
    group = next((g for g in wanted if g in before), sorted(before)[0])
    found: dict[str, Any] = {}
    for kind in ("linear", "dynamic", "yarn", "longrope", "llama3", *(["proportional"] if walk.line() == "5" else [])):
        specs = [scaling_spec(kind, min(top, 8192), before[group][0].size)]
        old = {k: v for k, v in specs[0].items() if k not in ("rope_type", "original_max_position_embeddings")}
        if kind == "longrope":
            old.pop("factor")
            specs.append(specs[0] | {"short_mscale": 1.25, "long_mscale": 1.5})
        if walk.line() == "4":
            specs.append({"type": kind, **old})
        for n, spec in enumerate(specs):
            try:
                after = walk.rotary(reload(config, spec, group), length=4 * top if kind == "dynamic" else None)
            except walk.Unbuildable as error:
                found.setdefault(kind, "error: " + str(error)[:90])
                continue
            found.pop(kind, None)
            name = kind if n == 0 else f"{kind} type" if "type" in spec else f"{kind} mscale"
            found[name] = [g for g in sorted(after) if g not in before or not same(after[g], before[g])]
            break
    return compact_scaling(found, sorted(before))


def scaling_spec(kind: str, original: int, pairs: int) -> dict[str, Any]:
    """A complete scaling of this type, large enough to change any frequencies."""
    spec: dict[str, Any] = {"rope_type": kind, "factor": 4.0}
    if kind in ("yarn", "longrope", "llama3"):
        spec["original_max_position_embeddings"] = original
    if kind == "llama3":
        spec |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "longrope":
        spec |= {"short_factor": [1.5] * pairs, "long_factor": [2.5] * pairs}
    return spec


def compact_scaling(found: dict[str, Any], groups: list[str]) -> dict[str, Any]:
    """The usual answers in one word: {"all": ...} where every type does the same."""
    values = list(found.values())
    if all(v == values[0] for v in values):
        return {"all": values[0]}
    common = max((json.dumps(v) for v in values), key=[json.dumps(v) for v in values].count)
    return {"all": json.loads(common), **{k: v for k, v in found.items() if json.dumps(v) != common}}


PARTIAL = {(True, True): "always", (False, True): "scaled", (True, False): "default", (False, False): "never"}


def partial(config: Any, before: dict[str, Any]) -> str:
    """Where a partial factor of a half narrows the rotation: "always", with "scaled" types only, "never"."""
    wanted = ("full_attention", "compress", "indexed_attention", "hybrid")
    group = next((g for g in wanted if g in before), sorted(before)[0])
    answers = []
    for kind in ("default", "linear"):
        try:
            one = reload(config, {"rope_type": kind, "factor": 4.0, "partial_rotary_factor": 1.0}, group)
            half = reload(config, {"rope_type": kind, "factor": 4.0, "partial_rotary_factor": 0.5}, group)
            if walk.line() == "4":
                one.partial_rotary_factor, half.partial_rotary_factor = 1.0, 0.5
            answers.append(walk.rotary(half)[group][0].size < walk.rotary(one)[group][0].size)
        except (walk.Unbuildable, KeyError, AttributeError):
            answers.append(False)
    return PARTIAL[answers[0], answers[1]]


def fills(config: Any) -> Any:
    """What the class makes of a config.json whose rope_parameters say no more than the type, beside its other keys."""
    values = copy.deepcopy(json_safe(config.to_dict()))
    values = {k: v for k, v in values.items() if k not in ("rope_theta", "partial_rotary_factor", "rope_scaling")}
    values["rope_parameters"] = {"rope_type": "default"}
    try:
        made = json_safe(type(config).from_dict(values).rope_parameters)
    except Exception as error:
        return f"error: {type(error).__name__}"
    return {k: v for k, v in made.items() if k != "rope_type"}


def changes_layers(model_type: str, config: Any, key: str) -> bool:
    now = safe_get(config, key)
    tries = [not now] if isinstance(now, bool) else [now + 1] if isinstance(now, int) else [2, True]
    for value in tries:
        try:
            if walk.default_config(model_type, **{key: value}).layer_types != config.layer_types:
                return True
        except (walk.Unbuildable, AttributeError):
            continue
    return False


def layout(config: Any, modules: dict[str, Any]) -> str | None:
    """Which channels turn together: "half" (i, i + d/2) or "interleaved" (2i, 2i + 1), by turning unit vectors."""
    group, module = next(iter(modules.items()))
    if type(module).__name__ in HALF:
        return "half"
    space = vars(sys.modules[type(module).__module__])
    try:
        cos, sin = rows(module, group if group in walk._layer_types(module) else None)
    except TypeError:
        return None
    if sin is None:
        return "interleaved"  # complex form: torch.view_as_complex takes neighbours
    names = [n for n in ("apply_rotary_pos_emb_interleave", "apply_multimodal_rotary_pos_emb", "apply_rotary_pos_emb",
                         "apply_rotary_emb") if n in space]  # fmt: skip
    if "apply_rotary_pos_emb_interleave" in names and safe_get(config, "rope_interleave") is False:
        names.remove("apply_rotary_pos_emb_interleave")
    for name in names:
        for width in (cos.shape[-1], 2 * cos.shape[-1]):
            partner = turned_with_first(space[name], cos, sin, width)
            if partner is not None:
                return {1: "interleaved", width // 2: "half"}.get(partner)
    return None


def rows(module: Any, layer_type: str | None) -> tuple[Any, Any]:
    """cos and sin of position 1 as the module gives them; sin is None for the complex form."""
    arguments = {} if layer_type is None else {"layer_type": layer_type}
    x = torch.zeros(1, 1, 4)
    fitted = copy.deepcopy(module)
    if hasattr(module, "mrope_section") and hasattr(module, "inv_freq"):  # class defaults do not always fit
        third = module.inv_freq.numel() // 3
        fitted.mrope_section = [module.inv_freq.numel() - 2 * third, third, third]
    calls = [
        lambda m, shape=shape: m(x, torch.ones(shape, dtype=torch.long), **arguments) for shape in ((1, 1), (3, 1, 1))
    ]
    calls.append(lambda m: m(x, seq_len=2))
    for one in (module, fitted):
        for call in calls:
            try:
                out = call(one)
            except (RuntimeError, IndexError, TypeError, AttributeError):
                continue
            if isinstance(out, torch.Tensor):
                return out, None
            return tuple(t.reshape(-1, t.shape[-1])[-1:] for t in out)
    raise TypeError("no form of forward fits")


def turned_with_first(apply: Any, cos: Any, sin: Any, width: int) -> int | None:
    """Index of the unit vector whose image lies in the same two channels as the first one's."""
    unit = torch.eye(width)[None, None]
    cos, sin = (t.expand(1, width, t.shape[-1]) for t in (cos, sin))
    for call in (
        lambda: apply(unit, unit, cos, sin)[0],
        lambda: apply(unit, cos, sin),
        lambda: apply(unit, unit, *(t.expand(3, 1, width, -1) for t in (cos, sin)), [width // 2, 0, 0])[0],
        lambda: apply(unit.transpose(1, 2), cos, sin, unsqueeze_dim=2).transpose(1, 2),
    ):
        try:
            image = call()
        except Exception:
            continue
        if not isinstance(image, torch.Tensor) or image.shape[-2:] != (width, width):
            continue
        support = [frozenset(torch.nonzero(row.abs() > 1e-6).flatten().tolist()) for row in image.reshape(width, width)]
        partners = [i for i in range(1, width) if support[i] == support[0] and len(support[0]) == 2]
        if len(partners) == 1:
            return partners[0]
    return None


# --- outputs ----------------------------------------------------------------------------------------------------------


class Vectors:
    """Recorded results, equal vectors stored once."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.arrays: dict[str, list[float]] = {}
        self.skipped: dict[str, str] = {}

    def add(self, model_type: str, config: Any, path: tuple[str, ...]) -> None:
        """One model type: its configs and what its rotary modules give, short and (where that differs) long."""
        top = safe_get(walk.text_config(config), "max_position_embeddings") or 4096
        entry = {"text": ".".join(path), "full": json_safe(config.to_dict()), "sparse": sparse(config)}
        short = walk.rotary(config)
        entry["groups"] = self._groups(short)
        if isinstance(top, int):
            long = walk.rotary(config, length=4 * top)
            if any(not close(long[g], short[g]) for g in short):
                entry["long"] = {"length": 4 * top, "groups": self._groups(long)}
        self.models[model_type] = entry

    def _groups(self, found: dict[str, Any]) -> dict[str, Any]:
        return {g: {"inv_freq": self._store(a), "attention_scaling": s} for g, (a, s) in sorted(found.items())}

    def _store(self, array: np.ndarray) -> str:
        single = array.astype(np.float32)
        name = hashlib.sha256(single.tobytes()).hexdigest()[:12]
        # nine digits give each float32 back exactly
        self.arrays.setdefault(name, [float(f"{v:.9g}") for v in single.tolist()])
        return name


def close(a: tuple[np.ndarray, float], b: tuple[np.ndarray, float]) -> bool:
    return a[0].shape == b[0].shape and np.allclose(a[0], b[0], rtol=1e-5, atol=0) and abs(a[1] - b[1]) < 1e-6


def sparse(config: Any) -> dict[str, Any] | None:
    """config.json as save_pretrained writes it (keys equal to the class default left out), or None where that fails."""
    try:
        return dict(json.loads(config.to_json_string(use_diff=True)))
    except Exception:  # a few classes cannot be compared with their own default
        return None


def write_vectors(path: Path, vectors: Vectors) -> None:
    document = {"transformers": VERSION, "models": vectors.models, "inv_freq": vectors.arrays}
    document["skipped"] = vectors.skipped
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.write(json.dumps(document, separators=(",", ":"), sort_keys=True).encode())


def write_defaults(path: Path, entries: dict[str, Any]) -> None:
    """One line a model type: what both lines agree on once, the rest under the version that says it."""
    lines: dict[str, dict[str, Any]] = {}
    if path.exists():
        old = json.loads(path.read_text())
        for version in old["transformers"]:
            if version.split(".")[0] != VERSION.split(".")[0]:
                lines[version] = unmerge(old["models"], version)
    lines[VERSION] = entries
    models = {}
    for name in sorted({n for one in lines.values() for n in one}):
        models[name] = merge({v: one[name] for v, one in sorted(lines.items()) if name in one}, len(lines))
    body = ",\n".join(f"{json.dumps(n)}: {json.dumps(m, separators=(',', ':'))}" for n, m in models.items())
    head = json.dumps({"schema": SCHEMA, "transformers": sorted(lines)})[1:-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{{head}, "models": {{\n{body}\n}}}}\n')


def merge(versions: dict[str, Any], count: int) -> dict[str, Any]:
    """{"lines": [...], "config": agreed, "facts": agreed, "<version>": {"config": ..., "facts": ...}}."""
    merged: dict[str, Any] = {} if len(versions) == count else {"lines": sorted(versions)}
    for part, source in (("config", "defaults"), ("facts", "facts")):
        values = [one[source] for one in versions.values()]
        agreed = {k: v for k, v in values[0].items() if all(k in o and o[k] == v for o in values)}
        if agreed:
            merged[part] = agreed
        for version, one in versions.items():
            rest = {k: v for k, v in one[source].items() if k not in agreed}
            if rest:
                merged.setdefault(version, {})[part] = rest
    return merged


def unmerge(models: dict[str, Any], version: str) -> dict[str, Any]:
    """The entries of one line as `collect` gave them."""
    found = {}
    for name, entry in models.items():
        if version in entry.get("lines", [version]):
            own = entry.get(version, {})
            found[name] = {"defaults": {**entry.get("config", {}), **own.get("config", {})},
                           "facts": {**entry.get("facts", {}), **own.get("facts", {})}}  # fmt: skip
    return found


if __name__ == "__main__":
    main()
