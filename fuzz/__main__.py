"""Fuzz every reader for a while; exit code 1 where something else than an answer came out.

    python -m fuzz                            # FUZZ_SECONDS (default 600), shared out among the targets
    FUZZ_SECONDS=60 python -m fuzz gguf config

atheris guides the inputs by what they reach where it is installed, else hypothesis draws them; both start from the
seeds and change them the same way. An input that breaks something is kept under tests/attacks/regressions/, which
`make test` runs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from fuzz import mutations, seeds


def keep(target: str, data: bytes) -> Path:
    """Keep an input that broke something."""
    path = seeds.REGRESSIONS / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def with_atheris(target: str, seconds: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process, so that whoever started it has to remove the folder."""
    import atheris

    with atheris.instrument_imports(include=["ropepatch"]):
        from fuzz.targets import TARGETS

        # What is only imported once a file asks for it would run unseen, and guide nothing.
        for room in ("containers", "dialects", "methods", "storage"):
            for module in pkgutil.iter_modules([str(seeds.ROOT / "ropepatch" / room)], f"ropepatch.{room}."):
                importlib.import_module(module.name)

    for number, data in enumerate(seeds.of(target)):
        (folder / f"seed-{number}").write_bytes(data)

    def one(data: bytes) -> None:
        try:
            TARGETS[target](data)
        except Exception:
            print(f"kept {keep(target, data)}", file=sys.stderr)
            raise

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.3:
            return bytes(atheris.Mutate(data, limit))
        return mutations.mutate(target, data, draw)[:limit]

    options = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-max_len=65536",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(folder)], one, custom_mutator=mutate)
    atheris.Fuzz()


def with_hypothesis(target: str, seconds: int, _folder: Path) -> None:
    """Draw seeds and changes until the time is up."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from fuzz.targets import TARGETS

    start, count = list(seeds.of(target)), 0
    end = time.monotonic() + seconds

    relaxed = settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))

    @settings(relaxed, max_examples=10_000)
    @given(st.sampled_from(start), st.integers(0, 2**63), st.integers(0, 3))
    def one(data: bytes, seed: int, rounds: int) -> None:
        nonlocal count
        if time.monotonic() > end:
            return
        draw = random.Random(seed)
        for _ in range(rounds):
            data = mutations.mutate(target, data, draw)
        count += 1
        try:
            TARGETS[target](data)
        except Exception:
            print(f"kept {keep(target, data)}", file=sys.stderr)
            traceback.print_exc()
            os._exit(1)

    while time.monotonic() < end:
        one()
    print(f"{target}: {count} inputs in {seconds} s, nothing found (hypothesis)")


def run(target: str, seconds: int) -> int:
    """Fuzz one target in a process of its own; all that it leaves behind lies in one folder, which goes with it."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix=f"ropepatch-fuzz-{target}-", dir=memory) as folder:
        corpus, files = Path(folder, "corpus"), Path(folder, "files")
        corpus.mkdir()
        files.mkdir()
        one = [sys.executable, "-m", "fuzz", "--one", target, str(seconds), str(corpus)]
        return subprocess.run(one, check=False, env={**os.environ, "TMPDIR": str(files)}).returncode


def main(arguments: list[str]) -> int:
    if len(arguments) == 4 and arguments[0] == "--one":
        engine = with_atheris if importlib.util.find_spec("atheris") else with_hypothesis
        engine(arguments[1], int(arguments[2]), Path(arguments[3]))
        return 0
    known = ["gguf", "safetensors", "config", "params"]
    wanted = arguments or known
    if not set(wanted) <= set(known):
        print(
            f"usage: python -m fuzz [TARGET ...], of {', '.join(known)}; FUZZ_SECONDS for all of them", file=sys.stderr
        )
        return 2
    seconds = max(1, int(os.environ.get("FUZZ_SECONDS", "600")) // len(wanted))
    failed = []
    for target in wanted:
        print(f"== {target}: {seconds} s", flush=True)
        if run(target, seconds):
            failed.append(target)
    print(f"found something in: {', '.join(failed)}" if failed else "found nothing")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
