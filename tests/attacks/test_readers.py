"""Ours against the real readers: what llama.cpp or the safetensors library refuses is refused, the rest is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ropepatch.containers import gguf, safetensors
from ropepatch.errors import InputError
from tests.attacks import gguf_cases, judges, safetensors_cases

#: where ours differs, and why
GGUF_DIFFERENCES = {
    # llama.cpp refuses to swap bytes; gguf-py reads such files, and inspecting one on another machine is no risk.
    "big-endian": "read",
}
SAFETENSORS_DIFFERENCES = {
    # Python's readers take the last, the library takes one of them: nobody can say which one a person means.
    "a name twice": "refused",
    "a metadata key twice": "refused",
    # The format has an object and a text here. That the library's JSON parser takes other spellings of them, too, is an
    # accident of how it is made; no writer has them.
    "entry a list": "refused",
    "dtype an object of a variant": "refused",
}


def differences(
    folder: Path,
    files: Iterator[tuple[str, bytes]],
    suffix: str,
    ours: Callable[[Path], Any],
    theirs: Callable[[Sequence[Path]], dict[str, str]],
) -> tuple[dict[str, str], int]:
    """What ours makes of the files where the real reader makes something else of them, and how many those read."""
    paths = {}
    for number, (name, data) in enumerate(files):
        path = folder / f"{number}{suffix}"
        path.write_bytes(data)
        paths[path] = name
    answers = theirs(list(paths))
    found = {}
    for path, name in paths.items():
        try:
            ours(path)
            answer = "read"
        except InputError:
            answer = "refused"
        if (answer == "read") != (answers[str(path)] == "read"):
            found[name] = answer
    return found, sum(answer == "read" for answer in answers.values())


def test_gguf_as_llama_cpp(tmp_path: Path) -> None:
    """Each check of llama.cpp's header loader, and each published attack, file by file."""
    pytest.importorskip("xllamacpp")
    found, read = differences(tmp_path, gguf_cases.every(), ".gguf", gguf.scan, judges.llama_cpp)
    assert found == GGUF_DIFFERENCES
    assert read > 40


def test_safetensors_as_the_library(tmp_path: Path) -> None:
    """Header length, JSON, types, shapes and offsets as the safetensors library takes them, file by file."""
    cases = safetensors_cases.every()
    found, read = differences(tmp_path, cases, ".safetensors", safetensors.scan, judges.safetensors)
    assert found == SAFETENSORS_DIFFERENCES
    assert read > 30


def test_llama_cpps_model_loader_refuses_what_ends_early(tmp_path: Path) -> None:
    """The real model loader, not only its header reader, refuses a tensor behind the end of the file, as ours does."""
    pytest.importorskip("xllamacpp")
    from tests.support import llamacpp

    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_cases.ATTACKS["CVE-2026-7482: a tensor behind the end"])
    assert "is not within the file bounds" in llamacpp.load_report(path).log
    with pytest.raises(InputError, match="truncated"):
        gguf.scan(path)
