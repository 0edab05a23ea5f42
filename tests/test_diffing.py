"""What counts as a difference of two checkpoints, and what does not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch import schemas
from ropepatch.diffing import diff
from ropepatch.errors import UsageError
from ropepatch.methods import Method
from ropepatch.methods.dynamic import Dynamic
from ropepatch.methods.factors import Factors
from ropepatch.methods.linear import Linear
from ropepatch.methods.longrope import LongRope
from ropepatch.methods.proportional import Proportional
from ropepatch.methods.yarn import Yarn
from ropepatch.profile import RopeGroup, RopeProfile, Source

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
PLAIN = RopeGroup(10000.0, 64, 64)


def profile(group: RopeGroup | None = None, declared: int | None = 2048, **others: Any) -> RopeProfile:
    """A profile with one group, or with those in ``groups``."""
    values: dict[str, Any] = {"groups": {"default": group or PLAIN}, "trained_context": 2048, **others}
    return RopeProfile(Source("a", "hf", "llama"), declared_context=declared, **values)


def scaled(method: Method, **changes: Any) -> RopeGroup:
    return dataclasses.replace(PLAIN, scaling=method, **changes)


def test_same_profile_is_identical() -> None:
    """A profile does not differ from itself."""
    result = diff(profile(), profile())

    assert (result.identical, result.equivalent, result.same_contexts) == (True, True, True)
    assert result.sentence().startswith("No difference")


def test_pair_layout_alone_is_equivalent() -> None:
    """The two pair layouts with the same frequencies are two spellings of one thing."""
    result = diff(profile(), profile(dataclasses.replace(PLAIN, layout="interleaved")))

    assert (result.identical, result.equivalent) == (False, True)
    assert [item.name for item in result.groups[0].settings if not item.same] == ["layout"]
    assert "only the spelling differs" in result.sentence()


def test_factors_against_the_method_that_made_them() -> None:
    """A list of divisors that equals a method's is equivalent to the method."""
    yarn = Yarn(4.0, 2048)
    made = yarn.apply(PLAIN.spectrum(), None)
    divisors = np.float32(PLAIN.spectrum().inv_freq / made.inv_freq).astype(float)
    listed = Factors(tuple(divisors), attention_factor=made.attention_scale)
    result = diff(profile(scaled(yarn)), profile(scaled(listed)))

    assert (result.identical, result.equivalent) == (False, True)


def test_pairs_that_a_format_cannot_stop() -> None:
    """A pair that stands still equals one that is divided by 1e30, as llama.cpp's converter writes it."""
    stopped = dataclasses.replace(PLAIN, scaling=Proportional(0.5))
    divided = scaled(Factors((1.0,) * 16 + (1e30,) * 16))

    assert diff(profile(stopped), profile(divided)).equivalent


def test_linear_factor() -> None:
    """Against linear 4x every pair turns 4 times faster, from the fastest pair's wavelength on."""
    result = diff(profile(), profile(scaled(Linear(4.0)), 8192))
    short, long = result.groups[0].frequencies

    assert (short.length, long.length) == (None, 8192)
    assert short.differing == 32
    assert short.ratio == pytest.approx(4.0, rel=1e-12)
    assert short.first_pair == 0
    assert short.from_wavelength == pytest.approx(2 * math.pi)
    assert not result.same_contexts
    assert "up to 4 times slower in the second" in result.sentence()
    assert "at every length" in result.sentence()


def test_sides_are_told_apart() -> None:
    """The other way round the ratio is inverted and the sentence names the other side."""
    result = diff(profile(scaled(Linear(4.0))), profile())

    assert result.groups[0].frequencies[0].ratio == pytest.approx(0.25)
    assert "up to 4 times slower in the first" in result.sentence()


def test_fast_pairs_that_agree() -> None:
    """With YaRN the difference starts at the ramp, not at the first pair, and the attention scale is named."""
    result = diff(profile(), profile(scaled(Yarn(4.0, 2048))))
    item = result.groups[0].frequencies[0]

    assert item.first_pair == 9
    assert item.differing == 32 - 9
    assert item.attention_scale == pytest.approx((1.0, 0.1 * math.log(4) + 1))
    assert "attention scale 1 against 1.13863" in result.sentence()


def test_attention_scale_alone() -> None:
    """The same frequencies with another attention scale are a difference."""
    result = diff(profile(), profile(scaled(Factors((1.0,) * 32, attention_factor=1.1))))

    assert not result.equivalent
    assert "attention scale 1 against 1.1" in result.sentence()


@pytest.mark.parametrize("method", [Dynamic(4.0, 2048), LongRope((1.0,) * 32, (4.0,) * 32, 2048)])
def test_difference_that_only_long_contexts_show(method: Method) -> None:
    """A method that changes nothing in a short context differs at the long one, and the sentence says so."""
    result = diff(profile(), profile(scaled(method), 8192))
    short, long = result.groups[0].frequencies

    assert short.differing == 0
    assert long.differing > 0
    assert "at 8,192 tokens" in result.sentence()


