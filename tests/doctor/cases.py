"""For every rule a checkpoint that breaks it and a neighbour that does not; all texts are our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support import tiny

#: a head of 64 dimensions, 32 pairs
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
}
SHORT = [round(1 + 0.01 * pair, 2) for pair in range(32)]
LONG = [1 + 0.5 * pair for pair in range(32)]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
MROPE = {"mrope_section": [8, 12, 12]}
PHI = {"model_type": "phi3", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
PHI_LISTS = {"short_factor": SHORT, "long_factor": LONG}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 8192, **PHI_LISTS}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "factor": 8.0}
GEMMA = {
    "model_type": "gemma3_text",
    "head_dim": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 64,
    "rope_local_base_freq": 10000.0,
}
OLMO = {"model_type": "olmo3", "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
FLAT = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}
NESTED = {"full_attention": FLAT, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}


def scaled(rope: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """A config with a rope_scaling; None takes a key out."""
    return {"rope_scaling": dict(rope), **others}


def both(top: int | None, **rope: Any) -> dict[str, Any]:
    """LongRoPE on a llama, with its original context at the top as well."""
    return scaled({**LONGROPE, **rope}, original_max_position_embeddings=top)


#: rule -> (what breaks it, what does not), laid over LLAMA
HF: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "RP101": (scaled({"rope_type": "linear", "factor": 4}), scaled({"rope_type": "linear", "factor": 4.0})),
    "RP102": (scaled({**YARN, "beta_fast": None}), scaled({**YARN, "beta_fast": 32.0})),
    "RP103": (scaled({**YARN, "type": "linear"}), scaled(YARN)),
    "RP104": (scaled({**YARN, "type": "yarn"}), scaled(YARN)),
    "RP105": (scaled({"factor": 4.0}), scaled({"rope_type": "linear", "factor": 4.0})),
    "RP106": (scaled({"rope_type": "ntk", "factor": 4.0}), scaled({"rope_type": "dynamic", "factor": 4.0})),
    "RP107": (scaled({"type": "su", **PHI_LISTS}, **PHI), scaled({"type": "longrope", **PHI_LISTS}, **PHI)),
    "RP108": (scaled({**YARN, "beta_fsat": 16.0}), scaled({**YARN, "beta_fast": 16.0})),
    "RP109": (scaled({**YARN, "colour": "blue"}), scaled(YARN)),
    "RP121": ({"rope_theta": None, "rope_parameters": {**YARN, "rope_theta": 1e6}}, scaled(YARN)),
    "RP122": (
        scaled({"rope_type": "linear", "factor": 2.0}, rope_parameters={**YARN, "rope_theta": 1e6}),
        scaled(YARN, rope_parameters={**YARN, "rope_theta": 1e6}),
    ),
    "RP123": (scaled({**YARN, "rope_theta": 500000.0}), scaled({**YARN, "rope_theta": 1000000.0})),
    "RP124": ({**GEMMA, "rope_parameters": FLAT}, {**GEMMA, "rope_parameters": NESTED}),
    "RP125": ({**OLMO}, {**OLMO, "rope_theta": 500000}),
    "RP126": ({"partial_rotary_factor": 0.5}, {}),
    "RP127": (
        {"model_type": "gemma3", "text_config": {**LLAMA, **GEMMA}, "rope_scaling": {"type": "linear", "factor": 8.0}},
        {"model_type": "gemma3", "text_config": {**LLAMA, **GEMMA}, "rope_theta": None},
    ),
    "RP128": (
        scaled(YARN, model_type="gptj", n_embd=256, n_head=4, rotary_dim=64, n_positions=2048),
        {"model_type": "gptj", "n_embd": 256, "n_head": 4, "rotary_dim": 64, "n_positions": 2048},
    ),
    "RP129": (
        scaled({**LLAMA3, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}, rope_theta=None),
        scaled({**LLAMA3, "original_max_position_embeddings": 8192}, rope_theta=500000.0),
    ),
    "RP201": (scaled(YARN, max_position_embeddings=8192), scaled(YARN)),
    "RP202": (scaled(YARN, max_position_embeddings=65536), scaled(YARN)),
    "RP203": (scaled({"rope_type": "yarn", "factor": 4.0}), scaled(YARN)),
    "RP204": (
        scaled({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 8192}),
        scaled(YARN),
    ),
    "RP205": (scaled({"type": "longrope", **PHI_LISTS}, **PHI), {}),
    "RP208": ({"seq_length": 2048}, {"seq_length": 32768}),
    "RP209": (
        scaled({**LLAMA3, "original_max_position_embeddings": 32768}),
        scaled({**LLAMA3, "original_max_position_embeddings": 8192}),
    ),
    "RP301": (scaled({**YARN, "attention_factor": 1.0}), scaled(YARN)),
    "RP302": (scaled({**YARN, "attn_factor": 0.8782488562869419}), scaled(YARN)),
    "RP303": (scaled({**YARN, "mscale": 0.707}), scaled(YARN)),
    "RP304": (scaled({**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}), scaled(YARN)),
    "RP305": (scaled({**YARN, "truncate": False}), scaled({**YARN, "truncate": True})),
    "RP306": (scaled({**YARN, "beta_fast": 64.0, "beta_slow": 2.0}), scaled({**YARN, "beta_fast": 32.0})),
    "RP307": (scaled({**YARN, **MROPE}), scaled({"rope_type": "default", **MROPE})),
    "RP308": (scaled({**YARN, **MROPE, "mscale": 1.0, "mscale_all_dim": 1.0}), scaled({**YARN, **MROPE})),
    "RP309": (scaled({**YARN, "llama_4_scaling_beta": 0.1}), scaled(YARN)),
    "RP310": (scaled({"rope_type": "dynamic", "factor": 4.0}), scaled(YARN)),
    "RP311": (scaled({**YARN, "attention_factor": 0.8782488562869419}), scaled({**YARN, "attention_factor": 1.0})),
    "RP401": (
        scaled({"type": "longrope", "short_factor": SHORT[:20], "long_factor": LONG[:20]}, **PHI),
        scaled({"type": "longrope", **PHI_LISTS}, **PHI),
    ),
    "RP402": (both(None), both(8192)),
    "RP403": (both(8192, attention_factor=1.0), both(8192)),
    "RP404": (both(8192), both(8192, short_factor=LONG)),
    "RP405": (scaled({"rope_type": "longrope", **PHI_LISTS}, **PHI), scaled({"type": "longrope", **PHI_LISTS}, **PHI)),
    "RP406": (
        scaled({"type": "longrope", **PHI_LISTS, "short_mscale": 1.2, "long_mscale": 1.3,
                "original_max_position_embeddings": 4096}, **{**PHI, "model_type": "phimoe"}),
        scaled({"type": "longrope", **PHI_LISTS}, **PHI),
    ),
    "RP407": (both(4096), both(8192)),
    "RP408": (both(8192, short_mscale=1.3, long_mscale=1.4), both(8192)),
    "RP501": ({"model_type": "qwen3", "head_dim": 64, "rope_theta": None}, {"model_type": "qwen3", "head_dim": 64}),
    "RP502": (scaled({"rope_type": "linear", "factor": 4.0}), {}),
    "RP503": (scaled(YARN), {}),
    "RP504": ({"rope_scaling": 1.0}, {"rope_scaling": None}),
    "RP505": ({"model_type": "bert", "rope_theta": None}, {}),
}  # fmt: skip


@dataclass(frozen=True)
class File:
    """A tiny GGUF: its architecture, keys (with a dot before them) and factor tensors."""

    arch: str = "llama"
    keys: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    like: str | None = None

    def write(self, path: Path) -> Path:
        """The file, with heads of 32 dimensions and a context of 256 unless the keys say otherwise."""
        spec = tiny.ModelSpec(
            arch=self.like or self.arch, layers=1, hidden=64, heads=2, kv_heads=2, intermediate=32, vocab=8, context=256
        )
        return tiny.write_gguf(path, spec, self.keys, self.tensors, arch=self.arch)


def factors(name: str, kind: Any = np.float32, count: int = 16, value: float = 2.0) -> dict[str, Any]:
    """One factor tensor."""
    return {name: np.full(count, value, dtype=kind)}


def llama3_factors() -> dict[str, Any]:
    """Divisors that Llama 3's method gives on the file's rotation."""
    from ropepatch.methods.base import Spectrum
    from ropepatch.methods.llama3 import Llama3

    rope = Spectrum.plain(10000.0, 32, 32)
    return {"rope_freqs.weight": (rope.inv_freq / Llama3(8.0, 8192).apply(rope, None).inv_freq).astype(np.float32)}


def yarn(**others: Any) -> dict[str, Any]:
    """YaRN keys for 64 tokens times 4."""
    own = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0, ".rope.scaling.original_context_length": 64}
    return {**own, **{f".rope.scaling.{name}": value for name, value in others.items()}}


TWO = {**factors("rope_factors_long.weight"), **factors("rope_factors_short.weight", value=1.0)}
ORIGINAL = {".rope.scaling.original_context_length": 64}
LONG_PHI = File("phi3", {**ORIGINAL, ".rope.scaling.attn_factor": 1.1}, TWO)
OSS = {
    ".context_length": 131072, ".rope.freq_base": 150000.0, ".rope.scaling.type": "yarn", ".rope.scaling.factor": 32.0,
    ".rope.scaling.original_context_length": 4096,
}  # fmt: skip

GGUF: dict[str, tuple[File, File]] = {
    "RP206": (File(keys=ORIGINAL), File()),
    "RP601": (File(keys={".rope.scaling.type": "default"}), File(keys={".rope.scaling.type": "none"})),
    "RP602": (File(keys={".rope.freq_base": np.float64(5e5)}), File(keys={".rope.freq_base": 5e5})),
    "RP603": (
        File("phi3", {**LONG_PHI.keys, ".rope.scaling.type": "longrope", ".rope.scaling.factor": 4.0}, TWO),
        File("phi3", {**LONG_PHI.keys, ".rope.scaling.type": "longrope"}, TWO),
    ),
    "RP604": (
        File(keys={".rope.scaling.type": "none", ".rope.scaling.factor": 4.0}),
        File(keys={".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0}),
    ),
    "RP605": (File(keys={**yarn(), ".rope.scaling.original_context_length": None}), File(keys=yarn())),
    "RP606": (File(keys={**yarn(), ".context_length": 64}), File(keys=yarn())),
    "RP607": (
        File("qwen2", yarn(yarn_beta_fast=64.0)),
        File("mistral3", yarn(yarn_beta_fast=64.0), like="llama"),
    ),
    "RP608": (File(keys=yarn(attn_factor=1.138629436)), File(keys=yarn(attn_factor=0.878248856))),
    "RP609": (
        File("mistral3", yarn(yarn_log_multiplier=0.1), like="llama"),
        File("mistral3", yarn(yarn_log_multiplier=1.0), like="llama"),
    ),
    "RP610": (
        File("qwen2vl", {".rope.dimension_sections": [4, 6, 6]}, like="qwen2"),
        File("qwen2vl", {".rope.dimension_sections": [4, 6, 6, 0]}, like="qwen2"),
    ),
    "RP611": (
        File("granite", {".rope.scaling.finetuned": False}, like="llama"),
        File("granite", {".rope.scaling.finetuned": True}, like="llama"),
    ),
    "RP612": (File(keys={".rope.freq_base": -1.0}), File()),
    "RP613": (File(keys=yarn()), File(keys=yarn(attn_factor=0.8782488562869419))),
    "RP614": (
        File("gemma3", {".rope.freq_base": None, ".rope.global.freq_base": 1e6}, like="qwen3"),
        File("gemma3", {".rope.freq_base": 1e6}, like="qwen3"),
    ),
    "RP615": (File("gpt-oss", OSS), File("qwen2", OSS)),
    "RP616": (
        File(keys={".rope.scale_linear": 2.0, ".rope.scaling.factor": 4.0}),
        File(keys={".rope.scaling.factor": 4.0}),
    ),
    "RP617": (File(keys={".rope.freq_base": None}), File()),
    "RP618": (File(keys={".rope.dimension_count": 16}), File("phi2", {".rope.dimension_count": 16}, like="llama")),
    "RP619": (
        File("deepseek2-ocr", {".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0}, like="qwen2"),
        File("qwen2", {".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0}),
    ),
    "RP620": (File("never-heard-of", like="llama"), File()),
    "RP621": (File(keys={".rope.colour": "blue"}), File()),
    "RP622": (File("gpt2", like="llama"), File()),
    "RP701": (File("qwen2", tensors=factors("rope_freqs.weight")), File(tensors=factors("rope_freqs.weight"))),
    "RP702": (
        File(tensors=factors("rope_freqs.weight", np.float16)),
        File(tensors=factors("rope_freqs.weight")),
    ),
    "RP703": (
        File(tensors=factors("rope_freqs.weight", count=12)),
        File(tensors=factors("rope_freqs.weight", count=16)),
    ),
    "RP704": (File("phi3", ORIGINAL, factors("rope_factors_long.weight")), LONG_PHI),
    "RP705": (
        File("cogvlm", tensors=factors("rope_freqs.weight"), like="llama"),
        File(tensors=factors("rope_freqs.weight")),
    ),
    "RP706": (File(tensors=llama3_factors()), File(tensors=factors("rope_freqs.weight", value=1.0))),
    "RP707": (
        File(keys={".context_length": 131072, ".rope.freq_base": 500000.0}),
        File(keys={".context_length": 8192, ".rope.freq_base": 500000.0}),
    ),
    "RP708": (File("phi3", ORIGINAL, TWO), LONG_PHI),
    "RP709": (LONG_PHI, File("phi3", {}, {name: np.ones(16, np.float32) for name in TWO})),
}  # fmt: skip


#: what LLAMA would be as a params.json, and with YaRN; heads of 64 dimensions
PARAMS: dict[str, Any] = {
    "dim": 256, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "head_dim": 64, "hidden_dim": 32, "vocab_size": 8,
    "norm_eps": 1e-5, "rope_theta": 1000000.0, "max_position_embeddings": 32768,
}  # fmt: skip
PARAMS_YARN = {**PARAMS, "yarn": {"factor": 4.0, "original_max_position_embeddings": 8192, "beta": 32, "alpha": 1}}


def write_params(folder: Path, document: Mapping[str, Any], *, beside: bool) -> Path:
    """A folder with a params.json, with LLAMA's config beside it or without."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return write_hf(folder, {}) if beside else folder


