"""Runs the commands that docs/hub.md shows against a Hub of its own, and writes what they print under them.

The Hub is the one of the tests (`tests/support/hub_server.py`): its bookkeeping is ours, its client is huggingface_hub
as it is installed, and large files lie in hf_xet's own store. Nothing leaves the machine. Its address is written as
`https://hub.example`. `traffic` prints what the last commands cost. `--check` compares instead of writing.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import _page  # noqa: E402
import doc_outputs  # noqa: E402

from tests.support.hub_models import random_gguf, sparse_gguf, sparse_safetensors  # noqa: E402
from tests.support.hub_server import READER, HubServer  # noqa: E402

PAGE = ROOT / "docs" / "hub.md"
CARD = b"---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# tiny-llama\n\nA small model for tests.\n"
#: what another release of a library prints otherwise: sizes of manifests that name it, commits
VARIES = re.compile(r"\b[0-9a-f]{12,40}\b|\d+(?:\.\d+)? (?:kB|B|requests)\b|\d+ (?=ropepatch\.json)")
_TRAFFIC = """#!/bin/sh
echo > ask
while [ ! -e told ]; do sleep 0.05; done
cat told
rm told
"""


def prepare(hub: HubServer, folder: Path, kept: Path) -> Mapping[str, str]:
    """What the sessions start from: repositories of org, and the programs that they run."""
    tiny = ROOT / "fixtures" / "tiny-llama"
    hub.store.seed("org/tiny-llama", {"README.md": CARD, **{p.name: p for p in sorted(tiny.iterdir())}})
    sparse_safetensors(kept / "large")
    for path in sorted((kept / "large").glob("*.safetensors")):
        hub.store.sparse("org/large", path.name, path)
    hub.store.seed("org/large", {path.name: path for path in (kept / "large").glob("*.json")})
    sparse_gguf(kept / "Q8_0.gguf", vocabulary="gpt-oss")
    sparse_gguf(kept / "Q4_K.gguf", size=20 << 30, vocabulary="gpt-oss")
    hub.store.sparse("org/large-GGUF", "large-Q8_0.gguf", kept / "Q8_0.gguf")
    hub.store.sparse("org/large-GGUF", "large-Q4_K.gguf", kept / "Q4_K.gguf")
    random_gguf(kept / "quarter.gguf", 256)
    hub.store.seed("org/quarter-GGUF", {"quarter.gguf": kept / "quarter.gguf"})
    programs = folder / ".bin"
    programs.mkdir()
    for name, module in (("ropepatch", "ropepatch"), ("hf", "huggingface_hub.cli.hf")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "traffic").write_text(_TRAFFIC)
    (programs / "traffic").chmod(0o755)
    hub.traffic()
    threading.Thread(target=_tell, args=(hub, folder), daemon=True).start()
    hub.store.another_machine()
    return {**hub.env(folder / ".hf"), "SOURCE_DATE_EPOCH": "1780000000", "READER": READER}


def _tell(hub: HubServer, folder: Path) -> None:
    """Answer the `traffic` program by files."""
    import time

    while folder.exists():
        if (folder / "ask").exists():
            (folder / "ask").unlink()
            told = hub.traffic()
            chunks = f", {_size(told['chunks'])} of new chunks" if told["chunks"] else ""
            text = f"{told['requests']} requests, {_size(told['down'])} down, {_size(told['up'])} up{chunks}\n"
            (folder / ".told").write_text(text)
            (folder / ".told").rename(folder / "told")
        time.sleep(0.05)


def _size(count: int) -> str:
    return next((f"{count / s:.1f} {u}" for u, s in (("MB", 1e6), ("kB", 1e3)) if count >= s), f"{count} B")


def written() -> str:
    """The page with the outputs that its commands have now."""
    with tempfile.TemporaryDirectory() as name:
        hub = HubServer(Path(name) / "hub")
        kept = Path(name) / "kept"
        kept.mkdir()
        text = doc_outputs.fresh(PAGE.read_text(encoding="utf-8"), lambda folder: prepare(hub, folder, kept))
        hub.close()
    return text.replace(hub.endpoint, "https://hub.example").replace(f"127.0.0.1:{hub.port}", "hub.example")


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring the outputs shown in docs/hub.md up to date.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    options = parser.parse_args()
    text = written()
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
        print("wrote docs/hub.md")
        return 0
    before, after = (VARIES.sub("…", one) for one in (PAGE.read_text(encoding="utf-8"), text))
    if before == after:
        print("docs/hub.md shows what its commands print")
        return 0
    _page.tell_stale("docs/hub.md", before, after)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
