"""What can go wrong with the Hub, each as one line and exit code 4."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from ropepatch.errors import HubError, RopepatchError
from ropepatch.hub.refs import HubRef


@contextlib.contextmanager
def translated(where: HubRef, *, publishing: bool = False) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line and exit code 4.

    Args:
        where: what it is about.
        publishing: uploads fail in more ways: hf_xet has errors of its own, the client checks cards and copies.
    """
    try:
        yield
    except RopepatchError:
        raise
    except Exception as error:
        explained = _commit_lost(error, where) if publishing else None
        explained = explained or _explained(error, where) or (_of_publishing(error, where) if publishing else None)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, where: HubRef) -> HubError | None:
    """The error as one line; None where it is no matter of the Hub."""
    from huggingface_hub import errors

    place = str(where)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(
            "is not in the cache, and HF_HUB_OFFLINE forbids to ask for it",
            where=place,
            hint=f"hf download {where.repo} while online",
        )
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            "is gated: its owner asks for conditions to be accepted first",
            where=place,
            hint=f"accept them at {endpoint()}/{where.repo} and log in with hf auth login or HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        guessed = "there is no such path, and on the Hub " if where.guessed else ""
        return HubError(
            f"{guessed}there is no such repository, or it is private",
            where=place,
            hint="check the name; for a private one log in with hf auth login or HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"there is no revision {where.revision!r}", where=f"hf://{where.repo}")
    if isinstance(error, errors.EntryNotFoundError):
        return HubError("there is no such file", where=place)
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error, where)
    if isinstance(error, (errors.HFValidationError, errors.LocalTokenNotFoundError, errors.FileDuplicationError)):
        return HubError(_line(error), where=place)
    if isinstance(error, transport_errors()):
        timeout = "Timeout" in type(error).__name__
        return HubError(
            f"{host()} {'did not answer in time' if timeout else 'cannot be reached'}: {_line(error) or 'no answer'}",
            where=place,
            hint="check the network, or work from the cache with HF_HUB_OFFLINE=1",
        )
    return None


def _commit_lost(error: Exception, where: HubRef) -> HubError | None:
    """A commit that was asked for and not answered."""
    with contextlib.suppress(RuntimeError, AttributeError):  # the error knows no request
        if isinstance(error, transport_errors()) and "/commit/" in str(error.request.url):  # type: ignore[attr-defined]
            return HubError(
                f"{host()} did not answer to the commit; whether the commit was made is not known",
                where=str(where),
                hint="run it again: where all is there already it says so",
            )
    return None


def _of_publishing(error: Exception, where: HubRef) -> HubError | None:
    text = _line(error)
    if "region" in text.lower():
        return HubError(
            "the base is kept in another storage region, and weights are not copied across",
            where=str(where),
            hint="--config-only publishes without them; apply without --to and push sends them",
        )
    if "xet hash" in text:
        return HubError(
            "the base's weights cannot be copied on the server: they are not in its new storage",
            where=str(where),
            hint="--config-only publishes without them; apply without --to and push sends them",
        )
    if isinstance(error, (RuntimeError, ValueError, ConnectionError, TimeoutError)):
        return HubError(f"the upload failed and nothing was published: {text}", where=str(where), hint="run it again")
    return None


def _by_status(error: Any, where: HubRef) -> HubError:
    status = error.response.status_code
    if "region" in str(error) and (known := _of_publishing(error, where)):
        return known
    said = _line(error.server_message or error.response.headers.get("X-Error-Message") or "")
    tail = f" ({said})" if said else ""
    if status == 401:
        return HubError(f"the token is not accepted{tail}", where=str(where), hint="log in with hf auth login")
    if status == 403:
        return HubError(f"no permission{tail}", where=str(where), hint="the token may lack the right to write there")
    if status == 412:
        return HubError(
            "the repository has moved on since it was read; nothing was published",
            where=str(where),
            hint="run it again",
        )
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        after = f"wait {wait} s and run it again" if wait and wait.isdigit() else "wait and run it again"
        return HubError("the server's rate limit is reached", where=str(where), hint=after)
    if status >= 500:
        return HubError(f"the server failed with {status}{tail}", where=str(where), hint="try again later")
    return HubError(f"the server refused with {status}{tail}", where=str(where))


def endpoint() -> str:
    """The server's address."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def transport_errors() -> tuple[type[BaseException], ...]:
    """What the client raises when no answer comes; its library changed with its second version."""
    from huggingface_hub.errors import HfHubHTTPError

    module = __import__(HfHubHTTPError.__bases__[0].__module__.split(".")[0])
    return (module.TransportError,)


def host() -> str:
    """The server's name."""
    return urllib.parse.urlsplit(endpoint()).netloc or endpoint()


def _line(text: object) -> str:
    return " ".join(str(text).split())[:300]
