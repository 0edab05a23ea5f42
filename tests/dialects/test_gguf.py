"""GGUF metadata to profiles, and patches to the metadata that llama.cpp computes the method from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropepatch
from ropepatch.errors import AlreadyScaled, InputError, MethodUnsupported, NoRope, UsageError
from ropepatch.methods import Spectrum, Target, extend
from tests.support import llamacpp_formula as engine
from tests.support.tiny import Typed

Make = Callable[..., Path]
CONTEXT, DIMS = 256, 32
FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE = Spectrum.plain(10000.0, DIMS)
#: float32 keys and tensors
SINGLE = 2e-7


def patched(path: Path, method: str, factor: float | None = 4.0, **options: Any) -> tuple[ropepatch.Patch, Path]:
    """Patch a file through the API; gives the patch and the output."""
    patch = ropepatch.open(path).patch(method, factor, **options)
    output = path.with_name("out.gguf")
    output.unlink(missing_ok=True)
    output.with_name("out.ropepatch.json").unlink(missing_ok=True)
    patch.write(output)
    return patch, output


def wanted(method: str, factor: float = 4.0, original: int = CONTEXT, rope: Spectrum = ROPE, **settings: Any) -> Any:
    """What the method itself gives."""
    return extend(method, Target(factor, original, rope), settings).apply(rope, round(factor * original))


def agrees(path: Path, frequencies: Any, n_ctx: int | None = None) -> None:
    """llama.cpp's formulas, on what stands in the file, give these frequencies and this net magnitude."""
    inv_freq, magnitude = engine.computed(path, n_ctx)
    np.testing.assert_allclose(inv_freq, frequencies.inv_freq, rtol=1e-6)
    assert magnitude == pytest.approx(frequencies.attention_scale, rel=1e-6)


EVERY = [
    "linear",
    "ntk",
    "ntk-critical",
    "yarn",
    "ntk-by-parts",
    "llama3",
    "mrrope-uni",
    "mrrope-pro",
    "yarn+resonance",
]


@pytest.mark.parametrize("method", EVERY)
def test_llama_holds_every_static_method(gguf_file: Make, method: str) -> None:
    """On llama, by keys or baked, the net frequencies and magnitude are the method's; both contexts are written."""
    _, output = patched(gguf_file(), method)
    agrees(output, wanted(method))
    keys = engine.keys_of(output)
    assert keys["llama.context_length"] == 4 * CONTEXT
    assert keys["llama.rope.scaling.original_context_length"] == CONTEXT


@pytest.mark.parametrize("method", EVERY)
def test_scalar_types_are_exactly_what_the_loader_wants(gguf_file: Make, method: str) -> None:
    """Contexts are u32, factors and bases f32, the type a string, factor tensors F32 of one value a pair."""
    _, output = patched(gguf_file(), method)
    types = engine.types_of(output)
    for name, kind in {
        "context_length": "UINT32",
        "rope.scaling.original_context_length": "UINT32",
        "rope.freq_base": "FLOAT32",
        "rope.scaling.factor": "FLOAT32",
        "rope.scaling.attn_factor": "FLOAT32",
        "rope.scaling.type": "STRING",
    }.items():
        assert types.get(f"llama.{name}", kind) == kind
    assert types["llama.context_length"] == types["llama.rope.scaling.original_context_length"] == "UINT32"
    if FREQS in (tensors := engine.tensors_of(output)):
        assert tensors[FREQS].dtype == np.float32
        assert tensors[FREQS].shape == (DIMS // 2,)


@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "gemma3", "phi3"])
@pytest.mark.parametrize("method", ["linear", "ntk", "ntk-critical", "yarn"])
def test_every_architecture_holds_the_methods_that_have_keys(gguf_file: Make, arch: str, method: str) -> None:
    """Methods with keys of their own need no factor tensor."""
    _, output = patched(gguf_file(arch), method)
    assert not set(engine.tensors_of(output)) & {FREQS, LONG, SHORT}
    agrees(output, wanted(method))


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0, 40.0])
@pytest.mark.parametrize("attention", [None, 1.0, 0.5, 1.3])
def test_the_net_magnitude_is_the_method_s(gguf_file: Make, factor: float, attention: float | None) -> None:
    """attn_factor is what is left after the engine's own 1 + 0.1 ln s; it is not written where nothing is left."""
    settings = {} if attention is None else {"attention_factor": attention}
    _, output = patched(gguf_file("qwen2"), "yarn", factor, **settings)
    inv_freq, magnitude = engine.computed(output)
    assert magnitude == pytest.approx(attention or 0.1 * math.log(factor) + 1, rel=SINGLE)
    np.testing.assert_allclose(inv_freq, wanted("yarn", factor, **settings).inv_freq, rtol=1e-6)
    default = attention in (None, 0.1 * math.log(factor) + 1)
    assert ("qwen2.rope.scaling.attn_factor" in engine.keys_of(output)) == (not default)


