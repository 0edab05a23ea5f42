"""One line for whatever a disk or a system refuses, wherever it is said."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from ropepatch import errors
from ropepatch.methods.base import ParameterError
from ropepatch.storage import files

FAULTS = {
    "no file": (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.gguf"), "a.gguf: no such file or dir"),
    "bytes": (IsADirectoryError(errno.EISDIR, "Is a directory", b"a"), "a: is a directory"),
    "no place": (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
    "no words": (OSError(), "the system refused"),
    "a parameter": (ParameterError("yarn factor must be at least 1, not 0.5"), "yarn factor must be at least 1"),
}


@pytest.mark.parametrize(("fault", "line"), FAULTS.values(), ids=list(FAULTS))
def test_one_line(fault: Exception, line: str) -> None:
    """An input that cannot be read or written ends with exit code 3, and is named where the system names it."""
    found = errors.translated(fault)
    assert isinstance(found, errors.InputError)
    assert str(found).startswith(line)
    assert found.exit_code == 3


def test_what_is_there_already() -> None:
    """A name that is taken is its own exit code, also where only the system found it."""
    found = errors.translated(FileExistsError(errno.EEXIST, "File exists", "out.gguf"))
    assert isinstance(found, errors.WouldOverwrite)
    assert (found.where, found.exit_code) == ("out.gguf", 5)


def test_a_folder_that_is_closed(tmp_path: Path) -> None:
    """Permission for a folder is missing for writing into it; a file's is not called so."""
    file = tmp_path / "model.gguf"
    file.touch()
    refused = (PermissionError(errno.EACCES, "Permission denied", str(path)) for path in (tmp_path, file))
    folders, files = map(errors.translated, refused)
    assert str(folders) == f"{tmp_path}: nothing can be written there: permission denied"
    assert str(files) == f"{file}: permission denied"


def test_a_disk_without_room(tmp_path: Path) -> None:
    """A full disk is told with what is free where the file was to be; a file system's limit with that it is one."""
    target = str(tmp_path / "out.gguf")
    full, large = (
        errors.translated(OSError(number, os.strerror(number), target)) for number in (errno.ENOSPC, errno.EFBIG)
    )
    assert re.fullmatch(
        rf"{re.escape(target)}: no space left on device; [\d,]+\.\d MiB are free there; make room, or name an output "
        "on another disk",
        str(full),
    )
    assert "takes no file of that size" in str(large)


@pytest.mark.parametrize("name", [None, "/x/.out.tmp.part"])
def test_a_place_for_what_has_none(name: str | None) -> None:
    """A full disk under a temporary name, or under none, is said of the output; a broken input is not."""
    with pytest.raises(OSError, match="No space left") as caught, files.blamed(Path("out.gguf")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    assert caught.value.filename == "out.gguf"
    with pytest.raises(OSError, match="Input/output") as caught, files.blamed(Path("out.gguf")):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert caught.value.filename is None


def test_own_errors_stay_and_faults_are_none() -> None:
    """An error of ropepatch is the same object; what is a fault of the program is left to its caller."""
    own = errors.HubError("no network")
    assert errors.translated(own) is own
    assert errors.translated(KeyError("after")) is None
