"""What llama.cpp is predicted to make of a GGUF, against the engine itself.

The engine answers by log-probabilities at far positions. The same weights in transformers, turned by the *predicted*
frequencies, magnitude and softmax scale instead of its own, must give the same ones. For Ollama this says as much as
it has in common with llama.cpp: the rotation, not its translation of key names nor its clamp of the context.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import InputError, RuntimeRejects
from ropepatch.runtimes import readings
from tests.runtimes.test_recorded import CASES
from tests.support import convert, tiny

pytest.importorskip("xllamacpp")
pytest.importorskip("transformers")

from tests.support.hf import Rotation, Turned
from tests.support.llamacpp import Question, answers, load_report

AGREE, DIFFER = 1e-3, 1e-2
FREQS, LONG, SHORT = convert.FREQS, convert.LONG, convert.SHORT
#: the declared context that the recorded configs are shrunk to, so that far is near enough to be asked for
ROOM = 1024

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Shape:
    """A file to be: a tiny model, keys and tensors over its own, a context to allocate, another architecture's name."""

    arch: str = "llama"
    keys: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    n_ctx: int = 512
    label: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> tiny.ModelSpec:
        """The tiny model; heads of 128 for the recorded configs, of 32 else."""
        return tiny.ModelSpec(**{"arch": self.arch, "context": ROOM, "seed": 3, **self.spec})

    def write(self, root: Path, name: str) -> Path:
        """The file."""
        return tiny.write_gguf(root / f"{name}.gguf", self.model(), self.keys, self.tensors, arch=self.label)