def test_ntk_is_a_base_and_nothing_else(gguf_file: Make) -> None:
    """NTK-aware scaling writes freq_base and the contexts: no type, no factor, no tensor."""
    patch, output = patched(gguf_file("qwen2"), "ntk")
    assert {edit.name for edit in patch.edits} == {
        "qwen2.rope.freq_base",
        "qwen2.context_length",
        "qwen2.rope.scaling.original_context_length",
    }
    base = engine.keys_of(output)["qwen2.rope.freq_base"]
    assert base == pytest.approx(10000.0 * 4 ** (32 / 30), rel=SINGLE)


@pytest.mark.parametrize(("fast", "slow"), [(64, 2), (128, 4), (16, 0.5)])
def test_a_beta_pair_of_32_to_1_moves_the_original_context(gguf_file: Make, fast: float, slow: float) -> None:
    """On an architecture whose betas are fixed, (32 k, k) is written as original_context_length / k."""
    _, output = patched(gguf_file("qwen2"), "yarn", beta_fast=fast, beta_slow=slow)
    assert engine.keys_of(output)["qwen2.rope.scaling.original_context_length"] == CONTEXT / slow
    agrees(output, wanted("yarn", beta_fast=fast, beta_slow=slow))
    assert engine.keys_of(output)["qwen2.context_length"] == 4 * CONTEXT


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("yarn", {"beta_fast": 16}),
        ("yarn", {"truncate": False}),
        ("yarn", {"beta_fast": 96, "beta_slow": 3}),  # 32:1, but 256 / 3 is no whole number of tokens
        ("llama3", {}),
        ("ntk-by-parts", {}),
        ("mrrope-pro", {}),
        ("yarn+resonance", {}),
        ("longrope", {"long_factor": [2.0] * 16}),
        ("longrope", {"long_factor": [2.0] * 16, "short_factor": [2.0] * 16}),
    ],
)
def test_what_an_architecture_without_factors_cannot_hold_is_refused(
    gguf_file: Make, method: str, settings: dict[str, Any]
) -> None:
    """Refused with exit 3: the architecture, what it does not read, and the methods that fit; no file appears."""
    path = gguf_file("qwen2")
    with pytest.raises(MethodUnsupported) as caught:
        ropepatch.open(path).patch(method, 4.0, **settings).write(path.with_name("out.gguf"))
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "qwen2" in message
    assert "factors" in message
    assert "linear, ntk, ntk-critical, theta and yarn" in message
    assert "\n" not in message
    assert [p.name for p in path.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("settings", [{"beta_fast": 16}, {"truncate": False}, {"beta_fast": 96, "beta_slow": 3}])
def test_llama_takes_any_yarn_as_baked_factors(gguf_file: Make, settings: dict[str, Any]) -> None:
    """The same parameters are exact on llama, through rope_freqs and attn_factor with type none."""
    _, output = patched(gguf_file(), "yarn", **settings)
    agrees(output, wanted("yarn", **settings))
    keys = engine.keys_of(output)
    assert keys["llama.rope.scaling.type"] == "none"
    assert "llama.rope.scaling.factor" not in keys
    assert keys["llama.rope.scaling.attn_factor"] == pytest.approx(1.1386294, rel=SINGLE)


def test_bake_writes_factors_where_a_key_would_do(gguf_file: Make) -> None:
    """With bake, plain YaRN is a tensor too, and the net result is the same."""
    _, output = patched(gguf_file(), "yarn", bake=True)
    assert FREQS in engine.tensors_of(output)
    agrees(output, wanted("yarn"))


def test_dynamic_is_refused_with_what_would_work(gguf_file: Make) -> None:
    """llama.cpp's base does not follow the length."""
    with pytest.raises(MethodUnsupported, match=r"dynamic follows the length at run time.*ntk sets the base"):
        ropepatch.open(gguf_file()).patch("dynamic", 4.0)


# Files that are scaled already ---------------------------------------------------------------------------------------

LLAMA3 = extend("llama3", Target(8.0, 8192, ROPE), {})
FACTORS = (ROPE.inv_freq / LLAMA3.apply(ROPE, None).inv_freq).astype(np.float32)
CONTEXT_31 = {".context_length": 131072}


def test_llama3_factors_are_recognised(gguf_file: Make) -> None:
    """A bare tensor with Llama 3.1's factors is named llama3, and the list itself is kept in the profile."""
    profile = ropepatch.open(gguf_file(keys=CONTEXT_31, tensors={FREQS: FACTORS})).profile
    group = profile.groups["default"]
    assert group.scaling == LLAMA3
    assert group.factors == tuple(float(f) for f in FACTORS)
    assert (profile.trained_context, profile.declared_context) == (8192, 131072)


def test_unknown_factors_are_a_list(gguf_file: Make) -> None:
    """Factors that no published scaling makes are shown as they are."""
    odd = np.linspace(1, 5, 16, dtype=np.float32) ** 1.3
    group = ropepatch.open(gguf_file(tensors={FREQS: odd})).profile.groups["default"]
    assert group.scaling.to_json() == {"method": "factors", "long": [float(f) for f in odd], "attention_factor": 1.0}


@pytest.mark.parametrize("tensors", [{}, {FREQS: FACTORS}])
def test_a_scaled_file_is_not_scaled_again_by_accident(gguf_file: Make, tensors: dict[str, Any]) -> None:
    """By default a second scaling is refused; the message names what is in force and both ways on."""
    keys = {} if tensors else {".rope.scaling.type": "yarn", ".rope.scaling.factor": 8.0}
    path = gguf_file(keys={**CONTEXT_31, ".rope.scaling.original_context_length": 8192, **keys}, tensors=tensors)
    with pytest.raises(AlreadyScaled, match=r"(llama3|yarn) 8x.*--existing replace.*--existing compose"):
        ropepatch.open(path).patch("yarn", 4.0)


def test_replace_starts_again_from_the_original_context(gguf_file: Make) -> None:
    """The old factors become ones, the new scaling counts from the trained context."""
    path = gguf_file(keys={**CONTEXT_31, ".rope.scaling.original_context_length": 8192}, tensors={FREQS: FACTORS})
    _, output = patched(path, "yarn", 2.0, existing="replace")
    agrees(output, wanted("yarn", 2.0, 8192))
    np.testing.assert_array_equal(engine.tensors_of(output)[FREQS], np.ones(16, np.float32))
    assert engine.keys_of(output)["llama.context_length"] == 16384
    assert engine.keys_of(output)["llama.rope.scaling.original_context_length"] == 8192


def test_replace_by_none_takes_the_scaling_out(gguf_file: Make) -> None:
    """The file rotates as it was trained, and declares the trained context."""
    keys = {".context_length": 1024, ".rope.scaling.original_context_length": CONTEXT}
    keys |= {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0, ".rope.scaling.attn_factor": 1.2}
    _, output = patched(gguf_file(keys=keys), "none", None, existing="replace")
    inv_freq, magnitude = engine.computed(output)
    np.testing.assert_allclose(inv_freq, ROPE.inv_freq)
    assert magnitude == 1.0
    assert engine.keys_of(output)["llama.context_length"] == CONTEXT


@pytest.mark.parametrize("method", ["yarn", "linear", "mrrope-pro", "ntk"])
def test_compose_multiplies_into_the_factors_that_are_there(gguf_file: Make, method: str) -> None:
    """Stacked on Llama 3.1's factors, the net frequencies are the second method's on top of the first."""
    path = gguf_file(keys={**CONTEXT_31, ".rope.scaling.original_context_length": 8192}, tensors={FREQS: FACTORS})
    _, output = patched(path, method, 2.0, existing="compose")
    first = LLAMA3.apply(ROPE, None)
    stacked = Spectrum(first.inv_freq, ROPE.rope_theta, DIMS, DIMS)
    agrees(output, wanted(method, 2.0, 131072, stacked))
    assert engine.keys_of(output)["llama.context_length"] == 2 * 131072


def test_compose_on_a_yarn_file_is_baked(gguf_file: Make) -> None:
    """Two YaRNs fit no key: both end in the tensor, the magnitudes multiply."""
    keys = {".context_length": 1024, ".rope.scaling.original_context_length": CONTEXT}
    keys |= {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0}
    _, output = patched(gguf_file(keys=keys), "yarn", 2.0, existing="compose")
    first = wanted("yarn")
    stacked = Spectrum(first.inv_freq, ROPE.rope_theta, DIMS, DIMS, first.attention_scale)
    agrees(output, wanted("yarn", 2.0, 1024, stacked))


def test_compose_on_an_architecture_without_factors_is_refused(gguf_file: Make) -> None:
    """Without a tensor there is no place for a second scaling."""
    keys = {".context_length": 1024, ".rope.scaling.original_context_length": CONTEXT}
    keys |= {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0}
    with pytest.raises(MethodUnsupported, match="qwen2"):
        ropepatch.open(gguf_file("qwen2", keys)).patch("yarn", 2.0, existing="compose")


def test_the_old_name_of_the_factor_is_read_and_cleared(gguf_file: Make) -> None:
    """A file with scale_linear is scaled; replacing leaves no second factor behind."""
    path = gguf_file(keys={".rope.scale_linear": 4.0, ".context_length": 1024})
    model = ropepatch.open(path)
    assert model.profile.groups["default"].scaling.to_json() == {"method": "linear", "factor": 4.0}
    with pytest.raises(AlreadyScaled):
        model.patch("yarn", 2.0)
    for method in ("ntk", "linear", "yarn"):
        _, output = patched(path, method, 2.0, existing="replace", original=CONTEXT)
        agrees(output, wanted(method, 2.0))


@pytest.mark.parametrize("value", ["llama3", "dynamic", "mrope", "default", "YARN", ""])
def test_an_unknown_scaling_type_is_refused(gguf_file: Make, value: str) -> None:
    """A string that makes llama.cpp abort is named, with those that it knows."""
    with pytest.raises(InputError, match=r"llama\.cpp aborts on it; it knows none, linear, yarn, longrope") as caught:
        _ = ropepatch.open(gguf_file(keys={".rope.scaling.type": value})).profile
    assert "llama.rope.scaling.type" in str(caught.value)


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        ("gpt2", NoRope, "has no rotary position embedding"),
        ("bert", NoRope, "has no rotary position embedding"),
        ("mamba", NoRope, "has no rotary position embedding"),
        ("llama9", InputError, "'llama9' is not one that llama.cpp loads"),
    ],
)
def test_architectures_without_rope_and_unknown_ones(
    gguf_file: Make, label: str, error: type[InputError], message: str
) -> None:
    """Refused by name: nothing to patch, or no knowledge of what its engine reads."""
    with pytest.raises(error, match=message):
        _ = ropepatch.open(gguf_file(label=label)).profile


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({".rope.freq_base": np.float32(math.nan)}, "freq_base"),
        ({".rope.freq_base": -1.0}, "freq_base"),
        ({".rope.freq_base": 0.0}, "freq_base"),
        ({".rope.freq_base": "10000"}, "freq_base"),
        ({".rope.dimension_count": 31}, "rotates 31 dimensions"),
        ({".rope.dimension_count": 1 << 20}, "rotates"),
        ({".rope.scaling.type": "yarn", ".rope.scaling.factor": -4.0}, "factor"),
        ({".rope.scaling.type": "yarn", ".rope.scaling.factor": math.inf}, "factor"),
        ({".rope.scaling.factor": 0.5}, "factor"),
        ({".rope.dimension_count": None, ".attention.key_length": None, ".embedding_length": None}, "says neither"),
        ({"general.architecture": Typed(5, __import__("gguf").GGUFValueType.UINT32)}, "general.architecture"),
    ],
)
def test_impossible_values_are_refused_by_key(gguf_file: Make, keys: dict[str, Any], message: str) -> None:
    """A value that no engine can use is refused with file and key."""
    path = gguf_file(keys=keys)
    with pytest.raises(InputError, match=message) as caught:
        _ = ropepatch.open(path).profile
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("width", [15, 0xFFFFFFFE])
def test_impossible_widths_of_sliding_layers_are_refused(gguf_file: Make, width: int) -> None:
    """What sliding layers rotate is bounded as the others' is, before a list as long is made of it."""
    keys = {".attention.sliding_window": 48, ".rope.freq_base_swa": 5000.0, ".rope.dimension_count_swa": width}
    with pytest.raises(InputError, match=f"rotates {width:g} dimensions".replace("+", r"\+")):
        _ = ropepatch.open(gguf_file(keys=keys, label="laguna")).profile


