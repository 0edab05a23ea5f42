"""What the real readers say of a file: llama.cpp's own header loader, and the safetensors library.

llama.cpp is asked through the function of its library that its model loader begins with. It may abort on a file, so
that each one is read in a fork, and all of them in one child process: this file is that child.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def llama_cpp(paths: Sequence[Path]) -> dict[str, str]:
    """By path ``read``, ``refused`` or ``died`` (which is how it refuses some)."""
    answers: dict[str, str] = _child("llama.cpp", paths)
    return answers


def safetensors(paths: Sequence[Path]) -> dict[str, str]:
    """By path ``read`` or ``refused``."""
    answers: dict[str, str] = _child("safetensors", paths)
    return answers


def _child(judge: str, paths: Sequence[Path]) -> Any:
    asked = json.dumps([judge, [str(path) for path in paths]])
    done = subprocess.run([sys.executable, __file__], input=asked, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


class _Parameters(ctypes.Structure):
    """`struct gguf_init_params`: whether to leave the data alone, and where a context may be put."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _load_llama_cpp() -> Any:
    import xllamacpp.xllamacpp as module

    library = ctypes.CDLL(module.__file__)
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = (ctypes.c_char_p, _Parameters)
    for name, result in (("n_tensors", ctypes.c_int64), ("data_offset", ctypes.c_size_t)):
        getattr(library, f"gguf_get_{name}").restype = result
        getattr(library, f"gguf_get_{name}").argtypes = (ctypes.c_void_p,)
    for name in ("offset", "size"):
        getattr(library, f"gguf_get_tensor_{name}").restype = ctypes.c_size_t
        getattr(library, f"gguf_get_tensor_{name}").argtypes = (ctypes.c_void_p, ctypes.c_int64)
    return library


def _reads_gguf(library: Any, path: str) -> bool:
    """Read the header, with room for the tensors' records, and hold every tensor against the file's end: the first is
    what the loader calls, the second what it does with the answer before it maps anything."""
    room = ctypes.c_void_p()
    header = library.gguf_init_from_file(path.encode(), _Parameters(True, ctypes.addressof(room)))
    if not header:
        return False
    start, end = library.gguf_get_data_offset(header), os.path.getsize(path)
    tensors = range(library.gguf_get_n_tensors(header))
    places = [(library.gguf_get_tensor_offset(header, n), library.gguf_get_tensor_size(header, n)) for n in tensors]
    return all(start + offset + size <= end for offset, size in places)


def _in_fork(library: Any, path: str) -> str:
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(0 if _reads_gguf(library, path) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: "read", 1: "refused"}.get(status, "died")


def _reads_safetensors(path: str) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as handle:
            handle.keys()
    except (SafetensorError, OSError):
        return "refused"
    return "read"


def _answers(judge: str, paths: Sequence[str]) -> Mapping[str, str]:
    if judge == "safetensors":
        return {path: _reads_safetensors(path) for path in paths}
    library = _load_llama_cpp()
    return {path: _in_fork(library, path) for path in paths}


if __name__ == "__main__":
    print(json.dumps(_answers(*json.load(sys.stdin))))
