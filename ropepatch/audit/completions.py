"""An OpenAI-compatible server as a client sees it: completions with retries, in whichever spelling it answers."""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch.audit.engine import Unanswered

#: answers that may be others a moment later
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_MOST_BYTES = 256 << 20
#: seconds: of our own back-off, and of what a server may ask for
_LONGEST_WAIT, _LONGEST_ASKED = 30.0, 300.0


class Refused(Unanswered):
    """The server does not take the request, and would not later."""


@dataclass(frozen=True)
class Step:
    """One token that was said.

    Attributes:
        id: its id; None where the server says texts only.
        text: its text.
        tops: log-probabilities of the likeliest tokens, by id where there are ids, else by text.
    """

    id: int | None
    text: str
    tops: Mapping[int | str, float]


@dataclass(frozen=True)
class Reply:
    """What a server says: the text, its tokens where it gives them, and how many tokens the prompt had."""

    text: str
    steps: tuple[Step, ...]
    prompt_tokens: int | None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is for the address that it was given for."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Completions of one server.

    Args:
        url: ``http://host:port``, with or without ``/v1``.
        model: the model's name there; default the first that it lists.
        key: sent as bearer token.
        retries: how often a request is sent again.
        first_wait: seconds before the first of them; each doubles it.
        timeout: seconds that one answer may take.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        key: str | None = None,
        *,
        retries: int = 5,
        first_wait: float = 0.5,
        timeout: float = 600.0,
    ) -> None:
        self.url = url.rstrip("/") if url.rstrip("/").endswith("/v1") else url.rstrip("/") + "/v1"
        self.retries, self.first_wait, self.timeout = retries, first_wait, timeout
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        host = urllib.parse.urlsplit(self.url).hostname
        handlers: list[Any] = [_NoRedirect()]
        if host in ("127.0.0.1", "localhost", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        listed = self._listed()
        self.model = model or str(listed.get("id") or "default")
        self.owner = str(listed.get("owned_by") or "")
        meta = listed.get("meta")
        self.meta: Mapping[str, Any] = meta if isinstance(meta, Mapping) else {}

    def _listed(self) -> Mapping[str, Any]:
        try:
            found = self._ask("/models", None)
        except Refused:
            return {}  # some servers have completions only
        data = found.get("data")
        return data[0] if isinstance(data, list) and data and isinstance(data[0], Mapping) else {}

    def complete(self, prompt: str | Sequence[int], count: int, logprobs: int | None, **extra: Any) -> Reply:
        """The likeliest ``count`` tokens behind a prompt, and ``logprobs`` alternatives for each.

        Raises:
            Refused: the server does not take the request.
            Unanswered: it did not answer, after all retries.
        """
        body: dict[str, Any] = {
            "model": self.model, "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": count, "temperature": 0, **extra,
        }  # fmt: skip
        if logprobs is not None:
            body["logprobs"] = logprobs
            if self.owner == "vllm":
                body["return_tokens_as_token_ids"] = True
        return _reply(self._ask("/completions", body))

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self._headers)
        why, wait, asked = "", self.first_wait, 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(max(min(wait, _LONGEST_WAIT) * random.uniform(0.75, 1.25), asked))
                wait, asked = 2 * wait, 0.0
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    found = json.loads(answer.read(_MOST_BYTES))
                if isinstance(found, Mapping):
                    return found
                why = "answers with no JSON object"
            except urllib.error.HTTPError as error:
                why = f"{error.code} {_told(error.read(1 << 16)) or error.reason}"
                # llama-server says 500 to tokens that it does not know and to prompts that it cannot read
                if error.code not in _AGAIN:
                    raise Refused(f"{self.url} says {why}") from None
                asked = _seconds(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = str(getattr(error, "reason", None) or error) or type(error).__name__
        raise Unanswered(f"{self.url} gave no answer after {self.retries + 1} attempts: {why}")


def _seconds(text: str | None) -> float:
    """What ``Retry-After`` asks for: seconds, or a date."""
    if not text:
        return 0.0
    try:
        found = float(text)
    except ValueError:
        try:
            found = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(found, 0.0), _LONGEST_ASKED)


def _told(raw: bytes) -> str:
    """The message in an error's body, in one line."""
    try:
        found = json.loads(raw)
        inner = found.get("error", found)
        text = str(inner.get("message", inner) if isinstance(inner, Mapping) else inner)
    except (ValueError, AttributeError):
        text = raw.decode("utf-8", "replace")
    return " ".join(text.split())[:200]


def _reply(found: Mapping[str, Any]) -> Reply:
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    if choice is None:
        # LM Studio says 200 to prompts that are too long, and the reason in the body.
        told = _told(json.dumps(found).encode()) if found.get("error") else "no choices"
        raise Refused(f"the server answers with {told}")
    usage = found.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    try:
        steps = tuple(_steps(choice.get("logprobs")))
    except (AttributeError, KeyError, TypeError, ValueError):
        steps = ()
    return Reply(str(choice.get("text") or ""), steps, tokens if isinstance(tokens, int) else None)


def _steps(found: Any) -> list[Step]:
    """Both spellings: a list of tokens with their alternatives, and three lists side by side."""
    if not isinstance(found, Mapping):
        return []
    if isinstance(found.get("content"), list):
        return [
            Step(item.get("id"), str(item["token"]), _tops([item, *(item.get("top_logprobs") or ())]))
            for item in found["content"]
        ]
    steps = []
    for token, own, tops in zip(
        found["tokens"], found["token_logprobs"], found.get("top_logprobs") or (), strict=False
    ):
        found_tops: dict[int | str, float] = {}
        for name, value in {**(tops or {}), token: own}.items():
            key = _key(name)  # tokens that differ in blanks have one key: the likeliest is meant
            found_tops[key] = max(float(value), found_tops.get(key, -math.inf))
        steps.append(Step(_id(token), token, found_tops))
    return steps


def _tops(items: Sequence[Mapping[str, Any]]) -> dict[int | str, float]:
    return {
        item["id"] if isinstance(item.get("id"), int) else str(item["token"]).strip(): float(item["logprob"])
        for item in items
    }


def _id(text: str) -> int | None:
    """vLLM can write ids as ``token_id:17``."""
    return int(text[9:]) if text.startswith("token_id:") else None


def _key(text: str) -> int | str:
    number = _id(text)
    return text.strip() if number is None else number
