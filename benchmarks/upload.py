"""How much of a patched GGUF goes over the wire when the Hub has its base: the real client against the test Hub.

    python benchmarks/upload.py                  # 2 GB, from a machine that never uploaded the base
    python benchmarks/upload.py --busy           # the same with two busy programs for each core
    python benchmarks/upload.py --broken-off     # from a machine that once sent a quarter of the base and broke off
    python benchmarks/upload.py --megabytes 512 --known

Needs a checkout (the test Hub is in tests/support) and huggingface_hub with hf_xet. What is stored is measured on the
server's chunk store, not asked of the client. Exit code 1: 1 % of the file or more was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.hub_models import random_gguf
from tests.support.hub_server import HubServer

LIMIT = 0.01


def main() -> int:
    """Make the base, seed it, patch a copy, push it, and print what the store grew by."""
    parser = argparse.ArgumentParser(description="Measure what a patched GGUF uploads.")
    parser.add_argument("--megabytes", type=int, default=2048, help="of the model (default: 2048)")
    machine = parser.add_mutually_exclusive_group()
    machine.add_argument("--known", action="store_true", help="the machine uploaded the base before")
    machine.add_argument("--broken-off", action="store_true", help="the machine sent a quarter of the base before")
    parser.add_argument("--busy", action="store_true", help="with two busy programs for each core")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ropepatch-upload-") as folder, load(asked.busy):
        root = Path(folder)
        base, patched = root / "m.gguf", root / "m-yarn-4x.gguf"
        random_gguf(base, asked.megabytes)
        hub = HubServer(root / "hub")
        began = time.perf_counter()
        hub.store.seed("org/base-GGUF", {"m.gguf": base})
        seeding = time.perf_counter() - began
        if not asked.known:
            hub.store.another_machine()
        if asked.broken_off:
            hub.store.broken_off(base, base.stat().st_size // 4)
        surroundings = {**os.environ, **hub.env(root / "home")}

        def run(*words: str) -> str:
            command = [sys.executable, "-m", "ropepatch", *words]
            return subprocess.run(command, env=surroundings, check=True, stdout=subprocess.PIPE, text=True).stdout

        run("apply", "--method", "yarn", "--factor", "4", str(base), "-o", str(patched), "-q")
        held, since = hub.store.cas_bytes(), time.perf_counter()
        told = json.loads(run("push", str(patched), "--to", "org/m-128k-GGUF", "--json"))["chunk_bytes"]
        seconds, size = time.perf_counter() - since, patched.stat().st_size
        grown = hub.store.cas_bytes() - held
        hub.close()
    before = "uploaded" if asked.known else "began to upload" if asked.broken_off else "never uploaded"
    print(f"{size / 1e9:.3f} GB, from a {'busy ' if asked.busy else ''}machine that {before} the base", end=" ")
    print(f"(which took {seeding:.0f} s):")
    print(f"the store grew by {grown / 1e3:,.1f} kB, {grown / size:.4%} of the file, in {seconds:.1f} s", end=" ")
    print(f"(push says {told / 1e3:,.1f} kB)")
    return 0 if 0 < grown < LIMIT * size else 1


@contextlib.contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Keep every core busy twice over while the block runs."""
    count = 2 * (os.cpu_count() or 1) if wanted else 0
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    raise SystemExit(main())
