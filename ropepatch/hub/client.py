"""Talking to the Hub: one request for what a repository holds, ranges of its files, its cache, its errors."""

from __future__ import annotations

import itertools
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropepatch._version import __version__
from ropepatch.errors import HubError, InputError
from ropepatch.hub.problems import endpoint, translated, transport_errors
from ropepatch.hub.refs import HubRef

#: repositories with more files hold no single model
MAX_FILES = 20_000
_TRIES = 3
_PASSING = (500, 502, 503, 504)
_TIMEOUT = 30


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub records it: ``oid`` is git's, ``sha256`` that of a large file."""

    size: int
    oid: str | None
    sha256: str | None

    @property
    def digest(self) -> dict[str, str]:
        """What the Hub vouches for, as a digest set of in-toto."""
        if self.sha256:
            return {"sha256": self.sha256}
        return {"gitBlob": self.oid} if self.oid else {}


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
        ref: the place that was asked for, at that commit.
        commit: its 40 hexadecimal digits.
        files: what is in it.
        gated: whether its owner asks for conditions to be accepted.
        private: whether others cannot see it.
    """

    ref: HubRef
    commit: str
    files: dict[str, HubFile]
    gated: bool = False
    private: bool = False


def api() -> Any:
    """The client of huggingface_hub under this program's name; it speaks through errors alone."""
    from huggingface_hub import HfApi

    _utils().logging.set_verbosity_error()
    return HfApi(library_name="ropepatch", library_version=__version__)


def headers() -> dict[str, str]:
    """What requests to the Hub carry: who asks, and the token."""
    return dict(_utils().build_hf_headers(library_name="ropepatch", library_version=__version__))


def bars(shown: bool) -> None:
    """Whether huggingface_hub draws its progress bars: on a terminal, for who wants them."""
    if not (shown and sys.stderr.isatty()):
        _utils().disable_progress_bars()


def offline() -> bool:
    """Whether the environment forbids requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def uses_xet() -> bool:
    """Whether large files go as chunks, of which only new ones are sent."""
    from importlib.util import find_spec

    from huggingface_hub import constants

    return find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET


def xet_right(url: str) -> dict[str, Any] | None:
    """The right to send chunks, as hf_xet takes it; None where the server keeps no chunks.

    Raises:
        Exception: huggingface_hub's own, where it is refused or, three times over, not answered.
    """
    utils = _utils()
    for left in reversed(range(_TRIES)):
        try:
            response = utils.get_session().get(url, headers=headers(), timeout=_TIMEOUT)
        except transport_errors():
            if not left:
                raise
        else:
            if response.status_code == 404:
                return None
            if response.status_code not in _PASSING or not left:
                break
        time.sleep(_TRIES - left)
    utils.hf_raise_for_status(response)
    found = response.json()
    return {
        "endpoint": str(found["casUrl"]),
        "token": str(found["accessToken"]),
        "token_expiry_unix_secs": int(found["exp"]),
        "token_refresh_url": url,
        "token_refresh_headers": headers(),
    }


def look(ref: HubRef) -> Snapshot:
    """What a repository holds, by one request; the revision becomes a commit.

    Raises:
        HubError: it cannot be seen.
    """
    with translated(ref):
        info = api().model_info(ref.repo, revision=ref.revision, files_metadata=True, timeout=_TIMEOUT)
    siblings = info.siblings or []
    if len(siblings) > MAX_FILES:
        raise InputError(f"holds {len(siblings)} files (limit {MAX_FILES})", where=str(ref))
    commit = str(info.sha or "")
    if len(commit) != 40 or not set(commit) <= set("0123456789abcdef"):
        raise HubError(f"the server names the commit {commit[:50]!r}", where=str(ref))
    listed: list[Any] = list(siblings)
    if any(item.size is None for item in siblings):  # mirrors leave sizes out here
        with translated(ref):
            tree = api().list_repo_tree(ref.repo, revision=commit, recursive=True)
            listed = [item for item in itertools.islice(tree, MAX_FILES) if hasattr(item, "blob_id")]
    files = dict(_recorded(item) for item in listed)
    files = {name: file for name, file in files.items() if _inside(name)}
    return Snapshot(ref.at(commit), commit, files, bool(info.gated), bool(info.private))


def _recorded(item: Any) -> tuple[str, HubFile]:
    """A file of huggingface_hub's listings by name: with a commit's information, or of a tree."""
    lfs = item.lfs or {}
    size = item.size if item.size is not None else lfs.get("size")
    return str(item.rfilename), HubFile(max(int(size or 0), 0), item.blob_id, lfs.get("sha256"))


def _inside(name: str) -> bool:
    """Whether a name keeps inside its repository."""
    return not {"", ".", ".."} & set(name.split("/")) and "\\" not in name


def found(ref: HubRef) -> Snapshot | None:
    """The same; None where there is no such repository or revision, or none that the token may see.

    Raises:
        HubError: something else stands in the way.
    """
    from huggingface_hub import errors

    try:
        return look(ref)
    except HubError as error:
        missing = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
        if isinstance(error.__cause__, missing) and not isinstance(error.__cause__, errors.GatedRepoError):
            return None
        raise


def cached(ref: HubRef, name: str) -> Path | None:
    """The file in huggingface_hub's cache; None when it has not been downloaded at this revision."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(ref.repo, name, revision=ref.revision or "main")
    return Path(found) if isinstance(found, str) and os.path.isfile(found) else None


