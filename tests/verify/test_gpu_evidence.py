"""The script that records what a CUDA device computes, on a machine without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT

torch = pytest.importorskip("torch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_it_says_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    """Without a device it ends with 2 and one line that says what this machine lacks."""
    command = [sys.executable, str(ROOT / "tools" / "gpu_evidence.py"), "--into", str(tmp_path / "evidence")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 2
    assert done.stderr.startswith("gpu_evidence: nothing was run and nothing is written: torch ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "evidence").exists()
