"""Walk the model types of the installed transformers and build their rotary modules on a CPU, without the models.

The numbers come from transformers' own classes: nothing here computes a frequency. What this module decides is only
which class serves which config, and which sub-config of a composite model is its language model.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import os
import re
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a few config classes ask the Hub for their timm backbone

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig

transformers.logging.set_verbosity_error()

# Sub-configs that can hold the language model, the likeliest first, and those that are asked only where neither they
# nor the config itself rotates anything.
LANGUAGE_KEYS = ("text_config", "language_config", "llm_config", "vlm_config", "thinker_config", "talker_config",
                 "decoder", "decoder_config")  # fmt: skip
OTHER_KEYS = ("encoder", "encoder_config", "audio_config", "audio_encoder", "backbone_config", "global_config",
              "patcher_config", "dit_config")  # fmt: skip

# Not rotary position embedding along one axis: image towers (two axes), sinusoidal tables, diffusion time steps.
OTHER_CLASSES = re.compile(
    "Vision(?!Text)|ViT|RelPositional|TimeEmbedding|PositionalEmbedding1D|^PositionalEmbedding$|PositionRelation|DINOv3"
    "|Sapiens2|Eomt|MLCD|LoFTR|Pixtral|DiT|EsmFold2|MusicFlamingo"
)

# Where one config class could take several rotary classes, or nothing in the sources leads from one to the other.
CHOSEN = {
    "Qwen3OmniMoeTextConfig":       "Qwen3OmniMoeThinkerTextRotaryEmbedding",
    "Qwen3OmniMoeTalkerTextConfig": "Qwen3OmniMoeTalkerRotaryEmbedding",
    "Qwen2_5OmniTextConfig":        "Qwen2_5OmniRotaryEmbedding",
    "Qwen2_5OmniTalkerConfig":      "Qwen2_5OmniRotaryEmbedding",
    "T5GemmaModuleConfig":          "T5GemmaRotaryEmbedding",
    "DiaEncoderConfig":             "DiaRotaryEmbedding",
    "DiaDecoderConfig":             "DiaRotaryEmbedding",
    "ClvpEncoderConfig":            "ClvpRotaryPositionalEmbedding",
}  # fmt: skip

# Rotary modules that a model builds from more than its config, keeps several of, or hands an edited config: the class
# that owns them, its arguments after the config, and where each group stands on the owner. Built with their weights on
# the meta device, so that the owner's own code decides.
TWO = {"full_attention": "rotary_emb", "sliding_attention": "rotary_emb_local"}
OWNERS: dict[tuple[str, str], tuple[str, tuple[int, ...], dict[str, str]]] = {
    ("4", "chameleon"):          ("ChameleonAttention", (0,), {"default": "rotary_emb"}),
    ("4", "dbrx"):               ("DbrxAttention", (0,), {"default": "rotary_emb"}),
    ("4", "recurrent_gemma"):    ("RecurrentGemmaSdpaAttention", (), {"default": "rotary_emb"}),
    ("4", "idefics"):            ("IdeficsDecoderLayer", (), {"default": "self_attn.rotary_emb"}),
    ("4", "esm"):                ("EsmSelfAttention", (), {"default": "rotary_embeddings"}),
    ("4", "gemma3_text"):        ("Gemma3TextModel", (), TWO),
    ("4", "gemma3n_text"):       ("Gemma3nTextModel", (), TWO),
    ("4", "olmo3"):              ("Olmo3Model", (), {g: f"rotary_embs.{g}" for g in TWO}),
    ("4", "modernbert"):         ("ModernBertModel", (), dict.fromkeys(TWO, "layers.{layer}.attn.rotary_emb")),
    ("4", "modernbert-decoder"): ("ModernBertDecoderModel", (), {"full_attention": "global_rotary_emb",
                                                                 "sliding_attention": "local_rotary_emb"}),
    ("5", "molmo2_text"):        ("Molmo2TextModel", (), {"scaled": "rotary_emb", "unscaled": "rotary_emb_unscaled"}),
    ("5", "granite_swa"):        ("GraniteSWAModel", (), {"theta={theta}": "rotary_embs.*"}),
    ("5", "granitemoe_swa"):     ("GraniteMoeSWAModel", (), {"theta={theta}": "rotary_embs.*"}),
}  # fmt: skip


class Unbuildable(Exception):
    """A config or rotary module of the installed transformers that these arguments do not build."""


def line() -> str:
    """Major version of the installed transformers: "4" or "5"."""
    return str(transformers.__version__.split(".")[0])


@functools.cache
def _config_classes() -> dict[str, type[PretrainedConfig]]:
    """Config class of every model type: the registered ones, and the sub-configs that only their parents name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classes = {name: CONFIG_MAPPING[name] for name in list(CONFIG_MAPPING.keys())}
    todo = list(classes.values())
    while todo:
        subs = getattr(todo.pop(), "sub_configs", None)
        for sub in subs.values() if isinstance(subs, dict) else ():
            name = getattr(sub, "model_type", "")
            if name and name not in classes and sub.__module__.startswith("transformers.models."):
                classes[name] = sub
                todo.append(sub)
    return classes


