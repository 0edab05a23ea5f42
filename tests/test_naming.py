"""Names that every part reads alike."""

from __future__ import annotations

import pytest

from ropepatch.naming import firsts


@pytest.mark.parametrize(
    ("names", "folder", "models"),
    [
        (["b.gguf", "a.gguf", "config.json", "a.gguf.part"], None, ["a.gguf", "b.gguf"]),
        (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], None, ["m-00001-of-00002.gguf"]),
        # five digits on both sides, or llama.cpp takes it for no shard
        (["m-2-of-2.gguf", "m-0002-of-0002.gguf"], None, ["m-0002-of-0002.gguf", "m-2-of-2.gguf"]),
        (["m.gguf", "mmproj-m.gguf", "m-MMPROJ-f16.gguf", "m.imatrix.gguf", "imatrix_m.gguf"], None, ["m.gguf"]),
        (["m.gguf", "Q8_0/m.gguf", "Q8_0x/m.gguf"], "Q8_0", ["Q8_0/m.gguf"]),
        (["mmproj/m.gguf", "imatrix/m.gguf"], None, ["imatrix/m.gguf", "mmproj/m.gguf"]),
        (["mmproj-m.gguf"], None, []),
    ],
)
def test_models_by_their_first_shards(names: list[str], folder: str | None, models: list[str]) -> None:
    """One name a model, sorted; a projector or an importance matrix is none, whatever its folder is called."""
    assert firsts(names, folder) == models
