"""The table of tensor types."""

from __future__ import annotations

import ctypes

import pytest
from gguf.constants import GGML_QUANT_SIZES

from ropepatch.containers.ggml_types import TYPES

#: gguf-py's entry is older than the block: llama.cpp keeps two half floats with the 32 bytes, not two floats
OUTDATED = {9}


def test_the_table_is_the_librarys() -> None:
    """Names, block lengths and block sizes equal those of the installed gguf library."""
    library = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items() if kind not in OUTDATED}

    assert library == {code: TYPES[code] for code in library}


def test_the_table_is_llama_cpps() -> None:
    """Every type that llama.cpp knows, and no other, is in the table with the sizes that it reckons with."""
    module = pytest.importorskip("xllamacpp.xllamacpp")
    engine = ctypes.CDLL(module.__file__)
    engine.ggml_blck_size.restype, engine.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
    known = {code: (engine.ggml_blck_size(code), engine.ggml_type_size(code)) for code in range(max(TYPES) + 1)}

    assert {code: sizes for code, sizes in known.items() if all(sizes)} == {c: TYPES[c][1:] for c in TYPES}