def all_model_types() -> list[str]:
    """Every model type of the installed transformers, sub-configs included, with or without a rotary module."""
    return sorted(_config_classes())


@functools.cache
def model_types() -> tuple[str, ...]:
    """Model types whose language model (or the model itself) builds a rotary module from default arguments."""
    found = []
    for name in all_model_types():
        try:
            rotary(default_config(name))
        except Unbuildable:
            continue
        found.append(name)
    return tuple(found)


def default_config(model_type: str, **arguments: Any) -> PretrainedConfig:
    """The config that the class of this model type gives with no (or these) arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _config_classes()[model_type](**arguments)
        except Exception as error:  # whatever a config class raises when an argument is mandatory
            text = (str(error).splitlines() or [""])[0][:160]
            raise Unbuildable(f"config: {type(error).__name__}: {text}") from error


def modeling_module(config_class: type[PretrainedConfig]) -> ModuleType | None:
    """The module that holds the models of this config class, or None (no torch model, or a missing dependency)."""
    try:
        return importlib.import_module(config_class.__module__.replace(".configuration_", ".modeling_"))
    except (ImportError, RuntimeError):
        return None


@functools.cache
def _init_source(cls: type) -> str:
    try:
        return inspect.getsource(cls.__init__)
    except (OSError, TypeError):
        return ""


@functools.cache
def rotary_classes(module: ModuleType) -> dict[str, type[nn.Module]]:
    """Classes of a modeling module that keep inverse frequencies of one axis, by name."""
    found = {}
    for name, cls in vars(module).items():
        if not inspect.isclass(cls) or not issubclass(cls, nn.Module) or "__init__" not in vars(cls):
            continue
        init = _init_source(cls)
        buffers = re.search(r"(Buffer|register_buffer)\([^\n]*inv_freq", init) or "ROPE_INIT_FUNCTIONS" in init
        if buffers and not OTHER_CLASSES.search(name):
            found[name] = cls
    return found


def _reached(module: ModuleType, start: type, names: frozenset[str]) -> set[str]:
    """Which of `names` the constructor of `start` builds, itself or through classes of the same module."""
    space = vars(module)
    seen: set[str] = set()
    hits: set[str] = set()
    todo = [start]
    while todo:
        cls = todo.pop()
        if cls.__name__ in names:
            hits.add(cls.__name__)
            continue
        if cls.__name__ in seen or not issubclass(cls, nn.Module):
            continue
        seen.add(cls.__name__)
        for word in set(re.findall(r"\b[A-Z]\w+", _init_source(cls))):
            value = space.get(word)
            todo += [c for c in (value.values() if isinstance(value, dict) else [value]) if inspect.isclass(c)]
    return hits


@functools.cache
def rotary_class(config_class: type[PretrainedConfig]) -> type[nn.Module] | None:
    """The rotary class that models of exactly this config class build, or None."""
    module = modeling_module(config_class)
    classes = rotary_classes(module) if module else {}
    if not classes or module is None:
        return None
    if chosen := CHOSEN.get(config_class.__name__):
        return classes.get(chosen)
    annotated = [c for c in classes.values() if _annotation(c) == config_class.__name__]
    if len(annotated) == 1:
        return annotated[0]
    hits: set[str] = set()
    for model in list(vars(module).values()):
        if inspect.isclass(model) and getattr(model, "config_class", None) is config_class:
            hits |= _reached(module, model, frozenset(classes))
    if len(hits) > 1:
        raise Unbuildable(f"several rotary classes for {config_class.__name__}: {sorted(hits)}")
    return classes[hits.pop()] if hits else None


def _annotation(cls: type) -> str:
    parameter = inspect.signature(cls.__init__).parameters.get("config")
    annotation = "" if parameter is None else parameter.annotation
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def text_path(config: PretrainedConfig) -> tuple[str, ...]:
    """Attributes that lead from a config to the one that its language model's rotary module is built from.

    Raises Unbuildable where neither the config nor any of its sub-configs builds one.
    """
    reasons: list[str] = []
    for key in (*LANGUAGE_KEYS, "", *OTHER_KEYS):
        value = getattr(config, key, None) if key else config
        if not isinstance(value, PretrainedConfig) or (key and value is config):
            continue
        try:
            if key:
                return (key, *text_path(value))
            if (line(), config.model_type) not in OWNERS and rotary_class(type(config)) is None:
                raise Unbuildable(f"{type(config).__name__}: no rotary class of one axis")
            build(config)
            return ()
        except Unbuildable as error:
            reasons.append(f"{key}: {error}" if key else str(error))
    raise Unbuildable("; ".join(reasons))


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config that the rotary module of the language model is built from."""
    for key in text_path(config):
        config = getattr(config, key)
    return config