def test_factor_tensors_of_the_wrong_length_are_refused(gguf_file: Make) -> None:
    """One value a pair, or the engine would not load it."""
    with pytest.raises(InputError, match="has 8 values for 16 rotated pairs"):
        _ = ropepatch.open(gguf_file(tensors={FREQS: np.ones(8, np.float32)})).profile


def test_factor_tensors_that_are_not_f32_are_refused(gguf_file: Make) -> None:
    """An F16 tensor makes llama.cpp abort."""
    with pytest.raises(InputError, match=r"rope_freqs\.weight is not a small F32 tensor"):
        _ = ropepatch.open(gguf_file(tensors={FREQS: np.ones(16, np.float16)})).profile


def test_keys_that_are_not_understood_are_kept(gguf_file: Make) -> None:
    """A rope key of another tool stands under `unrecognised`, and is still there after a patch."""
    keys = {".rope.scaling.finetuned": True, ".rope.something": 3.5, ".rope.scaling.yarn_beta_fast": 64.0}
    path = gguf_file("qwen2", keys)
    found = ropepatch.open(path).profile.unrecognised
    assert found == {
        "qwen2.rope.scaling.finetuned": True,
        "qwen2.rope.something": 3.5,
        "qwen2.rope.scaling.yarn_beta_fast": 64.0,
    }
    _, output = patched(path, "ntk")
    assert engine.keys_of(output)["qwen2.rope.something"] == 3.5
    assert engine.keys_of(output)["qwen2.rope.scaling.finetuned"] is True


