"""Running a command and noting its time and memory; what the machine is."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from files import MIB


@dataclass
class Row:
    """One measured command: seconds and peak memory of each repeat."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def peak(self) -> float:
        return max(self.peak_mib, default=float("nan"))


def run_once(row: Row) -> None:
    """Runs the command and notes its wall time and peak resident set, or why it failed."""
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        child = subprocess.Popen(row.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        elapsed = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            row.error = f"exit {child.returncode}: {last[0][:200]}"
            return
    row.seconds.append(elapsed)
    row.peak_mib.append(usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024))


def script(name: str, module: str) -> list[str]:
    """A console script of the running environment, or its module where the script is not there."""
    beside = Path(sys.executable).parent / name
    return [str(beside)] if beside.exists() else [sys.executable, "-m", module]


def filesystem(path: Path) -> str:
    probe = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=False)
    return probe.stdout.strip() or "unknown"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def byte_count(text: str) -> int:
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    try:
        size = int(float(number) * unit)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 4G, 200M or a number of bytes") from None
    if size < 50_000_000:
        raise argparse.ArgumentTypeError("the vocabulary alone needs about 50M; ask for more")
    return size


def in_child(action: Callable[[], None]) -> None:
    """Runs it in a fork, whose memory never counts as this process's."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise SystemExit("the file could not be made; is the disk full?")