def write_stored(folder: Path, factor: float, *, beside: bool = True) -> Path:
    """A folder whose weights hold LLAMA's frequencies times ``factor``, with the config beside them or without."""
    folder.mkdir(parents=True, exist_ok=True)
    inv_freq = factor * LLAMA["rope_theta"] ** (-np.arange(0, 64, 2) / 64)
    tensor = {"model.layers.0.self_attn.rotary_emb.inv_freq": inv_freq.astype(np.float32)}
    save_file(tensor, folder / "model.safetensors")
    return write_hf(folder, {}) if beside else folder


#: rule -> what breaks it and what does not, where it takes more than a config
BESIDE: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Path]]] = {
    "RP207": (
        lambda folder: write_hf(folder, {}, tokenizer_config={"model_max_length": 2048}),
        lambda folder: write_hf(folder, {}, tokenizer_config={"model_max_length": 32768}),
    ),
    "RP801": (
        lambda folder: write_params(folder, PARAMS_YARN, beside=True),
        lambda folder: write_params(folder, PARAMS, beside=True),
    ),
    "RP802": (
        lambda folder: write_params(folder, PARAMS_YARN, beside=False),
        lambda folder: write_params(folder, PARAMS, beside=False),
    ),
    "RP803": (lambda folder: write_stored(folder, 0.5), lambda folder: write_stored(folder, 1.0)),
    "RP804": (lambda folder: write_stored(folder, 1.0, beside=False), lambda folder: write_stored(folder, 1.0)),
}


def write_hf(folder: Path, config: Mapping[str, Any], **others: Mapping[str, Any]) -> Path:
    """A folder with LLAMA and what is laid over it; ``others`` are further JSON files by stem."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in {**LLAMA, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for stem, document in others.items():
        (folder / f"{stem}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return folder