def test_other_tensors_and_keys_are_untouched(gguf_file: Make) -> None:
    """A patch that adds a tensor leaves every other tensor and key as it was."""
    path = gguf_file()
    patch, output = patched(path, "mrrope-pro")
    old, new = engine.tensors_of(path), engine.tensors_of(output)
    assert set(new) - set(old) == {FREQS}
    assert all(np.array_equal(old[name], new[name]) for name in old)
    edited = {edit.name for edit in patch.edits}
    before, after = engine.keys_of(path), engine.keys_of(output)
    assert {k: v for k, v in before.items() if k not in edited} == {k: v for k, v in after.items() if k not in edited}


def test_a_file_that_says_no_context_needs_one(gguf_file: Make) -> None:
    """Without context_length a factor has nothing to multiply; --original-length says it."""
    path = gguf_file("qwen2", {".context_length": None})
    with pytest.raises(UsageError, match="--original-length"):
        ropepatch.open(path).patch("yarn", 4.0)
    _, output = patched(path, "yarn", original=CONTEXT)
    agrees(output, wanted("yarn"))
    assert engine.keys_of(output)["qwen2.context_length"] == 4 * CONTEXT


# LongRoPE -------------------------------------------------------------------------------------------------------------

LONG_LIST = [1.0 + 0.5 * i for i in range(16)]
SHORT_LIST = [1.0 + 0.01 * i for i in range(16)]


