"""Walking over the texts of an array in strides."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from ropepatch.containers import texts


def one_by_one(data: bytes, at: int, count: int, order: str) -> int:
    """Where the last text ends, as the format defines it."""
    for _ in range(count):
        at += 8 + struct.unpack_from(order + "Q", data, at)[0]
    return at


def packed(items: list[bytes], order: str = "<") -> bytes:
    """The texts as GGUF writes them."""
    return b"".join(struct.pack(order + "Q", len(item)) + item for item in items)


def vocabulary(draw: random.Random, kind: str) -> list[bytes]:
    """Texts that make every second guess wrong: empty ones, long ones, ones that hold zeros or look like lengths."""
    plain = [bytes(draw.choices(b"abcdefg", k=draw.randint(1, 12))) for _ in range(9000)]
    odd = {
        "plain": [b"token"],
        "empty": [b""],
        "long": [b"x" * 255, b"x" * 256, b"x" * 70_000],
        "zeros": [b"\0" * 7, b"a\0\0\0\0\0\0\0b", b"\0" * 30],
        "lengths": [struct.pack("<Q", n) + b"yes" for n in (1, 3, 200)],
    }[kind]
    for _ in range(40):
        plain[draw.randrange(len(plain))] = draw.choice(odd)
    return plain


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["plain", "empty", "long", "zeros", "lengths"])
@pytest.mark.parametrize("seed", range(4))
def test_strides_end_where_single_steps_end(kind: str, order: str, seed: int) -> None:
    """Whatever the texts hold and whatever follows them, the walk ends where walking one by one ends."""
    draw = random.Random(f"{kind}{seed}")
    items = vocabulary(draw, kind)
    before, after = b"\1" * seed, bytes(draw.choices(range(3), k=draw.randint(0, 100)))
    data = before + packed(items, order) + after
    assert texts.skip(data, seed, len(data), len(items), order) == one_by_one(data, seed, len(items), order)
    assert texts.skip(data, seed, len(data), len(items), order) == len(data) - len(after)


@pytest.mark.parametrize("cut", [1, 3, 9, 5000])
def test_a_text_that_leaves_the_file_is_noticed(cut: int) -> None:
    """In a truncated file the walk ends behind the file, or at a length that is not all there; it never ends inside."""
    data = packed(vocabulary(random.Random(1), "plain"))
    short = data[:-cut]
    with contextlib.suppress(struct.error):
        assert texts.skip(short, 0, len(short), 9000) > len(short)


def test_a_text_longer_than_any_file_is_noticed() -> None:
    """A length of 2**64 - 1 in the middle of a vocabulary ends the walk behind the file."""
    items = packed([b"token"] * 2000)
    data = items + struct.pack("<Q", 2**64 - 1) + items
    assert texts.skip(data, 0, len(data), 4001) > len(data)
