"""Sending a patched file as the few chunks that are new, also from a machine that has never sent the base.

The Hub tells a client which chunks it has by the first chunk of a file, and by about one chunk in 64 MB. The first
chunk of a patched GGUF is new, so that all up to the first of the others would be sent. The beginning of the base, sent
ahead in the same session, brings the list of the rest; no commit names it.
"""

from __future__ import annotations

import contextlib
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
) -> None:
    """Send the chunks of large patched files, and mark their ``operations`` (by path) as sent.

    It is an economy: where it cannot be done, nothing is sent here, and the commit sends everything and says what is
    wrong.
    """
    found = [(item, first) for item, first in _patched(plan, items) if _can_be_marked(operations[item.path])]
    if not found or not client.uses_xet():
        return
    import hf_xet

    place = f"{problems.endpoint()}/api/models/{plan.target.repo}"
    url = f"{place}/xet-write-token/{urllib.parse.quote(branch or 'main', safe='')}{'?create_pr=1' if pr else ''}"
    handles: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        session = hf_xet.XetSession()
        with session.new_upload_commit(token_refresh_url=url, token_refresh_headers=client.headers()) as upload:
            for item, first in found:
                upload.start_upload_bytes(first, name="beginning of the base").result()
                handles[item.path] = upload.start_upload_file(str(item.source))
                with _watched(handles[item.path], item.size, progress):
                    handles[item.path].result()
        for path, handle in handles.items():
            mark(operations[path], str(handle.result().xet_info.sha256))


@contextlib.contextmanager
def _watched(handle: Any, size: int, progress: Progress | None) -> Iterator[None]:
    """Tell how far a file is while the block waits for it."""
    if progress is None:
        yield
        return
    over, told = threading.Event(), [0]

    def tell(done: int) -> None:
        if done > told[0]:
            progress(done - told[0])
            told[0] = done

    def look() -> None:
        while not over.wait(_PAUSE):
            report = handle.progress()
            tell(min(int(report.bytes_completed), size) if report is not None else 0)

    ranges.expect(progress, size)
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    tell(size)


def mark(operation: Any, sha256: str) -> None:
    """Tell the client that the bytes of a file are there, as its own upload would."""
    operation.upload_info.sha256 = bytes.fromhex(sha256)
    for name, value in MARKS.items():
        setattr(operation, name, value)


def _can_be_marked(operation: Any) -> bool:
    return all(hasattr(operation, name) for name in ("upload_info", *MARKS))


def _patched(plan: Plan, items: Sequence[Item]) -> Iterator[tuple[Item, bytes]]:
    """The large files whose headers changed, each with the beginning of what it was made from."""
    for item in items:
        splices = plan.record.splices.get(item.path.removeprefix(plan.below))
        if item.action == "upload" and splices and isinstance(item.source, Path) and item.size >= _WORTH_ASKING:
            yield item, files.beginning(item.source, invert(splices), _FIRST_CHUNKS)
