"""Errors: one class for each exit code of the command line, each message one line.

A message says what is wrong, where (file, key, offset) and what would work.
"""

from __future__ import annotations

import errno
import os
import sys

#: folders of this machine that stand for something elsewhere, and what they are called in messages
SHOWN: dict[str, str] = {}


def shown(text: str) -> str:
    """``text`` with the names of such folders replaced."""
    for folder, name in SHOWN.items():
        text = text.replace(folder, name)
    return text


class RopepatchError(Exception):
    """Base of every error that ropepatch raises on purpose.

    Args:
        what: what is wrong, in one line.
        where: the file, key or offset that it concerns.
        hint: what would work instead.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = shown(what)
        self.where = shown(where) if where else where
        self.hint = shown(hint) if hint else hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.hint}" if self.hint else text

    def to_json(self) -> dict[str, object]:
        """The error as the object that ``--json`` prints on stderr."""
        return {
            "schema": "ropepatch.error/1",
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class CheckFailed(RopepatchError):
    """A verification found that an output is not what its patch says (exit 1)."""

    exit_code = 1


class UsageError(RopepatchError):
    """Options, parameters or their combination cannot be used (exit 2)."""

    exit_code = 2


class InputError(RopepatchError):
    """A checkpoint cannot be read or patched (exit 3)."""


class NoRope(InputError):
    """The checkpoint's architecture does not use rotary position embedding (exit 3)."""


class MethodUnsupported(InputError):
    """The format or a runtime that reads it cannot hold the method (exit 3)."""


class AlreadyScaled(InputError):
    """The checkpoint is scaled already and ``--existing error`` is in force (exit 3)."""


class RuntimeRejects(InputError):
    """A runtime refuses to load this checkpoint (exit 3)."""


class HubError(RopepatchError):
    """Network, Hub or permission trouble (exit 4)."""

    exit_code = 4


class WouldOverwrite(RopepatchError):
    """An output exists already (exit 5)."""

    exit_code = 5


def translated(error: BaseException) -> RopepatchError | None:
    """What a checkpoint, a disk or a system refused, as one line with its place; None for what is a fault of ours.

    Args:
        error: an error of ropepatch (which is returned as it is), of the system, or of a method's parameters.
    """
    if isinstance(error, RopepatchError):
        return error
    if isinstance(error, OSError):
        return _of_system(error)
    methods = sys.modules.get("ropepatch.methods.base")  # who has not imported them has no error of theirs
    if methods is not None and isinstance(error, methods.ParameterError):
        return InputError(str(error))
    return None


def _of_system(error: OSError) -> RopepatchError:
    """What the system refused; with what is free, where a disk is full."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
    kind = WouldOverwrite if isinstance(error, FileExistsError) else InputError
    what, hint = (error.strerror or str(error) or "the system refused").lower(), None
    if isinstance(error, PermissionError) and name is not None and os.path.isdir(name):
        what = f"nothing can be written there: {what}"
    if error.errno == errno.ENOSPC and name is not None:
        hint = f"{_free(name)}make room, or name an output on another disk"
    if error.errno == errno.EFBIG:
        hint = "its file system takes no file of that size; name an output on another disk"
    return kind(what, where=name, hint=hint)


def _free(path: str) -> str:
    """How much room there is where a file could not be written, once what was written of it is gone."""
    import shutil

    try:
        free = shutil.disk_usage(os.path.dirname(path) or ".").free
    except OSError:
        return ""
    return f"{free / (1 << 20):,.1f} MiB are free there; "
