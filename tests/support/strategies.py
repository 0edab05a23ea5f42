"""hypothesis strategies: rotations, methods, JSON documents and GGUF contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from ropepatch import methods
from ropepatch.methods import Method, ParameterError, Spectrum, Target

#: The trained context of the shortest real model is far above this; below 2π tokens not even the first pair turns once.
SHORTEST_CONTEXT = 7


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Finite floats from `low` to `high`."""
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def spectra() -> st.SearchStrategy[Spectrum]:
    """Plain rotations of 2 to 128 pairs."""
    return st.builds(
        lambda theta, pairs: Spectrum.plain(theta, 2 * pairs),
        numbers(100.0, 1e8),
        st.integers(min_value=2, max_value=128),
    )


def contexts() -> st.SearchStrategy[int]:
    """Trained contexts in tokens."""
    return st.integers(SHORTEST_CONTEXT, 1 << 21)


def factors() -> st.SearchStrategy[float]:
    """Extensions, 1 and whole numbers among them."""
    return st.one_of(st.sampled_from([1.0, 2.0, 4.0, 8.0, 32.0]), numbers(1.0, 128.0))


@st.composite
def _bounds(draw: st.DrawFn, lowest: float) -> tuple[float, float]:
    slow = draw(numbers(lowest, 8.0))
    return draw(numbers(slow + 0.5, 96.0)), slow


@st.composite
def _betas(draw: st.DrawFn, lowest: float) -> dict[str, Any]:
    fast, slow = draw(_bounds(lowest))
    return draw(st.sampled_from([{}, {"beta_fast": fast, "beta_slow": slow}]))


@st.composite
def _bands(draw: st.DrawFn, lowest: float) -> dict[str, Any]:
    high, low = draw(_bounds(lowest))
    return draw(st.sampled_from([{}, {"low_freq_factor": low, "high_freq_factor": high}]))


@st.composite
def _sorted_list(draw: st.DrawFn, pairs: int) -> list[float]:
    """Divisors that rise from pair to pair, as a search gives them."""
    steps = draw(st.lists(numbers(0.0, 0.5), min_size=pairs, max_size=pairs))
    values, value = [], 1.0
    for step in steps:
        value += step
        values.append(value)
    return values


@dataclass(frozen=True)
class Case:
    """A method, the rotation that it starts from and the context that was trained."""

    method: Method
    rope: Spectrum
    original: int
    factor: float


def _settings(name: str, rope: Spectrum, lowest: float) -> st.SearchStrategy[dict[str, Any]]:
    pairs = rope.inv_freq.size
    if name == "yarn":
        return st.builds(lambda b, t: {**b, "truncate": t}, _betas(lowest), st.booleans())
    if name in ("ntk-by-parts", "mrrope-uni", "mrrope-pro"):
        return _betas(max(lowest, 1.0) if name == "ntk-by-parts" else lowest)
    if name == "llama3":
        return _bands(lowest)
    if name == "longrope":
        return st.fixed_dictionaries({"short_factor": _sorted_list(pairs), "long_factor": _sorted_list(pairs)})
    if name == "theta":
        return st.fixed_dictionaries({"rope_theta": numbers(2.0, 1e9)})
    return st.just({})


@st.composite
def cases(
    draw: st.DrawFn,
    accept: Callable[[type[Method]], bool] = lambda _: True,
    factor: st.SearchStrategy[float] | None = None,
    lowest_slow: float = 0.25,
) -> Case:
    """A method of the registry whose class `accept`s, with parameters that it allows.

    `lowest_slow` bounds beta_slow and low_freq_factor from below.
    """
    kind = draw(st.sampled_from([m for m in methods.REGISTRY.values() if accept(m)]))
    rope, original = draw(spectra()), draw(contexts())
    by = draw(factor if factor is not None else factors())
    if kind.applicable:
        chosen = draw(_settings(kind.name, rope, lowest_slow))
        case = Case(kind.extend(Target(by, original, rope), chosen), rope, original, by)
        try:
            case.method.apply(rope, None)
        except ParameterError:  # a base beyond any number
            reject()
        return case
    if kind.name == "proportional":
        return Case(
            kind.from_parameters({"partial_rotary_factor": draw(numbers(0.05, 1.0)), "factor": by}), rope, original, by
        )
    lists = {"long": draw(_sorted_list(rope.inv_freq.size)), "attention_factor": draw(numbers(0.5, 2.0))}
    return Case(kind.from_parameters(lists), rope, original, by)


# GGUF files -----------------------------------------------------------------------------------------------------------

_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "UINT8": st.integers(0, 2**8 - 1),
    "INT8": st.integers(-(2**7), 2**7 - 1),
    "UINT16": st.integers(0, 2**16 - 1),
    "INT16": st.integers(-(2**15), 2**15 - 1),
    "UINT32": st.integers(0, 2**32 - 1),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "FLOAT32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FLOAT64": st.floats(allow_nan=False, allow_infinity=False),
    "BOOL": st.booleans(),
    "STRING": st.text(max_size=20),
}


@st.composite
def gguf_values(draw: st.DrawFn, *, arrays: bool = True) -> tuple[str, Any]:
    """`(type name, value)`; the value of an array is `(element type name, list)`."""
    kind = draw(st.sampled_from([*_SCALARS, *(["ARRAY"] if arrays else [])]))
    if kind != "ARRAY":
        return kind, draw(_SCALARS[kind])
    inner = draw(st.sampled_from(list(_SCALARS)))
    return kind, (inner, draw(st.lists(_SCALARS[inner], min_size=1, max_size=6)))


def key_names() -> st.SearchStrategy[str]:
    """Metadata keys that are no alignment and no architecture."""
    return st.text("abcdefghijklmnopqrstuvwxyz._0123456789", min_size=1, max_size=24).filter(
        lambda name: not name.startswith("general.")
    )


@dataclass(frozen=True)
class GgufFile:
    """What a random file holds, and how it is laid down.

    Attributes:
        keys: values by key.
        tensors: F32 shapes (numpy order) by name, in order; each is filled with its own random numbers.
        big: big endian.
        alignment: None for the default.
        version: 2 or 3.
        unpadded: the file ends with the last tensor's last byte.
        trailing: bytes behind the data section.
    """

    keys: dict[str, tuple[str, Any]]
    tensors: dict[str, tuple[int, ...]]
    big: bool = False
    alignment: int | None = None
    version: int = 3
    unpadded: bool = False
    trailing: bytes = b""


@st.composite
def gguf_files(draw: st.DrawFn) -> GgufFile:
    """Random small files."""
    shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
    names = st.text("abc.weight", min_size=1, max_size=12).map(lambda name: f"t.{name}")
    unpadded = draw(st.booleans())
    return GgufFile(
        keys=draw(st.dictionaries(key_names(), gguf_values(), max_size=6)),
        tensors=draw(st.dictionaries(names, shapes, max_size=4)),
        big=draw(st.booleans()),
        alignment=draw(st.sampled_from([None, 32, 64, 256])),
        version=draw(st.sampled_from([2, 3])),
        unpadded=unpadded,
        trailing=b"" if unpadded else draw(st.binary(max_size=5)),
    )
