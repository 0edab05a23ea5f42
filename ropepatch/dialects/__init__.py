"""How each format spells RoPE. Adding a format is adding a file here and a line to ``_FORMATS``."""

from __future__ import annotations

from pathlib import Path

from ropepatch.dialects.base import Dialect
from ropepatch.errors import InputError


def open(ref: str) -> Dialect:
    """The dialect that reads what ``ref`` names.

    Raises:
        InputError: there is no such path, or nothing in it is a checkpoint.
    """
    path = Path(ref)
    if not path.exists():
        raise InputError("no such file or directory", where=ref)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf" or _starts_with(path, b"GGUF"):
        return _gguf(path)
    if path.suffix == ".json":
        return _hf(path.parent, path)
    if path.suffix == ".safetensors" and (path.parent / "config.json").exists():
        return _hf(path.parent, path.parent / "config.json")
    raise InputError("is no checkpoint", where=ref, hint="give a .gguf, a config.json, or a folder that holds one")


def _open_folder(path: Path) -> Dialect:
    if (path / "config.json").exists():
        return _hf(path, path / "config.json")
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _gguf(ggufs[0])
    if ggufs:
        names = ", ".join(file.name for file in ggufs[:5])
        raise InputError(f"holds {len(ggufs)} GGUF files", where=str(path), hint=f"name one of them: {names}")
    raise InputError("holds neither config.json nor a GGUF file", where=str(path))


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _gguf(path: Path) -> Dialect:
    from ropepatch.dialects.gguf import GgufDialect

    return GgufDialect.open(path)


def _hf(root: Path, config: Path) -> Dialect:
    from ropepatch.dialects.hf_config import HfDialect

    return HfDialect.open(root, config)