@pytest.mark.parametrize("arch", ["phi3", "llama"])
def test_longrope_is_two_tensors_and_no_factor(gguf_file: Make, arch: str) -> None:
    """Both lists, the type, the magnitude and the original context; a factor key would slow every pair again."""
    _, output = patched(gguf_file(arch), "longrope", long_factor=LONG_LIST, short_factor=SHORT_LIST)
    keys = engine.keys_of(output)
    assert keys[f"{arch}.rope.scaling.type"] == "longrope"
    assert f"{arch}.rope.scaling.factor" not in keys
    magnitude = math.sqrt(1 + math.log(4) / math.log(256))
    assert keys[f"{arch}.rope.scaling.attn_factor"] == pytest.approx(magnitude, rel=SINGLE)
    for n_ctx, factors in ((256, SHORT_LIST), (512, LONG_LIST)):
        inv_freq, net = engine.computed(output, n_ctx)
        np.testing.assert_allclose(inv_freq, ROPE.inv_freq / factors, rtol=1e-6)
        assert net == pytest.approx(magnitude, rel=SINGLE)
    again = ropepatch.open(output).profile.groups["default"].scaling
    assert (again.name, again.static) == ("longrope", False)


def test_a_phi3_file_is_recognised_by_its_tensors(gguf_file: Make) -> None:
    """The converter writes no type for Phi-3: the two tensors say that it is LongRoPE."""
    tensors = {LONG: np.array(LONG_LIST, np.float32), SHORT: np.array(SHORT_LIST, np.float32)}
    keys = {".context_length": 1024, ".rope.scaling.original_context_length": 256, ".rope.scaling.attn_factor": 1.19}
    path = gguf_file("phi3", keys, tensors)
    model = ropepatch.open(path)
    assert model.profile.groups["default"].scaling.name == "longrope"
    assert model.profile.trained_context == 256
    short, long = model.frequencies()["default"], model.frequencies(length=1024)["default"]
    np.testing.assert_allclose(short.inv_freq, ROPE.inv_freq / SHORT_LIST, rtol=1e-6)
    np.testing.assert_allclose(long.inv_freq, ROPE.inv_freq / LONG_LIST, rtol=1e-6)
    assert long.attention_scale == pytest.approx(1.19, rel=1e-6)
    _, output = patched(path, "ntk", existing="replace")
    agrees(output, wanted("ntk"))