YARN = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0, ".rope.scaling.original_context_length": 128}
LINEAR = {".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0}
LONGROPE = {".rope.scaling.type": "longrope", ".rope.scaling.original_context_length": 256}
RISING = (1 + 0.3 * np.arange(16)).astype(np.float32)
NEARLY = (1 + 0.02 * np.arange(16)).astype(np.float32)
LISTS = {LONG: RISING, SHORT: NEARLY}
UNREAD = {
    ".rope.scaling.yarn_beta_fast": 64.0, ".rope.scaling.yarn_beta_slow": 2.0, ".rope.scaling.yarn_ext_factor": 0.5,
    ".rope.scaling.yarn_attn_factor": 0.5, ".rope.scaling.yarn_log_multiplier": 0.7, ".rope.scaling.finetuned": False,
}  # fmt: skip
MULTIPLIER = ".rope.scaling.yarn_log_multiplier"
SHAPES: dict[str, Shape] = {
    "plain": Shape(),
    "no base": Shape(keys={".rope.freq_base": None}, spec={"rope_theta": 5e5}),
    "base under Ollama's name": Shape(keys={".rope.freq_base": None, ".rope.global.freq_base": 5e5}),
    "linear": Shape(keys=LINEAR),
    "factor without a type": Shape(keys={".rope.scaling.factor": 4.0}),
    "factor 0": Shape(keys={".rope.scaling.factor": 0.0}),
    "old name of the factor": Shape(keys={".rope.scale_linear": 4.0}),
    "both names of the factor": Shape(keys={".rope.scale_linear": 2.0, ".rope.scaling.factor": 4.0}),
    "none with a factor": Shape(keys={**LINEAR, ".rope.scaling.type": "none"}),
    "none with a magnitude": Shape(keys={".rope.scaling.type": "none", ".rope.scaling.attn_factor": 1.2}),
    "yarn": Shape(keys=YARN),
    "yarn without an original": Shape(keys={**YARN, ".rope.scaling.original_context_length": None}),
    "yarn and a magnitude": Shape(keys={**YARN, ".rope.scaling.attn_factor": 0.8}),
    "yarn and keys that are not read": Shape("qwen3", {**YARN, **UNREAD}),
    "yarn on qwen2": Shape("qwen2", YARN),
    "linear on qwen2": Shape("qwen2", LINEAR),
    "factors": Shape(tensors={FREQS: RISING}),
    "factors and yarn": Shape(keys=YARN, tensors={FREQS: RISING}),
    "factors and linear": Shape(keys=LINEAR, tensors={FREQS: RISING}),
    "factors and a magnitude": Shape(keys={".rope.scaling.attn_factor": 1.2}, tensors={FREQS: RISING}),
    "lists, long": Shape(keys=LONGROPE, tensors=LISTS),
    "lists, short": Shape(keys=LONGROPE, tensors=LISTS, n_ctx=256),
    "lists and a factor": Shape(keys={**LONGROPE, ".rope.scaling.factor": 2.0}, tensors=LISTS),
    "lists and a magnitude": Shape(keys={**LONGROPE, ".rope.scaling.attn_factor": 1.2}, tensors=LISTS),
    "the long list alone, short": Shape(keys=LONGROPE, tensors={LONG: RISING}, n_ctx=256),
    "the short list alone, long": Shape(keys=LONGROPE, tensors={SHORT: RISING}),
    "phi3 lists, long": Shape("phi3", {".rope.scaling.original_context_length": 256}, LISTS),
    "phi3 lists, short": Shape("phi3", {".rope.scaling.original_context_length": 256}, LISTS, n_ctx=256),
    "phi3 lists, no original": Shape("phi3", {}, LISTS),
    "phi3 yarn": Shape("phi3", YARN),
    "gemma3": Shape("gemma3"),
    "gemma3 linear": Shape("gemma3", LINEAR),
    "gemma3 yarn": Shape("gemma3", YARN),
    "gemma3 yarn and a magnitude": Shape("gemma3", {**YARN, ".rope.scaling.attn_factor": 0.8}),
    "gemma3 without a sliding base": Shape("gemma3", {".rope.freq_base_swa": None, ".rope.freq_base": 5e5}),
    "gemma3 under Ollama's names": Shape(
        "gemma3",
        {
            ".rope.freq_base": None,
            ".rope.freq_base_swa": None,
            ".rope.global.freq_base": 5e5,
            ".rope.local.freq_base": 3e3,
        },
    ),
    "gpt-oss yarn": Shape("gpt-oss", YARN),
    "gpt-oss linear and a magnitude": Shape("gpt-oss", {**LINEAR, ".rope.scaling.attn_factor": 1.2}),
    "deepseek2": Shape("deepseek2"),
    "deepseek2 yarn": Shape("deepseek2", YARN),
    "deepseek2 yarn, log multiplier": Shape("deepseek2", {**YARN, MULTIPLIER: 0.1}),
    "deepseek2 yarn, odd log multiplier": Shape("deepseek2", {**YARN, MULTIPLIER: 0.07}),
    "mistral4 yarn, odd log multiplier": Shape("deepseek2", {**YARN, MULTIPLIER: 0.07}, label="mistral4"),
}
REFUSED: dict[str, Shape] = {
    "llama3 as a type": Shape(keys={".rope.scaling.type": "llama3"}),
    "dynamic as a type": Shape("qwen2", {".rope.scaling.type": "dynamic"}),
    "a base in 64 bits": Shape(keys={".rope.freq_base": np.float64(1e4)}),
    "a signed original": Shape(keys={**YARN, ".rope.scaling.original_context_length": np.int32(128)}),
    "a whole factor": Shape(keys={**LINEAR, ".rope.scaling.factor": 4}),
    "a magnitude in 64 bits": Shape(keys={".rope.scaling.attn_factor": np.float64(0.9)}),
    "alpha, which few use": Shape("qwen2", {".rope.scaling.alpha": 1}),
    "a sliding base in 64 bits": Shape("gemma3", {".rope.freq_base_swa": np.float64(1e4)}),
    "a context in 64 bits": Shape(keys={".context_length": np.uint64(ROOM)}),
    "no context": Shape(keys={".context_length": None}),
    "half of llama's head": Shape(keys={".rope.dimension_count": 16}),
    "half of qwen2's head": Shape("qwen2", {".rope.dimension_count": 16}),
    "half of gpt-oss's head": Shape("gpt-oss", {".rope.dimension_count": 16}),
    "factors on qwen2": Shape("qwen2", tensors={FREQS: RISING}),
    "lists without longrope": Shape(tensors=LISTS),
    "factors with longrope": Shape(keys=LONGROPE, tensors={FREQS: RISING}),
    "too few factors": Shape(tensors={FREQS: RISING[:8]}),
    "half floats": Shape(tensors={FREQS: RISING.astype(np.float16)}),
    "three sections": Shape("qwen2", {".rope.dimension_sections": [8, 4, 4]}, label="qwen2vl"),
    "no sections": Shape("qwen2", label="qwen2vl"),
    "Ollama's name of gpt-oss": Shape("gpt-oss", label="gptoss"),
}
#: wrong on other architectures, and never looked at on these
HARMLESS: dict[str, Shape] = {
    "three sections on llama": Shape(keys={".rope.dimension_sections": [8, 4, 4]}),
    "a sliding base on qwen2": Shape("qwen2", {".rope.freq_base_swa": np.float64(1e4)}),
    "betas in 64 bits on llama": Shape(keys={**YARN, ".rope.scaling.yarn_beta_fast": np.float64(64)}),
    "half of phi3's head": Shape("phi3", {".rope.dimension_count": 16}),
}


def recorded() -> Iterator[tuple[str, Shape]]:
    """The recorded configs as the converter makes GGUFs of them, every length divided, equal files once.

    Heads of 128, as the configs have them: what the ramps and lists do to a pair depends on its number.
    """
    seen: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for name, config in CASES.items():
        small = shrunk(config)
        arch, keys, tensors = convert.CLASSES[small["model_type"]]
        try:
            made = {f".{key}": value for key, value in keys(small).items()}, tensors(small)
        except KeyError:  # the converter needs an original length that the config does not have
            continue
        rotation = {key: value for key, value in made[0].items() if "rope" in key or "context" in key}
        rotation = {key: as_written(key, value) for key, value in rotation.items()}
        held = {key: array.tolist() for key, array in made[1].items()}
        if (arch, rotation, held) in seen:
            continue
        seen.append((arch, rotation, held))
        spec = {"heads": 2, "kv_heads": 1, "hidden": 256, "head_dim": 128, "intermediate": 32, "vocab": 64}
        yield f"{name} (recorded)", Shape(arch, rotation, made[1], n_ctx=768, spec=spec)


def as_written(key: str, value: Any) -> Any:
    """A value with the type that the converter gives it."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = key.endswith(("context_length", "dimension_count"))
    return int(value) if number and whole else float(value) if number else value


def shrunk(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with all lengths divided so that the declared one is `ROOM`; for LongRoPE four times as much."""
    small = copy.deepcopy(dict(config))
    by = max(1, small["max_position_embeddings"] // (8 * ROOM if small["model_type"] == "phi3" else ROOM))
    for place in (small, small.get("rope_scaling") or {}, small.get("rope_parameters") or {}):
        for key in ("max_position_embeddings", "original_max_position_embeddings"):
            if place.get(key):
                place[key] //= by
    return small


def predicted(path: Path, n_ctx: int) -> dict[str, Rotation]:
    """What the file is predicted to turn by, in the form that transformers takes."""
    model = ropepatch.open(path)
    found = readings.predicted(model, "llama.cpp", n_ctx)
    return {
        name: Rotation(one.inv_freq, one.attention_scale, model.profile.groups[name].softmax_scale or 1.0)
        for name, one in found.items()
    }


def distance(a: Array, b: Array) -> float:
    """The largest difference of log-probabilities."""
    return float(np.abs(a - b).max())


def asked(root: Path, shapes: Mapping[str, Shape]) -> dict[str, tuple[Question, Path]]:
    """A question a shape, and the folder with the same weights and no scaling."""
    made = {}
    for index, (name, shape) in enumerate(shapes.items()):
        spec = shape.model()
        path = shape.write(root, str(index))
        folder = root / f"{spec.arch}-{spec.head_dim}"
        if not folder.exists():
            tiny.write_hf(folder, spec, extra_config={"max_position_embeddings": 8 * ROOM})
        count = min(shape.n_ctx - 8, spec.context - 8)
        prompt = tiny.tokens(spec, count)
        made[name] = Question(path, prompt, shape.n_ctx, [count // 3, count - 1]), folder
    return made


def test_the_engine_computes_what_is_predicted(tmp_path: Path) -> None:
    """Every recorded config as a GGUF and every shape of keys and tensors: far positions tell the predicted rotation.

    For each, a rotation one percent off in a quarter of the pairs, or one percent louder, is told apart.
    """
    questions = asked(tmp_path, {**SHAPES, **dict(recorded())})
    replies = answers([question for question, _ in questions.values()])
    models = {folder: Turned(folder) for folder in dict.fromkeys(folder for _, folder in questions.values())}
    wrong = {}
    for (name, (question, folder)), reply in zip(questions.items(), replies, strict=True):
        assert not isinstance(reply, str), (name, reply)
        rotations = predicted(question.path, question.n_ctx)
        off, *told = (
            distance(reply, models[folder].logprobs(question.tokens, question.positions, changed(rotations, change)))
            for change in (lambda one: one, bent, louder)
        )
        if off >= AGREE or min(told) < DIFFER:
            wrong[name] = off, told
    assert not wrong


def changed(rotations: Mapping[str, Rotation], change: Callable[[Rotation], Rotation]) -> dict[str, Rotation]:
    """Every group changed in the same way."""
    return {group: change(one) for group, one in rotations.items()}


def bent(rotation: Rotation) -> Rotation:
    """A quarter of the pairs turned one percent faster."""
    inv_freq = rotation.inv_freq.copy()
    inv_freq[: inv_freq.size // 4] *= 1.01
    return dataclasses.replace(rotation, inv_freq=inv_freq)


def louder(rotation: Rotation) -> Rotation:
    """Cos and sin one percent larger."""
    return dataclasses.replace(rotation, attention_scale=1.01 * rotation.attention_scale)


@pytest.mark.parametrize("name", REFUSED)
def test_the_engine_refuses_what_is_predicted(name: str, tmp_path: Path) -> None:
    """A file that llama.cpp is predicted to refuse or to abort on is one that it does not load."""
    path = REFUSED[name].write(tmp_path, "refused")
    assert not load_report(path).loaded
    with pytest.raises((RuntimeRejects, InputError)):
        ropepatch.open(path).frequencies(runtime="llama.cpp")


def test_the_engine_loads_what_is_not_refused(tmp_path: Path) -> None:
    """Keys of a wrong type or length under which an architecture never looks do no harm, as predicted."""
    for index, (name, shape) in enumerate(HARMLESS.items()):
        path = shape.write(tmp_path, str(index))
        assert load_report(path).loaded, name
        assert ropepatch.open(path).frequencies(runtime="llama.cpp"), name
