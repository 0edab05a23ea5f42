"""What names a checkpoint on the Hub: ``hf://org/repo[@rev][/file]``, ``org/repo`` where no such path exists, or the
address of its page."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from ropepatch.errors import UsageError

SCHEME = "hf://"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<rest>.+))?", re.ASCII)
#: revisions that hold slashes themselves
_SPECIAL = re.compile(r"refs/(?:pr|convert|heads)/[^/]+")
_GRAMMAR = "hf://org/repo[@revision][/file]"
#: the address of a page on the Hub, as a browser shows it
_PAGE = re.compile(r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)|hf\.co|huggingface\.co)/", re.IGNORECASE)
#: what stands before the revision in the address of a page or a file
_VIEWS = ("tree", "blob", "resolve", "raw", "commit")
#: endings that a path has and a repository hardly ever
_SUFFIXES = (".gguf", ".safetensors", ".json", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class HubRef:
    """A place on the Hub.

    Attributes:
        repo: ``org/name``.
        revision: a branch, tag or commit; None for the main branch.
        file: a file or folder in it; None for its top.
        guessed: the person wrote ``org/repo`` alone, which could have been a path.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    guessed: bool = False

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repo}{revision}{f'/{self.file}' if self.file else ''}"

    @property
    def name(self) -> str:
        """What an output is named after: the file, else the repository."""
        return (self.file or self.repo).rsplit("/", 1)[-1]

    def at(self, commit: str) -> HubRef:
        """The same place at a commit."""
        return replace(self, revision=commit, guessed=False)

    def within(self, file: str | None) -> HubRef:
        """A file of the same revision."""
        return replace(self, file=file)


def is_remote(ref: str) -> bool:
    """Whether ``ref`` names something on the Hub, without looking there."""
    if ref.startswith(SCHEME):
        return True
    if _PAGE.match(ref):
        return not os.path.lexists(ref)
    match = _REPO.fullmatch(ref)
    if match is None or ref.endswith(_SUFFIXES) or os.path.lexists(ref):
        return False
    return not os.path.lexists(ref.split("/", 1)[0])  # a missing file in a folder that is there is a mistyped path


def parse(ref: str) -> HubRef:
    """The place that ``ref`` names.

    Raises:
        UsageError: it is none.
    """
    if page := _PAGE.match(ref):
        return _of_page(ref, ref[page.end() :])
    if not ref.startswith(SCHEME):
        match = _REPO.fullmatch(ref)
        if match is None or not _sound(match["rest"]):
            raise _malformed(ref)
        return HubRef(match["repo"], match["rest"], guessed=True)
    rest = ref.removeprefix(SCHEME).removesuffix("/")
    kind, _, below = rest.partition("/")
    if kind in ("datasets", "spaces", "buckets"):
        raise UsageError(f"{ref!r} is in {kind}, not a model", hint=f"write {_GRAMMAR}")
    if kind == "models" and "/" in below:
        rest = below
    org, _, tail = rest.partition("/")
    name, _, file = tail.partition("/")
    name, sign, revision = name.partition("@")
    if sign and (special := _SPECIAL.match(f"{revision}/{file}")):
        revision, file = special[0], f"{revision}/{file}"[special.end() + 1 :]
    revision = revision.replace("%2F", "/").replace("%2f", "/")
    if not _REPO.fullmatch(f"{org}/{name}") or (sign and not revision) or not (_sound(revision) and _sound(file)):
        raise _malformed(ref)
    return HubRef(f"{org}/{name}", revision or None, file or None)


def _of_page(ref: str, path: str) -> HubRef:
    """What a browser shows at an address: ``org/repo``, ``org/repo/tree/main``, ``org/repo/blob/main/model.gguf``."""
    parts = re.split(r"[?#]", path, maxsplit=1)[0].strip("/").split("/")
    if len(parts) < 2 or (len(parts) > 2 and (parts[2] not in _VIEWS or len(parts) < 4)):
        raise _malformed(ref)
    revision = f"@{parts[3]}" if len(parts) > 3 else ""
    try:
        return parse("/".join((f"{SCHEME}{parts[0]}/{parts[1]}{revision}", *parts[4:])))
    except UsageError:
        raise _malformed(ref) from None


def refuse(ref: object, doing: str) -> None:
    """Refuse a place on the Hub where files have to be here, and a ref that names nothing.

    Raises:
        UsageError: ``ref`` is such a place, or empty.
    """
    if not str(ref).strip():
        raise UsageError("REF is empty", hint="name a file or a folder (. for this one)")
    text = re.sub(r"^hf:/(?!/)", SCHEME, str(ref))  # a path has lost one of the slashes
    if is_remote(text) and not _REPO.fullmatch(text):
        place = parse(text)
        raise UsageError(
            f"{place} is on the Hub, and {doing} works on files that are here",
            hint=f"hf download {place.repo} --local-dir {place.repo.rsplit('/', 1)[-1]}",
        )


def repo_name(text: str) -> str:
    """``org/name`` as the target of a push.

    Raises:
        UsageError: it is no name of a repository.
    """
    try:
        found = parse(text if is_remote(text) else SCHEME + text)
    except UsageError:
        raise UsageError(f"{text!r} names no repository on the Hub", hint="write org/name") from None
    if found.file or found.revision:
        raise UsageError(f"{text!r} names more than a repository", hint="write org/name")
    return found.repo


def _sound(part: str | None) -> bool:
    """Whether a revision or a path keeps inside its repository."""
    if not part:
        return True
    pieces = part.split("/")
    return len(part) < 1024 and part.isprintable() and "\\" not in part and not {"", ".", ".."} & set(pieces)


def _malformed(ref: str) -> UsageError:
    return UsageError(f"{ref!r} names no repository on the Hub", hint=f"write {_GRAMMAR}")