class _WeightsOnMeta(torch.overrides.TorchFunctionMode):
    """Weights take no memory and no time; what is computed (torch.arange and so on) stays on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _owned(config: PretrainedConfig) -> dict[str, nn.Module] | None:
    """The rotary modules of the models in OWNERS by group, as their own constructor makes them."""
    entry = OWNERS.get((line(), config.model_type))
    if entry is None:
        return None
    name, arguments, groups = entry
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    if config.model_type == "esm":
        config.position_embedding_type = "rotary"
    with _WeightsOnMeta():
        owner = getattr(modeling_module(type(config)), name)(config, *arguments)
    found = {}
    for group, place in groups.items():
        if place.endswith(".*"):
            for module in owner.get_submodule(place[:-2]):
                found[group.format(theta=module.config.rope_parameters["rope_theta"])] = module
        elif "{" in place:
            every = config.global_attn_every_n_layers
            layer = {"full_attention": 0, "sliding_attention": 1 if every > 1 else None}[group]
            if layer is not None and layer < config.num_hidden_layers:
                found[group] = owner.get_submodule(place.format(layer=layer))
        else:
            found[group] = owner.get_submodule(place)
    return found


def build(config: PretrainedConfig) -> dict[str, nn.Module]:
    """The rotary modules of exactly this config by group; a module with several layer types stands under each."""
    config = copy.deepcopy(config)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            found = _owned(config)
            if found is None:
                cls = rotary_class(type(config))
                if cls is None:
                    raise Unbuildable(f"{type(config).__name__}: no rotary class of one axis")
                module = cls(config)
                found = dict.fromkeys(_layer_types(module) or ("default",), module)
        except Unbuildable:
            raise
        except Exception as error:  # whatever a constructor raises for a config that it cannot take
            text = (str(error).splitlines() or [""])[0][:160]
            raise Unbuildable(f"{type(config).__name__}: {type(error).__name__}: {text}") from error
    return found


def _layer_types(module: nn.Module) -> list[str]:
    """Layer types of a module that keeps one set of frequencies for each."""
    return [n[: -len("_inv_freq")] for n, _ in module.named_buffers()
            if n.endswith("_inv_freq") and not n.endswith("original_inv_freq")]  # fmt: skip


def rotary(config: PretrainedConfig, length: int | None = None) -> dict[str, tuple[np.ndarray, float]]:
    """What the language model's rotary modules apply: group -> (inv_freq as float64, attention scaling).

    The module's own forward runs first, on positions up to `length - 1`; without a length, on a short input.
    """
    config = text_config(config)
    found = {}
    for group, module in build(config).items():
        prefix = f"{group}_" if group in _layer_types(module) else ""
        used = _forward(module, prefix[:-1] or None, length or 2)
        inv_freq = getattr(module, f"{prefix}inv_freq", None)
        if inv_freq is not None:  # forward has brought its buffer up to date, or never changes it
            scale = float(getattr(module, f"{prefix}attention_scaling", 1.0))
            kept = inv_freq.detach().double().numpy().reshape(-1), scale
            if used is None or (np.allclose(used[0], kept[0], rtol=1e-6, atol=0) and abs(used[1] - scale) < 1e-6):
                used = kept
        if used is None:
            raise Unbuildable(f"{type(module).__name__}: keeps no inv_freq and its forward takes no positions")
        found[group] = used
    return found


def _forward(module: nn.Module, layer_type: str | None, length: int) -> tuple[np.ndarray, float] | None:
    """Run positions up to `length - 1`; give what was applied where forward does not use the module's own buffer.

    An angle below pi is atan2(sin, cos) exactly, so position 1 gives each frequency back to float32 accuracy.
    """
    names = list(inspect.signature(module.forward).parameters)
    arguments = {} if layer_type is None else {"layer_type": layer_type}
    x = torch.zeros(1, 2, 4, dtype=torch.float32)
    positions = torch.tensor([[1, length - 1]])
    with torch.no_grad():
        if "seq_len" in names and "position_ids" not in names:  # 4.57 PhiMoE
            cos, sin = (t[1] for t in module(x, seq_len=length))
        elif "position_ids" not in names:
            return None
        else:
            out = None
            for shape in ((1, 2), (3, 1, 2), (4, 1, 2)):  # M-RoPE takes a row of positions for each axis
                try:
                    out = module(x, positions.expand(shape), **arguments)
                    break
                except (RuntimeError, IndexError, TypeError):  # default M-RoPE sections that do not fit the dimension
                    continue
            source = inspect.getsource(type(module).forward)
            if out is None or re.search(r"self\.inv_freq|_inv_freq\b|\"inv_freq\"", source):
                return None
            cos, sin = (t[0, 0] for t in out)
    return _once(np.arctan2(sin.double().numpy(), cos.double().numpy())), float(np.median(np.hypot(sin, cos)))


def _once(values: np.ndarray) -> np.ndarray:
    """One value a pair, from a row that repeats them as two halves."""
    return values[: values.size // 2]
