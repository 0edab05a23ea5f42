"""Parameters from a command line or a file: coerced, or refused by name."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

import pytest

from ropepatch import methods
from ropepatch.methods import REGISTRY, Method, ParameterError, Spectrum, Target

ROPE = Spectrum.plain(10000.0, 64)
TARGET = Target(4.0, 4096, ROPE)
ONES = [1.0] * 32
NEEDED: dict[str, dict[str, Any]] = {"theta": {"rope_theta": 500000.0}, "longrope": {"long_factor": ONES}}
APPLICABLE = [kind for kind in REGISTRY.values() if kind.applicable]


def fields_of(kind: type[Method], *types: type) -> list[str]:
    """The parameters of a class that hold one of these types (or None)."""
    hints = typing.get_type_hints(kind)
    return [
        f.name
        for f in dataclasses.fields(kind)
        if hints[f.name] in types or any(hints[f.name] == (t | None) for t in types)
    ]


NUMBERS = [(kind.name, name) for kind in APPLICABLE for name in fields_of(kind, int, float)]


@pytest.mark.parametrize("name", [kind.name for kind in APPLICABLE])
def test_unknown_settings_are_refused_with_the_valid_names(name: str) -> None:
    """A misspelt parameter is named, and so are all that there are."""
    with pytest.raises(ParameterError, match="no parameter 'beta_fats'") as caught:
        methods.extend(name, TARGET, {**NEEDED.get(name, {}), "beta_fats": 16})
    for field in dataclasses.fields(REGISTRY[name]):
        assert field.name in str(caught.value)


@pytest.mark.parametrize(("name", "field"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf", "1e999", "four", "", True, [4.0], {}])
def test_what_is_no_finite_number_is_refused(name: str, field: str, value: Any) -> None:
    """NaN, infinity, texts that are none, booleans and lists are refused with the method's and parameter's name."""
    with pytest.raises(ParameterError, match=f"{name} {field}"):
        methods.extend(name, TARGET, {**NEEDED.get(name, {}), field: value})


@pytest.mark.parametrize("name", [n for n, field in NUMBERS if field == "factor" and n != "longrope"])
@pytest.mark.parametrize("factor", [0.999, 0.0, -4.0])
def test_factors_below_one_are_refused(name: str, factor: float) -> None:
    """No method shortens the context."""
    with pytest.raises(ParameterError, match="factor must be at least 1"):
        methods.extend(name, Target(factor, 4096, ROPE), {})


@pytest.mark.parametrize("name", sorted({n for n, field in NUMBERS if field == "original_max_position_embeddings"}))
@pytest.mark.parametrize("value", [0, -1, 4096.5])
def test_impossible_original_contexts_are_refused(name: str, value: float) -> None:
    """An original context is a positive whole number."""
    with pytest.raises(ParameterError, match="original"):
        methods.extend(name, TARGET, {**NEEDED.get(name, {}), "original_max_position_embeddings": value})


@pytest.mark.parametrize("name", sorted({n for n, field in NUMBERS if field == "original_max_position_embeddings"}))
def test_an_unknown_original_context_is_asked_for(name: str) -> None:
    """A method that needs the original context says which option gives it."""
    with pytest.raises(ParameterError, match="--original-length"):
        methods.extend(name, Target(4.0, None, ROPE), NEEDED.get(name, {}))


@pytest.mark.parametrize(
    ("name", "settings", "field", "wanted"),
    [
        ("yarn", {"beta_fast": "16"}, "beta_fast", 16.0),
        ("yarn", {"beta_fast": 16}, "beta_fast", 16.0),
        ("yarn", {"truncate": "false"}, "truncate", False),
        ("yarn", {"truncate": "ON"}, "truncate", True),
        ("yarn", {"attention_factor": "1.25"}, "attention_factor", 1.25),
        ("yarn", {"attention_factor": "none"}, "attention_factor", None),
        ("yarn", {"original_max_position_embeddings": "8192"}, "original_max_position_embeddings", 8192),
        ("yarn", {"original_max_position_embeddings": 8192.0}, "original_max_position_embeddings", 8192),
        ("llama3", {"high_freq_factor": "4e0"}, "high_freq_factor", 4.0),
        ("theta", {"rope_theta": "1e6"}, "rope_theta", 1e6),
        ("longrope", {"long_factor": ["1"] * 32}, "long_factor", tuple(ONES)),
    ],
)
def test_texts_and_numbers_are_coerced(name: str, settings: dict[str, Any], field: str, wanted: Any) -> None:
    """A value takes its field's type, whatever spelling it came in."""
    value = getattr(methods.extend(name, TARGET, settings), field)
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize("value", ["maybe", 1, 0.0, None, []])
def test_what_is_no_boolean_is_refused(value: Any) -> None:
    """Only true and false, and their usual texts, are booleans."""
    with pytest.raises(ParameterError, match="yarn truncate must be true or false"):
        methods.extend("yarn", TARGET, {"truncate": value})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("yarn", {"beta_fast": 0.5}),
        ("yarn", {"beta_slow": 0}),
        ("yarn", {"attention_factor": 0}),
        ("ntk-by-parts", {"beta_fast": 1.0}),
        ("ntk-by-parts", {"beta_slow": 0.5}),
        ("llama3", {"low_freq_factor": 5.0}),
        ("mrrope-pro", {"beta_slow": 40.0}),
        ("theta", {"rope_theta": 1.0}),
        ("theta", {}),
        ("longrope", {}),
        ("longrope", {"long_factor": [0.0] * 32}),
        ("longrope", {"long_factor": "12"}),
        ("longrope", {"long_factor": [1.0] * 31}),
        ("longrope", {"long_factor": ONES, "short_factor": [1.0] * 33}),
        ("longrope", {"long_factor": [*ONES[:-1], math.nan]}),
    ],
)
def test_impossible_values_are_refused(name: str, settings: dict[str, Any]) -> None:
    """A parameter that no formula can take is refused before anything is computed, and the method is named."""
    with pytest.raises(ParameterError, match="factors for|" + name):
        methods.extend(name, TARGET, settings)


def test_unknown_methods_are_refused_with_the_known_names() -> None:
    """A misspelt method lists the registry."""
    with pytest.raises(ParameterError, match="unknown method 'yarm'") as caught:
        methods.get("yarm")
    assert all(name in str(caught.value) for name in REGISTRY)


@pytest.mark.parametrize("name", ["proportional", "factors", "yarn+factors"])
def test_methods_that_can_only_be_read_are_not_applied(name: str) -> None:
    """Asking for one says why not."""
    with pytest.raises(ParameterError, match="can be read but not applied"):
        methods.extend(name, TARGET, {})


def test_every_method_explains_itself() -> None:
    """What `methods` and `explain` print is there for every class, and names are unique."""
    for name, kind in REGISTRY.items():
        assert kind.name == name
        for text in (kind.title, kind.formula, kind.paper, kind.reach, kind.fine_tuning, kind.about, kind.__doc__):
            assert text
            assert text == text.strip()
