"""File systems of their own in image files, where root and loop devices are at hand."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

#: what makes a file system in a file, and the smallest size that it takes
MAKERS = {
    "xfs": (["mkfs.xfs", "-q"], 320),
    "btrfs": (["mkfs.btrfs", "-q"], 512),
    "ext4": (["mkfs.ext4", "-q", "-F", "-b", "4096"], 256),
}


@contextlib.contextmanager
def mounted(kind: str, folder: Path, *, mebibytes: int | None = None) -> Iterator[Path]:
    """Mount a fresh file system (or a ``tmpfs``) below ``folder``; skips the test, by name, where that cannot be."""
    place = folder / f"mount-{kind}"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip(f"{kind}: mounting needs root")
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes or 16}m", "none", str(place)]
    else:
        maker, least = MAKERS[kind]
        program = shutil.which(maker[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            pytest.skip(f"{kind}: there is no {maker[0]}")
        image = folder / f"{kind}.img"
        with image.open("wb") as file:
            file.truncate((mebibytes or least) << 20)
        subprocess.run([program, *maker[1:], str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{kind}: cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # a failed test may still hold a file
