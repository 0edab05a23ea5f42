"""The table of tensor types."""

from __future__ import annotations

from gguf.constants import GGML_QUANT_SIZES

from ropepatch.containers.ggml_types import TYPES


def test_the_table_is_the_librarys() -> None:
    """Names, block lengths and block sizes equal those of the installed gguf library."""
    library = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}

    assert library == {code: TYPES[code] for code in library}