def read(snapshot: Snapshot, name: str, limit: int) -> bytes:
    """A small file, by one request (or none, from the cache).

    Raises:
        InputError: it is larger than ``limit`` bytes.
        HubError: it cannot be had.
    """
    if (path := cached(snapshot.ref, name)) and path.stat().st_size <= limit:
        return path.read_bytes()
    size = snapshot.files[name].size
    if size > limit:
        raise InputError(f"{size} bytes are too many (limit {limit})", where=str(snapshot.ref.within(name)))
    return Ranges(snapshot, name).read(0, None, limit=limit)


class Ranges:
    """Byte ranges of one file on the Hub; ``size`` is what the Hub says that the file has.

    A large file is answered by a redirect to another host. It is followed once and remembered, without the token.
    """

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        self.where = snapshot.ref.within(name)
        self.size = snapshot.files[name].size
        self._own = self._location = _url(self.where)

    def read(self, start: int, end: int | None, *, limit: int | None = None) -> bytes:
        """The bytes from ``start`` to ``end``, or the whole file (at most ``limit``) where ``end`` is None.

        Raises:
            HubError: the server fails, sends something else, or does not know ranges.
        """
        if end is not None and end <= start:
            return b""
        with translated(self.where):
            for left in reversed(range(_TRIES)):
                data = self._attempt(start, end, limit, last=not left)
                if data is not None:
                    return data
                time.sleep(0.2 * (_TRIES - left))
        raise AssertionError("unreachable")

    def _attempt(self, start: int, end: int | None, limit: int | None, *, last: bool) -> bytes | None:
        """One request; None where another try may help."""
        utils = _utils()
        sent = {"Accept-Encoding": "identity", **self._headers()}
        if end is not None:
            sent["Range"] = f"bytes={start}-{end - 1}"
        try:
            with utils.get_session().stream(
                "GET", self._location, headers=sent, follow_redirects=True, timeout=_TIMEOUT
            ) as response:
                if response.status_code in _PASSING and not last:
                    return None
                if response.status_code == 403 and self._location != self._own:
                    self._location = self._own  # a signed address that has run out
                    return None
                if response.status_code >= 400:
                    response.read()
                utils.hf_raise_for_status(response)
                if response.history:
                    self._location = str(response.url)
                return self._body(response, start, end, limit)
        except transport_errors():
            if last:
                raise
            return None

    def _headers(self) -> dict[str, str]:
        if self._location != self._own:
            return {"User-Agent": f"ropepatch/{__version__}"}
        return headers()

    def _body(self, response: Any, start: int, end: int | None, limit: int | None) -> bytes:
        """What was asked for, never more: a server may send a whole file instead."""
        if end is not None and response.status_code != 206 and not (start == 0 and self.size <= end):
            raise HubError(
                "the server does not answer requests for a part of a file",
                where=str(self.where),
                hint=f"download it first: hf download {self.where.repo} {self.where.file}",
            )
        most = end - start if end is not None else limit or self.size
        data = bytearray()
        for block in response.iter_bytes():
            data += block
            if len(data) > most:
                raise HubError(f"the server sends more than the {most} bytes asked for", where=str(self.where))
        expected = min(end, self.size) - start if end is not None else self.size
        if len(data) != expected:
            raise HubError(f"the server sends {len(data)} bytes instead of {expected}", where=str(self.where))
        return bytes(data)


def _url(where: HubRef) -> str:
    from huggingface_hub import hf_hub_url

    assert where.file is not None
    return str(hf_hub_url(where.repo, where.file, revision=where.revision, endpoint=endpoint()))


def _utils() -> Any:
    """The client's own session, headers and errors, which it shares on purpose."""
    from huggingface_hub import utils

    return utils