def test_length_chooses_the_long_context() -> None:
    """Within the trained length a dynamic method is not seen; what is compared is what was asked for."""
    a, b = profile(), profile(scaled(Dynamic(4.0, 2048)))

    assert diff(a, b, 2000).equivalent
    assert not diff(a, b, 9000).equivalent


@pytest.mark.parametrize("length", [0, -1])
def test_impossible_length(length: int) -> None:
    """A context without tokens cannot be compared at."""
    with pytest.raises(UsageError, match="at least 1"):
        diff(profile(), profile(), length)


def test_contexts_alone() -> None:
    """Two declared contexts with the same frequencies: equivalent, but not the same."""
    result = diff(profile(), profile(declared=4096))

    assert (result.equivalent, result.same_contexts) == (True, False)
    assert "2,048 and 4,096 tokens" in result.sentence()


def test_context_that_one_side_does_not_say() -> None:
    """A context that a format has no place for is no difference in contexts."""
    result = diff(profile(), profile(trained_context=None))

    assert (result.same_contexts, result.identical) == (True, False)


@pytest.mark.parametrize("relative", [5e-7, -5e-7])
def test_rounding_is_no_difference(relative: float) -> None:
    """A base that a float32 key rounded is the same base."""
    assert diff(profile(), profile(dataclasses.replace(PLAIN, rope_theta=10000.0 * (1 + relative)))).identical


def test_small_difference_is_one() -> None:
    """A base that is off by a thousandth is not rounding."""
    assert not diff(profile(), profile(dataclasses.replace(PLAIN, rope_theta=10010.0))).equivalent


def test_different_number_of_pairs() -> None:
    """Another rotary dimension cannot be compared pair by pair; that is a difference of its own."""
    result = diff(profile(), profile(dataclasses.replace(PLAIN, rotary_dim=32)))

    assert not result.equivalent
    assert "the first rotates 32 pairs, the second 16" in result.sentence()


def test_default_against_named_groups() -> None:
    """A checkpoint whose layers agree is compared with each group of one whose layers do not."""
    groups = {"full_attention": scaled(Linear(8.0)), "sliding_attention": PLAIN}
    result = diff(profile(), profile(groups=groups))

    assert [(item.a, item.b, item.equivalent) for item in result.groups] == [
        ("default", "full_attention", False),
        ("default", "sliding_attention", True),
    ]
    assert "default / full_attention" in result.sentence()


def test_group_that_one_side_lacks() -> None:
    """A group without a counterpart is a difference, and the sentence says whose it is."""
    groups = {"full_attention": PLAIN, "sliding_attention": PLAIN}
    result = diff(profile(groups=groups), profile(groups={"full_attention": PLAIN}))

    assert not result.equivalent
    assert "only the first has the rope group sliding_attention" in result.sentence()


@pytest.mark.parametrize("name", ["softmax_scale", "query_temperature"])
def test_other_scales_have_an_effect(name: str) -> None:
    """What multiplies queries or logits counts, although no frequency differs."""
    value = 1.2 if name == "softmax_scale" else {"scale": 0.1, "length": 8192.0}
    result = diff(profile(), profile(dataclasses.replace(PLAIN, **{name: value})))

    assert not result.equivalent
    assert "differ" in result.sentence()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (profile(), profile(scaled(Yarn(4.0, 2048)), 8192)),
        (profile(scaled(Proportional(0.5))), profile()),
        (profile(), profile(scaled(Proportional(0.5)))),
        (profile(groups={"x": PLAIN, "y": PLAIN}), profile(groups={"u": PLAIN, "v": PLAIN})),
        (profile(declared=None), profile(declared=None)),
        (profile(), profile(dataclasses.replace(PLAIN, rotary_dim=32))),
    ],
)
def test_json(a: RopeProfile, b: RopeProfile) -> None:
    """Every difference is strict JSON that validates, infinities among it, and has a sentence."""
    document = json.loads(json.dumps(diff(a, b).to_json(), allow_nan=False))

    schemas.validator("diff").validate(document)
    assert document["sentence"].endswith(".")


def test_refs_and_checkpoints_are_taken() -> None:
    """The function takes what a person has: a path, an opened checkpoint, a profile."""
    path = FIXTURES / "tiny-llama.gguf"
    model = ropepatch.open(path)

    assert ropepatch.diff(path, model).identical
    assert ropepatch.diff(str(path), model.profile).identical


def test_formats_agree() -> None:
    """The same weights as GGUF and as directory: equivalent, in another pair layout."""
    result = ropepatch.diff(FIXTURES / "tiny-llama.gguf", FIXTURES / "tiny-llama")

    assert (result.equivalent, result.same_contexts, result.identical) == (True, True, False)
