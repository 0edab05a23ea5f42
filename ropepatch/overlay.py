"""A patched model as a small first shard beside a body that it shares with every other variant.

llama.cpp takes metadata from the first shard alone, so that a shard without weights can lay other settings over a body
of any size. Of the other shards it wants ``split.no`` in their own header (``llama_model_loader``: "missing key
split.no in GGUF split") and a name that counts them (``llama_split_prefix``); a body that has no ``split.no`` yet is
copied once with it, sharing blocks where the file system can.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ropepatch import splices
from ropepatch.bundle import Bundle
from ropepatch.containers import gguf, gguf_rewrite
from ropepatch.errors import InputError, UsageError
from ropepatch.naming import SHARD
from ropepatch.patch import Patch
from ropepatch.storage import files, kernel
from ropepatch.storage.ranges import Progress
from ropepatch.storage.splice import Splice

NO, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
#: ways to bring the body beside its head, cheapest first
BODIES = ("auto", "hardlink", "symlink", "copy")


@dataclass(frozen=True)
class Written:
    """What an overlay came to.

    Attributes:
        body: ``hardlink``, ``symlink``, ``reflink`` or ``copy``.
        splices: what the body's header got, by its new name; none where the body is the input itself.
    """

    body: str
    splices: Mapping[str, list[Splice]]


def target(output: Path) -> Bundle:
    """The two shards that an overlay under ``output`` consists of."""
    match = SHARD.match(output.name)
    stem = match["stem"] if match else output.name.removesuffix(".gguf")
    return Bundle(output.parent, (f"{stem}-00001-of-00002.gguf", f"{stem}-00002-of-00002.gguf"), "split")


def write(
    patch: Patch,
    source: Bundle,
    target: Bundle,
    *,
    link: str = "auto",
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Write head and body of an overlay; nothing is left when one of them fails.

    Args:
        patch: what the head shall say.
        source: a GGUF file, or an overlay whose body is shared.
        target: the shards to write, see :func:`target`.
        link: one of ``BODIES``; ``auto`` takes a reflink, a hard link or a copy.
        sync: wait until both are on the disk.
        progress: called with the number of bytes just moved.

    Raises:
        UsageError: the checkpoint is no GGUF file, or split in another way.
        InputError: the patch replaces a tensor of the body.
    """
    if patch.before.source.format != "gguf" or len(source.names) > 2:
        raise UsageError("an overlay is laid over a GGUF file, or over another overlay's body")
    head = gguf.scan(source.path(source.names[0]))
    body = gguf.scan(source.path(source.names[-1]))
    _check_edits(patch, head, body)
    if len(source.names) == 2 and not all(name.startswith("rope_") for name in head.tensors):
        raise UsageError("the first shard holds weights", hint="without --overlay only that shard is rewritten")
    try:
        _write_head(patch, head, body, target.path(target.names[0]), sync)
        return _write_body(body, target.path(target.names[1]), link, sync, progress)
    except BaseException:
        for name in target.names:
            target.path(name).unlink(missing_ok=True)
        raise


def _check_edits(patch: Patch, head: gguf.Header, body: gguf.Header) -> None:
    """Nothing in the body may change, and no second shard may hold a tensor that it holds."""
    for edit in patch.edits:
        if edit.target == "tensor" and edit.path[0] in body.tensors:
            raise InputError(
                f"holds {edit.path[0]} already, and no second shard may hold it again",
                where=str(body.path),
                hint="write a file of its own, without --overlay",
            )
        if edit.file != head.path.name:
            raise UsageError(f"{edit.file} would change, which an overlay shares")


def _write_head(patch: Patch, head: gguf.Header, body: gguf.Header, path: Path, sync: bool) -> None:
    """All metadata of ``head`` with the patch's edits, its own small tensors, and what says that a body follows."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        plain = Path(folder) / "head.gguf"
        if head.path == body.path:
            _without_tensors(head, plain)
        else:
            files.clone_or_copy(head.path, plain, sync=False)
        edited = Path(folder) / "edited.gguf"
        files.write_spliced(plain, edited, splices.for_file(plain, patch.edits), sync=False)
        found = gguf.scan(edited)
        keys = {
            NO: ("UINT16", 0),
            COUNT: ("UINT16", 2),
            TENSORS: ("INT32", len(found.tensors) + len(body.tensors)),
        }
        files.write_spliced(edited, path, gguf_rewrite.splices(found, keys, {}), sync=sync)


def _without_tensors(header: gguf.Header, path: Path) -> None:
    with open(header.path, "rb") as file, open(path, "xb") as out:
        out.write(file.read(8) + struct.pack(f"{header.endian}qq", 0, len(header.keys)))
        file.seek(24)
        out.write(file.read(header.kv_end - 24))
        out.write(bytes(-header.kv_end % header.alignment))


def _write_body(body: gguf.Header, path: Path, link: str, sync: bool, progress: Progress | None) -> Written:
    if link not in BODIES:
        raise UsageError(f"the body is one of {', '.join(BODIES)}, not {link!r}")
    if body.get(NO) != 1 or body.type_of(NO) != "UINT16":
        block = kernel.block_size(path.parent) if kernel.shares_blocks(body.path, path.parent) else 0
        changes = gguf_rewrite.splices(body, {NO: ("UINT16", 1)}, {}, block=block)
        files.write_spliced(body.path, path, changes, sync=sync, progress=progress)
        return Written("reflink" if block else "copy", {path.name: changes})
    if link == "symlink":
        path.symlink_to(os.path.relpath(body.path.resolve(), path.parent.resolve()))
        return Written(link, {})
    if link == "copy":
        files.clone_or_copy(body.path, path, sync=sync, progress=progress)
        return Written(link, {})
    how = files.link_or_copy(body.path, path, sync=sync, progress=progress)
    if link == "hardlink" and how != link:
        raise InputError("cannot be linked to from here", where=str(body.path), hint="take another way for the body")
    return Written(how, {})
