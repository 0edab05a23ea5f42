"""Sending a patched file as the few chunks that are new, also from a machine that has never sent the base.

The Hub tells a client which chunks it has by the first chunk of a file, and by about one chunk in 64 MB; it lists what
was new when that chunk came in. hf_xet asks only for chunks that this machine does not know, and decides block by
block what is new. So three things are done, in one session of it:

* The first chunk of a patched GGUF is new, and answers nothing. The beginning of the base is sent ahead, which brings
  the list of the base; no commit names it.
* Notes that hf_xet keeps of uploads that took long or broke off would answer for that beginning and for a part of the
  rest, and then nobody asks the Hub. The session keeps its notes apart, and does not see those.
* Where a base shares tensors with files that were there before it, these are in other lists. A block is large enough
  to have a chunk, most often, that brings the list of what is in it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropepatch.bundle import Progress
from ropepatch.hub import client, problems
from ropepatch.hub.publication import Item, Plan
from ropepatch.storage import files, ranges
from ropepatch.storage.splice import invert

#: below this, asking costs more than it saves
_WORTH_ASKING = 8 << 20
#: holds the first chunk whole, which has at most 128 KiB
_FIRST_CHUNKS = 256 << 10
_PAUSE = 0.1
#: settings of hf_xet, each with the variable by which a user may have set it; what a release does not know is left out
_SETTINGS = {
    # seven blocks in eight have one of the chunks that the Hub answers for; takes 0.5 GB of memory
    "data.ingestion_block_size": (128 << 20, "HF_XET_DATA_INGESTION_BLOCK_SIZE"),
    "session.dir_name": ("ropepatch", "HF_XET_SESSION_DIR_NAME"),
}
#: what the client notes of a file that it has sent; none of it is documented, and there is no other way to say so
MARKS = {"_upload_mode": "lfs", "_should_ignore": False, "_is_uploaded": True}


def send_patched(
    plan: Plan,
    items: Sequence[Item],
    operations: Mapping[str, Any],
    branch: str | None,
    *,
    pr: bool,
    progress: Progress | None,
) -> int | None:
    """Send the chunks of large patched files, and mark their ``operations`` (by path) as sent.

    It is an economy: where the client is of a release that does not let itself be helped, nothing is sent here, and the
    commit sends everything. What the server refuses is an error at once, since hf_xet has then tried for minutes.

    Returns:
        How many bytes went out; None where nothing was sent here.

    Raises:
        Exception: huggingface_hub's or hf_xet's own, where the server does not take the chunks.
    """
    large = [item for item in items if item.action == "upload" and isinstance(item.source, Path)]
    large = [item for item in large if item.size >= _WORTH_ASKING]
    if not large or not client.uses_xet():
        return None
    # who may only read may propose: that right is asked for without a revision, which the client spells None
    revision = "None?create_pr=1" if pr else urllib.parse.quote(branch or "main", safe="")
    right = client.xet_right(f"{problems.endpoint()}/api/models/{plan.target.repo}/xet-write-token/{revision}")
    found = [(item, first) for item, first in _patched(plan, large) if _can_be_marked(operations[item.path])]
    if right is None or not found:
        return None
    with contextlib.suppress(AttributeError, TypeError):  # a release that is spoken to otherwise
        digests, sent = _send(found, right, progress)
        for path, sha256 in digests.items():
            mark(operations[path], sha256)
        return sent
    return None


def _send(
    found: Sequence[tuple[Item, bytes]], right: Mapping[str, Any], progress: Progress | None
) -> tuple[dict[str, str], int]:
    """Send files, each behind the beginning of its base: their sha256 by path, and how many bytes went out."""
    upload = _session().new_upload_commit(**right)
    handles: dict[str, Any] = {}
    try:
        for item, first in found:
            _wait(upload.start_upload_bytes(first, name="beginning of the base"), len(first), None)
            handles[item.path] = upload.start_upload_file(str(item.source))
            _wait(handles[item.path], item.size, progress)
        sent = int(upload.wait_to_finish().dedup_metrics.total_bytes_uploaded)
    except BaseException:
        with contextlib.suppress(Exception):
            upload.abort()
        raise
    return {path: str(handle.result().xet_info.sha256) for path, handle in handles.items()}, sent


def _session() -> Any:
    """A session of hf_xet with the settings above."""
    import hf_xet

    config = hf_xet.XetConfig()
    for name, (value, variable) in _SETTINGS.items():
        if variable not in os.environ:
            with contextlib.suppress(ValueError):
                config = config.with_config(name, value)
    return hf_xet.XetSession(config)


def _wait(handle: Any, size: int, progress: Progress | None) -> None:
    """Wait until a file is through, and tell how far it is; Ctrl-C is heard, which hf_xet's own waiting does not."""
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result()
        except BaseException as error:
            failed.append(error)

    told = 0
    if progress is not None:
        ranges.expect(progress, size)
    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    while waiter.is_alive():
        waiter.join(_PAUSE)
        report = handle.progress()
        reached = min(int(report.bytes_completed), size) if report is not None else 0
        if progress is not None and reached > told:
            progress(reached - told)
            told = reached
    if failed:
        raise failed[0]
    if progress is not None and told < size:
        progress(size - told)


def mark(operation: Any, sha256: str) -> None:
    """Tell the client that the bytes of a file are there, as its own upload would."""
    operation.upload_info.sha256 = bytes.fromhex(sha256)
    for name, value in MARKS.items():
        setattr(operation, name, value)


def _can_be_marked(operation: Any) -> bool:
    return all(hasattr(operation, name) for name in ("upload_info", *MARKS))


def _patched(plan: Plan, large: Sequence[Item]) -> Iterator[tuple[Item, bytes]]:
    """The files whose headers changed, each with the beginning of what it was made from."""
    for item in large:
        splices = plan.record.splices.get(item.path.removeprefix(plan.below))
        if splices and isinstance(item.source, Path):
            yield item, files.beginning(item.source, invert(splices), _FIRST_CHUNKS)
