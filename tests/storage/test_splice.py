"""Splices: exact, invertible, and small."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropepatch.storage.splice import Splice, between, check, invert, segments

#: few different bytes, so that ends and middles agree often
BYTES = st.binary(max_size=30) | st.lists(st.sampled_from(b"ab"), max_size=12).map(bytes)


@st.composite
def edits(draw: st.DrawFn) -> tuple[bytes, list[Splice]]:
    """A text and splices of it, in order."""
    pieces = draw(st.lists(st.tuples(BYTES, BYTES, BYTES), max_size=5))
    old, splices = b"", []
    for kept, before, after in pieces:
        old += kept
        splices.append(Splice(len(old), before, after))
        old += before
    return old + draw(BYTES), splices


def apply(old: bytes, splices: list[Splice]) -> bytes:
    """What `segments` describes."""
    parts = segments(splices, len(old))
    return b"".join(part if isinstance(part, bytes) else old[part[0] : part[0] + part[1]] for part in parts)


def replaced(old: bytes, splices: list[Splice]) -> bytes:
    """The same, from the back, by slicing."""
    for splice in reversed(splices):
        assert old[splice.offset : splice.offset + len(splice.before)] == splice.before
        old = old[: splice.offset] + splice.after + old[splice.offset + len(splice.before) :]
    return old


@given(edits())
def test_segments_apply_the_splices(case: tuple[bytes, list[Splice]]) -> None:
    """The segments put together are the old bytes with each range exchanged."""
    old, splices = case
    check(splices, len(old))
    assert apply(old, splices) == replaced(old, splices)


@given(edits())
def test_the_inverse_restores_the_old_bytes(case: tuple[bytes, list[Splice]]) -> None:
    """Applying and undoing gives the same bytes; the inverse of the inverse is the splice itself."""
    old, splices = case
    new = apply(old, splices)
    assert apply(new, invert(splices)) == old
    assert invert(invert(splices)) == splices


@given(edits())
def test_json_round_trip(case: tuple[bytes, list[Splice]]) -> None:
    """Splices survive JSON text."""
    assert [Splice.from_json(json.loads(json.dumps(s.to_json()))) for s in case[1]] == case[1]


@given(BYTES, BYTES, st.integers(0, 1000))
def test_between_is_one_minimal_splice(old: bytes, new: bytes, offset: int) -> None:
    """One splice turns one text into the other, none if they agree; its ends differ, so that it cannot be shorter."""
    splices = between(old, new, offset)
    assert bool(splices) == (old != new)
    if not splices:
        return
    (splice,) = splices
    moved = [Splice(splice.offset - offset, splice.before, splice.after)]
    assert apply(old, moved) == new
    if splice.before and splice.after:
        assert splice.before[0] != splice.after[0]
        assert splice.before[-1] != splice.after[-1]


@pytest.mark.parametrize(
    "splices",
    [
        [Splice(5, b"ab", b""), Splice(6, b"b", b"")],
        [Splice(5, b"", b"x"), Splice(4, b"", b"x")],
        [Splice(9, b"ab", b"")],
        [Splice(11, b"", b"x")],
        [Splice(-1, b"", b"x")],
    ],
)
def test_overlaps_disorder_and_overruns_are_refused(splices: list[Splice]) -> None:
    """Splices that no file of ten bytes can have are refused."""
    with pytest.raises(ValueError, match="overlaps another or leaves the file"):
        check(splices, 10)
