"""How each format spells RoPE. Adding a format is adding a file here and a line to :func:`open`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from ropepatch.bundle import is_gguf
from ropepatch.dialects.base import Dialect
from ropepatch.errors import InputError
from ropepatch.naming import firsts, journals

#: so many names of a folder are told
_NAMED = 5
#: so much of an adapter's config is read to name its model
_READ = 1 << 16


def open(ref: str) -> Dialect:
    """The dialect that reads what ``ref`` names.

    Raises:
        InputError: there is no such path, nothing in it is a checkpoint, or a change of it was interrupted.
    """
    path = Path(ref)
    if not path.exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(ref)
    for pending in journals(path):
        from ropepatch.storage import journal

        try:
            journal.refuse_pending(pending)
        except InputError as error:
            command = f"ropepatch recover {shlex.quote(ref)}"
            hint = error.hint and error.hint.replace("ropepatch recover", command, 1)
            raise InputError(error.what, where=ref, hint=hint) from None
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InputError("is no regular file", where=ref, hint="give the file itself, not a pipe or device")
    if is_gguf(path):
        return _gguf(path)
    if path.name.endswith(".safetensors.index.json"):
        return _open_folder(path.parent)
    if path.suffix == ".json":
        return _json(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    from ropepatch.dialects import strangers

    raise strangers.file(path)


def _open_folder(path: Path) -> Dialect:
    for name in ("config.json", "params.json"):
        if (path / name).exists():
            return _json(path / name)
    for suffix in ("gguf", "safetensors"):
        found = sorted(path.glob(f"*.{suffix}"))
        if suffix == "gguf":
            found = _models(found)
        elif (path / "adapter_config.json").exists():
            break
        if len(found) == 1:
            return _gguf(found[0]) if suffix == "gguf" else _safetensors(found[0])
        if found and suffix == "gguf":
            names = ", ".join(file.name for file in found[:_NAMED])
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise InputError(f"holds {len(found)} GGUF models", where=str(path), hint=f"name one: {names}{more}")
    raise _no_model(path)


def _no_model(folder: Path) -> InputError:
    from ropepatch.dialects import strangers

    def read(name: str) -> str:
        with (folder / name).open(encoding="utf-8", errors="replace") as stream:
            return stream.read(_READ)

    return strangers.folder(str(folder), {entry.name for entry in folder.iterdir()}, read)


def _models(files: list[Path]) -> list[Path]:
    """The models among a folder's GGUF files, as on the Hub: split ones by their first shard, no vision projectors."""
    if len(files) < 2:
        return files
    names = set(firsts(file.name for file in files))
    return [file for file in files if file.name in names] or files


def _json(path: Path) -> Dialect:
    """A ``params.json`` is known by its name or its keys; everything else is a transformers config."""
    from ropepatch.containers import json_text
    from ropepatch.dialects import params_json

    if path.name == "adapter_config.json":
        raise _no_model(path.parent)
    if path.name != "config.json":
        document = json_text.read(path)[1]
        if path.name.endswith("params.json") or params_json.is_params(document):
            return _params(path, params_json.is_meta(document))
    return _hf(path.parent, path)


def _params(path: Path, meta: bool) -> Dialect:
    from ropepatch.dialects.meta_params import MetaDialect
    from ropepatch.dialects.mistral_params import MistralDialect

    return (MetaDialect if meta else MistralDialect).open(path.parent, path)


def _safetensors(path: Path) -> Dialect:
    """A shard opens its folder; a file alone says what it can itself."""
    for name in ("config.json", "params.json"):
        if (path.parent / name).exists():
            return _json(path.parent / name)
    if (path.parent / "adapter_config.json").exists() and path.name.startswith("adapter_"):
        raise _no_model(path.parent)
    from ropepatch.dialects.safetensors_file import SafetensorsDialect

    return _opened(SafetensorsDialect.open, path)


def _opened(opens: Callable[[Path], Dialect], path: Path) -> Dialect:
    """What ``opens`` makes of a file; where it fails, and the file is of another kind, that is what is said."""
    try:
        return opens(path)
    except InputError as error:
        from ropepatch.dialects import strangers

        raise strangers.file(path, error) from None


def _gguf(path: Path) -> Dialect:
    from ropepatch.dialects.gguf import GgufDialect

    return _opened(GgufDialect.open, path)


def _hf(root: Path, config: Path) -> Dialect:
    from ropepatch.dialects.hf_config import HfDialect

    return HfDialect.open(root, config)
