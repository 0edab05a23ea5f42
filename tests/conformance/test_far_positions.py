"""Positions up to 131,072: transformers and llama.cpp compute the patched model alike, and small errors would show.

How far two correct engines may be apart. Both keep angles in float32. llama.cpp starts at the position and multiplies
by base^(-2/d) from pair to pair; the rounding of that ratio enters i times and each product adds its own: pair i is off
by at most about i · 2^-24 of its angle (`test_the_bound_is_what_float32_can_do` does the products). Scaling, and what
transformers rounds, is good for a few units more. Pair i at position p is thus known to p · inv_freq_i · (i + 4) ·
2^-24: 0.03 radians for the second pair at 131,072, which a frequency that is off by a thousandth turns by 98. `BOUND`
is what errors of that size may make of the log-probabilities of this model, measured with signs at random.

The model is one layer whose pairs are drawn larger the less they turn, so that a thousandth of any of them shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.command import inside as run
from tests.support.llamacpp_far import FILLER, FarText
from tests.support.llamacpp_far import logprobs as far_logprobs

pytest.importorskip("xllamacpp")
pytest.importorskip("transformers")

from tests.support.hf import Rotation, Turned, rotation, transformers_logprobs
from tests.support.llamacpp import logprobs

CONTEXT, FACTOR = 8192, 16
END = CONTEXT * FACTOR
#: relative; every pair shows it
SMALL = 1e-3
BOUND = 2e-3
#: largest logit that a pair makes, about
_LOUD = 10.0
LAST = 12
ASKED = list(range(-LAST, 0))

Array = np.ndarray[Any, np.dtype[np.float64]]


class FarFamily(tiny.Family):
    """Llama, with a filler that has neither key nor value, and pairs that are louder the less they turn."""

    def layer(self, spec: tiny.ModelSpec, linear: tiny.Draw, norm: tiny.Draw) -> dict[str, tiny.Array]:
        """Llama's; at the last position a pair that turns by `angle` shows `SMALL` of it as 1 or as SMALL · angle."""
        weights = super().layer(spec, linear, norm)
        angle = END / FACTOR * spec.rope_theta ** (-2 * np.arange(spec.head_dim // 2) / spec.head_dim)
        loudness = 1 / np.minimum(1, SMALL * angle)
        rows = np.tile(np.sqrt(_LOUD * loudness / loudness.max()), 2).astype(np.float32)
        for part, heads in (("q", spec.heads), ("k", spec.kv_heads)):
            weights[f"self_attn.{part}_proj.weight"] *= np.tile(rows, heads)[:, None]
        return weights

    def finished(self, spec: tiny.ModelSpec, tensors: dict[str, tiny.Array]) -> dict[str, tiny.Array]:
        """The filler is all in one dimension, which keys and values do not see."""
        embedding = tensors["model.embed_tokens.weight"]
        embedding[FILLER] = 0
        embedding[FILLER, 0] = 1
        for part in "kv":
            tensors[f"model.layers.0.self_attn.{part}_proj.weight"][:, 0] = 0
        return tensors


@dataclass(frozen=True)
class FarSpec(tiny.ModelSpec):
    """One layer of the family."""

    layers: int = 1
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 64
    context: int = CONTEXT

    @property
    def family(self) -> tiny.Family:
        """Not one of the table: it exists for this test."""
        return FarFamily()


SPEC = FarSpec()


def text() -> FarText:
    """Four parts: keys at the beginning and on the way, and at the end those who ask."""
    draw = np.random.default_rng(3)
    parts = []
    for start, count in ((0, 96), (9_000, 96), (60_000, 96), (END - 220, 200)):
        tokens = tuple(int(token) for token in draw.integers(FILLER + 1, SPEC.vocab, count))
        parts.append((start, (*tokens, FILLER)))
    return FarText(tuple(parts))


TEXT = text()
METHODS = ("yarn", "mrrope-pro", "llama3", "ntk")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model as a folder and as a GGUF."""
    root = tmp_path_factory.mktemp("far")
    return tiny.write_hf(root / "hf", SPEC), tiny.write_gguf(root / "model.gguf", SPEC)


@pytest.fixture(scope="module")
def turned(models: tuple[Path, Path]) -> Turned:
    """The unpatched folder in transformers, to be turned by hand."""
    return Turned(models[0])


def patched(path: Path, target: Path, method: str) -> Path:
    """The model for `END` tokens, by the command line."""
    ended = run("apply", "--method", method, "--factor", FACTOR, path, "-o", target)
    assert ended.code == 0, ended.err
    return target


def in_transformers(folder: Path) -> Array:
    """What transformers makes of the text."""
    return transformers_logprobs(folder, TEXT.tokens, ASKED, at=TEXT.positions)


def in_llamacpp(file: Path) -> Array:
    """What llama.cpp makes of the text."""
    return np.array(far_logprobs(file, TEXT, LAST, END))


def apart(a: Array, b: Array) -> float:
    """The largest difference of two log-probabilities."""
    return float(np.abs(a - b).max())


def test_the_text_reaches_the_end() -> None:
    """Every part but the last ends just before the next, and those who ask stand at the end of the context."""
    positions = TEXT.positions
    assert len(TEXT.tokens) == len(positions)
    assert [step for step in np.diff(positions) if step > 1] == [8904, 50904, 70756]
    assert END - 40 < positions[-LAST] < positions[-1] < END


@pytest.mark.parametrize("method", METHODS)
def test_both_engines_agree_and_a_thousandth_shows(
    method: str, models: tuple[Path, Path], turned: Turned, tmp_path: Path
) -> None:
    """Patched by the command line both compute the same; any pair that is off by a thousandth would break that."""
    folder, file = patched(models[0], tmp_path / "hf", method), patched(models[1], tmp_path / "model.gguf", method)
    hf = in_transformers(folder)
    assert apart(hf, in_llamacpp(file)) < BOUND
    assert apart(hf, in_transformers(models[0])) > 1, "an ignored scaling would not show"
    right = rotation(folder, END)
    assert apart(by_hand(turned, right), hf) < BOUND / 100, "what is turned by hand is not what transformers does"
    seen = [apart(by_hand(turned, off_by(right, pair)), hf) for pair in range(right.inv_freq.size)]
    assert min(seen) > 1.5 * BOUND, f"pair {int(np.argmin(seen))} may be off by a thousandth"
    louder = replace(right, attention_scale=right.attention_scale * (1 + SMALL))
    assert apart(by_hand(turned, louder), hf) > 1.5 * BOUND


def by_hand(turned: Turned, by: Rotation) -> Array:
    """The text, turned by given frequencies."""
    return turned.logprobs(TEXT.tokens, ASKED, {"default": by}, at=TEXT.positions)


def off_by(right: Rotation, pair: int, error: float = SMALL) -> Rotation:
    """One frequency is wrong."""
    factors = np.ones(right.inv_freq.size)
    factors[pair] += error
    return replace(right, inv_freq=right.inv_freq * factors)


@pytest.mark.parametrize(
    ("wrong", "keys"),
    [
        ("half the original context", {".rope.scaling.original_context_length": CONTEXT // 2}),
        ("another factor", {".rope.scaling.factor": FACTOR * (1 + SMALL)}),
        ("no scaling", {".rope.scaling.type": "none"}),
        ("another base", {".rope.freq_base": SPEC.rope_theta * (1 + SMALL)}),
        ("another magnitude", {".rope.scaling.attn_factor": 1 + SMALL}),
    ],
)
def test_a_wrong_key_shows(wrong: str, keys: dict[str, Any], models: tuple[Path, Path], tmp_path: Path) -> None:
    """llama.cpp on a file whose YaRN differs in one key from what was asked for is far from transformers."""
    folder = patched(models[0], tmp_path / "hf", "yarn")
    right = {
        ".context_length": END,
        ".rope.scaling.type": "yarn",
        ".rope.scaling.factor": float(FACTOR),
        ".rope.scaling.original_context_length": CONTEXT,
    }
    file = tiny.write_gguf(tmp_path / "model.gguf", SPEC, right | keys)
    assert apart(in_transformers(folder), in_llamacpp(file)) > 1.5 * BOUND, wrong


def test_the_bound_is_what_float32_can_do(models: tuple[Path, Path], turned: Turned, tmp_path: Path) -> None:
    """Angles that are off by as much as float32 makes them, each with a sign of its own, stay within the bound."""
    right = rotation(patched(models[0], tmp_path / "hf", "yarn"), END)
    pairs = np.arange(right.inv_freq.size)
    ratio = np.float32(SPEC.rope_theta ** (-2 / SPEC.head_dim))
    chain = np.multiply.accumulate(np.array([np.float32(END - 1), *[ratio] * pairs[-1]], np.float32), dtype=np.float32)
    exact = (END - 1) * SPEC.rope_theta ** (-2 * pairs / SPEC.head_dim)
    assert (np.abs(chain / exact - 1) <= (pairs + 1) * 2.0**-24).all()
    draw, as_it_is = np.random.default_rng(1), by_hand(turned, right)
    for _ in range(16):
        signs = draw.choice([-1.0, 1.0], pairs.size)
        wrong = replace(right, inv_freq=right.inv_freq * (1 + signs * (pairs + 4) * 2.0**-24))
        assert apart(by_hand(turned, wrong), as_it_is) < BOUND


def test_a_prompt_of_sixteen_thousand_tokens(tmp_path: Path) -> None:
    """Nothing left out: both engines run every token of a prompt of twice the original context, and agree."""
    spec = replace(SPEC, heads=1)
    prompt = tiny.tokens(spec, 2 * CONTEXT)
    folder = patched(tiny.write_hf(tmp_path / "in", spec), tmp_path / "hf", "yarn")
    file = patched(tiny.write_gguf(tmp_path / "in.gguf", spec), tmp_path / "model.gguf", "yarn")
    hf = transformers_logprobs(folder, prompt, ASKED[-1:], attention="sdpa")
    assert apart(hf, logprobs(file, prompt, positions=ASKED[-1:])) < BOUND