# Sliding windows ------------------------------------------------------------------------------------------------------


def test_gemma3_has_two_groups(gguf_file: Make) -> None:
    """Full layers at freq_base with the file's scaling, sliding ones at their own base without it."""
    keys = {".rope.scaling.type": "linear", ".rope.scaling.factor": 8.0}
    profile = ropepatch.open(gguf_file("gemma3", keys)).profile
    full, sliding = profile.groups["full_attention"], profile.groups["sliding_attention"]
    assert (full.rope_theta, full.scaling.to_json()) == (10000.0, {"method": "linear", "factor": 8.0})
    assert (sliding.rope_theta, sliding.scaling.name, sliding.window) == (2000.0, "none", 48)
    assert (full.layers, sliding.layers) == ((1,), (0,))


@pytest.mark.parametrize("method", ["ntk", "linear", "yarn", "theta"])
def test_gemma3_s_sliding_base_stays(gguf_file: Make, method: str) -> None:
    """Whatever happens to the full layers, the sliding ones keep base and scaling, as the output itself says."""
    settings = {"rope_theta": 1e6} if method == "theta" else {}
    _, output = patched(gguf_file("gemma3"), method, None if method == "theta" else 4.0, **settings)
    sliding = ropepatch.open(output).profile.groups["sliding_attention"]
    assert (sliding.rope_theta, sliding.scaling.name) == (2000.0, "none")
    assert engine.keys_of(output)["gemma3.rope.freq_base_swa"] == 2000.0


