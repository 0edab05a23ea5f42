"""Everything that fuzzing starts from, and every input that it ever broke something with."""

from __future__ import annotations

import random

import pytest

from fuzz import mutations, seeds
from fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_old_crashes(target: str) -> None:
    """Each is read, or refused with an error made on purpose; what is read can be changed and read again."""
    for data in seeds.of(target):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_changes_of_each(target: str) -> None:
    """So is a small sample of what the fuzzer makes of them, the same one every time."""
    draw = random.Random(5)
    start = list(seeds.of(target))
    for _ in range(150):
        TARGETS[target](mutations.mutate(target, draw.choice(start), draw))


def test_the_fuzzer_finds_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stumbles over one value is found out by the changes that it makes."""
    from ropepatch.containers import json_text

    original = json_text.parse

    def stumbles(text: str, where: str) -> dict[str, object]:
        value = original(text, where)
        if value.get("rope_theta") == 127:
            raise KeyError("rope_theta")
        return value

    monkeypatch.setattr(json_text, "parse", stumbles)
    draw = random.Random(1)
    start = list(seeds.of("config"))
    inputs = [mutations.mutate("config", draw.choice(start), draw) for _ in range(3000)]
    with pytest.raises(KeyError, match="rope_theta"):
        any(map(TARGETS["config"], inputs))
