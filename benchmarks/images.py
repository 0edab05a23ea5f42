"""A file system that shares blocks, in an image file, for machines whose own does not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


class CannotMount(Exception):
    """Why there is no such file system here."""


@contextlib.contextmanager
def xfs(folder: Path, size: int) -> Iterator[Path]:
    """Mount a fresh XFS of ``size`` bytes below ``folder``.

    Raises:
        CannotMount: without root, mkfs.xfs or loop devices.
    """
    if os.geteuid() != 0:
        raise CannotMount("mounting an XFS image needs root")
    program = shutil.which("mkfs.xfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise CannotMount("there is no mkfs.xfs")
    image, place = folder / "xfs.img", folder / "xfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(max(size, 320 << 20))
    try:
        for command in ([program, "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CannotMount(f"an XFS image cannot be mounted here: {done.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)
    finally:
        image.unlink()