SLIDING = {".attention.sliding_window": 48}


@pytest.mark.parametrize("keys", [SLIDING, {**SLIDING, ".rope.freq_base_swa": 10000.0}])
@pytest.mark.parametrize("label", ["gpt-oss", "gemma2"])
@pytest.mark.parametrize("method", ["ntk", "linear", "yarn"])
def test_sliding_layers_that_follow_are_one_group(
    gguf_file: Make, label: str, method: str, keys: dict[str, Any]
) -> None:
    """Where sliding layers take the file's base and factor, all layers are one group and a patch reaches all."""
    path = gguf_file("qwen3", keys, label=label)
    assert list(ropepatch.open(path).profile.groups) == ["default"]
    _, output = patched(path, method)
    assert list(ropepatch.open(output).profile.groups) == ["default"]
    agrees(output, wanted(method))
    values = engine.keys_of(output)
    assert values.get(f"{label}.rope.freq_base_swa") in (None, values[f"{label}.rope.freq_base"])


@pytest.mark.parametrize("label", ["olmo2", "laguna", "mimo2", "gemma3n"])
@pytest.mark.parametrize("method", ["ntk", "linear", "yarn"])
def test_sliding_layers_that_do_not_follow_are_a_group(gguf_file: Make, label: str, method: str) -> None:
    """Where the factor stops at the full layers, there are two groups even while both rotate alike."""
    path = gguf_file("qwen3", SLIDING, label=label)
    assert sorted(ropepatch.open(path).profile.groups) == ["full_attention", "sliding_attention"]
    if label == "olmo2" and method == "ntk":
        with pytest.raises(MethodUnsupported, match=r"takes rope\.freq_base for the sliding layers of olmo2 too"):
            ropepatch.open(path).patch(method, 4.0)
        return
    _, output = patched(path, method)
    agrees(output, wanted(method))
    sliding = ropepatch.open(output).profile.groups["sliding_attention"]
    assert (sliding.rope_theta, sliding.scaling.name) == (10000.0, "none")


def test_a_sliding_base_that_would_be_copied_is_pinned(gguf_file: Make) -> None:
    """laguna copies freq_base to its sliding layers: raising it writes the old one for those."""
    _, output = patched(gguf_file("qwen3", SLIDING, label="laguna"), "ntk")
    values = engine.keys_of(output)
    assert values["laguna.rope.freq_base_swa"] == 10000.0
    assert values["laguna.rope.freq_base"] == pytest.approx(10000.0 * 4 ** (32 / 30), rel=SINGLE)


def test_a_base_of_its_own_stays(gguf_file: Make) -> None:
    """gpt-oss with another base for its sliding layers: they keep it; a factor, which would reach them, is refused."""
    path = gguf_file("qwen3", {**SLIDING, ".rope.freq_base_swa": 5000.0}, label="gpt-oss")
    _, output = patched(path, "ntk")
    groups = ropepatch.open(output).profile.groups
    assert groups["sliding_attention"].rope_theta == 5000.0
    assert groups["full_attention"].rope_theta > 40000
    with pytest.raises(MethodUnsupported, match="applies the factor to the sliding layers of gpt-oss too"):
        ropepatch.open(path).patch("yarn", 4.0)


def test_a_lift_of_what_was_lowered_is_the_method(gguf_file: Make) -> None:
    """Methods with a key of their own come back by name and parameters."""
    for method in ("linear", "yarn"):
        patch, output = patched(gguf_file(), method)
        assert ropepatch.open(output).profile.groups["default"].scaling == patch.after.groups["default"].scaling


@pytest.mark.parametrize("method", ["yarn", "linear", "ntk"])
def test_a_graph_that_rotates_by_constants_is_refused(gguf_file: Make, method: str) -> None:
    """deepseek2-ocr's graph ignores scaling and stops on another base, so that nothing is written for it."""
    path = gguf_file("qwen2", label="deepseek2-ocr")

    with pytest.raises(MethodUnsupported, match="nothing in the file reaches the rotation of default"):
        ropepatch.open(path).patch(method, 4.0)
