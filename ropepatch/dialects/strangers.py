"""What stands where no checkpoint is, and what would work instead; looked at only when reading has failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from ropepatch.errors import InputError

_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt")
_PICKLE = (
    "is a PyTorch file, which ropepatch does not unpickle",
    "name the folder that holds it and its config.json; that is where the RoPE of these weights stands",
)
_OLD_GGML = (
    "is in a ggml format older than GGUF",
    "take a GGUF of the model, or make one from its Hugging Face folder with llama.cpp's convert_hf_to_gguf.py",
)
#: how a file begins that is often given, what it is, and what would work
_BEGINNINGS = (
    (b"version https://git-lfs", "is a Git LFS pointer in place of the file", "fetch the file with: git lfs pull"),
    (b"<!doctype html", "is a web page", "download the file itself: its address has /resolve/ in place of /blob/"),
    (b"<html", "is a web page", "download the file itself: its address has /resolve/ in place of /blob/"),
    (b"lmgg", *_OLD_GGML),
    (b"tjgg", *_OLD_GGML),
    (b"fmgg", *_OLD_GGML),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first"),
)
#: a name and perhaps a tag, as Ollama writes them: `llama3:8b`
_OLLAMA = re.compile(r"ollama:.+|[a-z0-9][a-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._-]*")


def missing(ref: str | Path) -> InputError:
    """There is nothing under this name; says what is there under a similar one."""
    return InputError("no such file or directory", where=str(ref), hint=_meant(str(ref)))


def _meant(ref: str) -> str | None:
    import difflib

    if ref.startswith("hf:"):
        return f"on the Hub it is hf://{ref.removeprefix('hf:').lstrip('/')}"
    path = Path(ref)
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, (entry.name for entry in path.parent.iterdir()), n=1, cutoff=0.75)
        if near:
            return f"did you mean {path.parent / near[0]}?"
    if _OLLAMA.fullmatch(ref):
        return "of a model in Ollama, name the file in the line FROM of: ollama show --modelfile NAME"
    return None


def file(path: Path, otherwise: InputError | None = None) -> InputError:
    """A file that is no checkpoint.

    Args:
        path: the file, which can be opened.
        otherwise: what to say of one whose beginning tells nothing.
    """
    with path.open("rb") as stream:
        start = stream.read(64)
    for beginning, what, hint in _BEGINNINGS:
        if start.lower().startswith(beginning):
            return InputError(what, where=str(path), hint=hint)
    if path.suffix in _WEIGHTS and start.startswith((b"PK\x03\x04", b"\x80")):
        return InputError(_PICKLE[0], where=str(path), hint=_PICKLE[1])
    return otherwise or InputError(
        "is no checkpoint",
        where=str(path),
        hint="give a .gguf, a .safetensors, a config.json, a params.json, or a folder that holds one",
    )


def folder(where: str, names: Collection[str], read: Callable[[str], str] = lambda name: "") -> InputError:
    """A folder without anything that says its RoPE.

    Args:
        where: the folder, here or on the Hub.
        names: its files.
        read: the text of one of them; nothing where that would have to be fetched.
    """
    if "adapter_config.json" in names:
        return adapter(where, read("adapter_config.json"))
    weights = sorted(name for name in names if name.endswith((*_WEIGHTS, ".safetensors")))
    if weights:
        config = "params.json" if weights[0].startswith("consolidated") else "config.json"
        many = f"{len(weights)} {weights[0].rpartition('.')[2]} files"
        what = f"holds {weights[0] if len(weights) == 1 else many} and no {config}"
        return InputError(what, where=where, hint=f"put the model's {config} into it")
    return InputError("holds no config.json, params.json, GGUF or safetensors file", where=where)


def adapter(where: str, config: str = "") -> InputError:
    """A LoRA adapter, by the text of its ``adapter_config.json``."""
    import json

    try:
        base = json.loads(config).get("base_model_name_or_path")
    except (ValueError, AttributeError, RecursionError):
        base = None
    named = base if isinstance(base, str) and base.isprintable() and 0 < len(base) < 200 else "the model that it is for"
    return InputError(
        "is an adapter, which has no RoPE of its own",
        where=where,
        hint=f"patch {named}, and load the adapter on top of that",
    )
