"""How much of a patched GGUF goes over the wire when the Hub has its base: the real client against the test Hub.

    python benchmarks/upload.py                  # 2 GB, from a machine that never uploaded the base
    python benchmarks/upload.py --megabytes 512 --known

Needs a checkout (the test Hub is in tests/support) and huggingface_hub with hf_xet. What is stored is measured on the
server's chunk store, not asked of the client. Exit code 1: 1 % of the file or more was sent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.hub_models import random_gguf
from tests.support.hub_server import HubServer

LIMIT = 0.01


def main() -> int:
    """Make the base, seed it, patch a copy, push it, and print what the store grew by."""
    parser = argparse.ArgumentParser(description="Measure what a patched GGUF uploads.")
    parser.add_argument("--megabytes", type=int, default=2048, help="of the model (default: 2048)")
    parser.add_argument("--known", action="store_true", help="the machine uploaded the base before")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ropepatch-upload-") as folder:
        root = Path(folder)
        base, patched = root / "m.gguf", root / "m-yarn-4x.gguf"
        random_gguf(base, asked.megabytes)
        hub = HubServer(root / "hub")
        hub.store.seed("org/base-GGUF", {"m.gguf": base})
        surroundings = {**os.environ, **hub.env(root / "home")}

        def run(*words: str) -> str:
            command = [sys.executable, "-m", "ropepatch", *words]
            return subprocess.run(command, env=surroundings, check=True, stdout=subprocess.PIPE, text=True).stdout

        run("apply", "--method", "yarn", "--factor", "4", str(base), "-o", str(patched), "-q")
        if not asked.known:
            shutil.rmtree(hub.store.cas / "xet" / "shard-cache", ignore_errors=True)
        before, since = hub.store.cas_bytes(), time.perf_counter()
        json.loads(run("push", str(patched), "--to", "org/m-128k-GGUF", "--json"))
        seconds, size = time.perf_counter() - since, patched.stat().st_size
        grown = hub.store.cas_bytes() - before
        hub.close()
    print(f"{size / 1e9:.3f} GB, base {'uploaded from here' if asked.known else 'never seen by this machine'}:")
    print(f"the store grew by {grown / 1e3:,.1f} kB, {grown / size:.4%} of the file, in {seconds:.1f} s")
    return 0 if 0 < grown < LIMIT * size else 1


if __name__ == "__main__":
    raise SystemExit(main())
