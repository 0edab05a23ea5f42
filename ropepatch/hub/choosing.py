"""Which file of a repository is meant: the folder that it is, the one GGUF in it, or the one that is named."""

from __future__ import annotations

from pathlib import PurePosixPath

from ropepatch.errors import HubError, InputError, UsageError
from ropepatch.hub.client import Snapshot
from ropepatch.naming import SHARD, firsts

#: what describes a folder's model
METADATA = ("config.json", "params.json")


def chosen(snapshot: Snapshot, file: str | None) -> str | None:
    """The file or folder that is meant; None for the top of the repository.

    Raises:
        HubError: there is no such file.
        UsageError: there are several GGUF models, and none is named.
        InputError: there is nothing that is a checkpoint.
    """
    where = str(snapshot.ref.within(file))
    if file in snapshot.files:
        return file
    below = f"{file}/" if file else ""
    names = [name for name in snapshot.files if name.startswith(below)]
    if not names:
        raise HubError("there is no such file", where=where, hint=_nearby(snapshot, file))
    if any(f"{below}{name}" in snapshot.files for name in METADATA):
        return file
    models = firsts(names, file)
    if len(models) == 1:
        return models[0]
    if models:
        shown = ", ".join(_sized(snapshot, name) for name in models[:12])
        more = f" and {len(models) - 12} more" if len(models) > 12 else ""
        example = snapshot.ref.within(models[0])
        raise UsageError(f"{where} holds {len(models)} GGUF models: {shown}{more}", hint=f"name one: {example}")
    inside = {name.removeprefix(below) for name in names}
    if "adapter_config.json" not in inside and any(n.endswith(".safetensors") and "/" not in n for n in inside):
        return file
    from ropepatch.dialects import strangers

    raise strangers.folder(where, inside)


def shards_of(snapshot: Snapshot, file: str) -> list[str]:
    """``file``, or all shards of the split model that it belongs to.

    Raises:
        InputError: a shard is missing.
    """
    path = PurePosixPath(file)
    match = SHARD.match(path.name)
    if match is None:
        return [file]
    count = int(match["count"])
    if not 1 <= count <= 4096:
        raise InputError(f"says that it is one of {count} shards", where=str(snapshot.ref.within(file)))
    names = [str(path.with_name(f"{match['stem']}-{n:05d}-of-{count:05d}.gguf")) for n in range(1, count + 1)]
    for name in names:
        if name not in snapshot.files:
            raise InputError(f"shard {name} is missing", where=str(snapshot.ref.within(file)))
    return names


def _sized(snapshot: Snapshot, name: str) -> str:
    size = sum(snapshot.files[shard].size for shard in shards_of(snapshot, name))
    return f"{name} ({size / 1e9:.1f} GB)" if size >= 1e8 else f"{name} ({size / 1e6:.1f} MB)"


def _nearby(snapshot: Snapshot, file: str | None) -> str | None:
    import difflib

    near = difflib.get_close_matches(file or "", snapshot.files, n=1)
    return f"did you mean {near[0]}?" if near else None
