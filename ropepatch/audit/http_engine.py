"""Cells on OpenAI-compatible servers: many requests at once, one text's questions behind each other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ropepatch.audit.completions import Client, Refused, Reply, Step
from ropepatch.audit.engine import Answers, Unanswered
from ropepatch.audit.pieces import pieces_of
from ropepatch.audit.tasks import ANSWER, Texts
from ropepatch.errors import HubError, InputError

if TYPE_CHECKING:
    from ropepatch.audit.variants import Variant

#: by depth: whether a text was answered, the answer's log-probability, the prompt's tokens
Row = dict[float, tuple[bool, float | None, int]]
#: alternatives that are asked for, most first: servers have limits of their own
_TRIED = (64, 20, 5, None)
_EVERY = 1 << 20
_PROBE = 16
#: tokens that three words may take
_MANY = 12


@dataclass
class Server:
    """How one server is talked to.

    Attributes:
        client: the connection.
        pieces: texts of the token ids; empty where they are not known.
        logprobs: how many alternatives it gives; None for none.
        takes_tokens: whether prompts may be lists of token ids.
        slots: numbers of its slots, where requests are bound to them.
    """

    client: Client
    pieces: Sequence[str]
    logprobs: int | None = None
    takes_tokens: bool = True
    slots: queue.SimpleQueue[int] | None = None

    def probe(self) -> None:
        """Find out how it wants its prompts.

        Raises:
            Unanswered: it takes neither tokens nor texts.
        """
        ids = list(range(_PROBE, 2 * _PROBE))
        prompts: list[tuple[bool, str | list[int]]] = [(True, ids)]
        if self.pieces:
            prompts.append((False, self._text(ids)))
        why: Unanswered | None = None
        for takes_tokens, prompt in prompts:
            for count in _TRIED:
                try:
                    reply = self.client.complete(prompt, 1, count)
                except Unanswered as error:
                    why = error
                    continue
                # A server that took the list for a text counts other tokens.
                if takes_tokens and reply.prompt_tokens not in (None, _PROBE, _PROBE + 1):
                    why = None
                    break
                self.takes_tokens, self.logprobs = takes_tokens, count if reply.steps else None
                if not self.pieces and not any(step.id is not None for step in reply.steps):
                    raise Unanswered(
                        f"{self.client.url} answers in texts, and what tokens' texts are is not known: "
                        "the checkpoint needs its tokenizer.json"
                    )
                return
        if not self.pieces and isinstance(why, Refused):
            raise Unanswered(
                f"{why}; it is sent lists of token ids, since the checkpoint has no tokenizer.json to write texts with"
            )
        raise why or Unanswered(f"{self.client.url} takes no lists of tokens, and the tokens' texts are not known")

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(self.pieces[token].strip() for token in ids)

    def answer(self, text: Sequence[int]) -> tuple[bool, float | None, int]:
        """Whether the last tokens of a text are said after the others; their log-probability; the prompt's tokens."""
        slot = self.slots.get() if self.slots else None
        try:
            extra = {} if slot is None else {"id_slot": slot}
            return self._answer([int(token) for token in text], extra)
        finally:
            if self.slots and slot is not None:
                self.slots.put(slot)

    def _answer(self, text: list[int], extra: Mapping[str, Any]) -> tuple[bool, float | None, int]:
        prompt, wanted = text[:-ANSWER], text[-ANSWER:]
        first = self._complete(prompt, ANSWER, extra)
        tokens = first.prompt_tokens if first.prompt_tokens is not None else len(prompt)
        if tokens < len(prompt):  # a word is a token at least
            raise Unanswered(
                f"{self.client.url} counts {tokens} tokens in a prompt of {len(prompt)}: it cuts them to its context, "
                "which has to be set longer there"
            )
        said = self._says(first.text, wanted)
        if not first.steps:
            return said, None, tokens
        steps, hit, total = list(first.steps), True, 0.0
        for index, token in enumerate(wanted):
            if not steps:  # it ended, or said the rest behind a wrong token: ask again behind the true ones
                hit, steps = False, list(self._complete(prompt, ANSWER - index, extra).steps)
            value = self._value(steps[0], token, prompt, extra) if steps else None
            if value is None:
                return said and not self.takes_tokens, None, tokens
            total += value
            right = self._is(steps[0], token)
            hit, steps = hit and right, steps[1:] if right else []
            prompt = [*prompt, token]
        return hit if self.takes_tokens else said, total, tokens

    def _complete(self, prompt: list[int], count: int, extra: Mapping[str, Any]) -> Reply:
        if self.takes_tokens:
            return self.client.complete(prompt, count, self.logprobs, **extra)
        return self.client.complete(self._text(prompt), _MANY, self.logprobs, **extra)

    def _value(self, step: Step, wanted: int, prompt: list[int], extra: Mapping[str, Any]) -> float | None:
        value = step.tops.get(wanted if step.id is not None else self._word(wanted))
        if value is None and self.client.owner == "llamacpp" and self.takes_tokens:
            whole = self.client.complete(prompt, 1, _EVERY, **extra)
            value = whole.steps[0].tops.get(wanted) if whole.steps else None
        return value

    def _is(self, step: Step, wanted: int) -> bool:
        return step.id == wanted if step.id is not None else step.text.strip() == self._word(wanted)

    def _says(self, text: str, wanted: Sequence[int]) -> bool:
        """By its letters: servers of texts do not tell where tokens begin."""
        letters = "".join(self._word(token) for token in wanted)
        return bool(letters) and "".join(text.split()).startswith(letters)

    def _word(self, token: int) -> str:
        return self.pieces[token].strip() if token < len(self.pieces) else ""


@dataclass
class HttpEngine:
    """Variants that are served elsewhere; what they cost is their machines' business.

    Attributes:
        model: the model's name there.
        key: sent as bearer token.
        concurrency: requests at once.
        retries: how often a request is sent again.
    """

    chosen: Sequence[Variant]
    model: str | None = None
    key: str | None = None
    concurrency: int = 4
    retries: int = 5
    servers: dict[str, Server] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Meet every server before the first text.

        Raises:
            HubError: one does not answer.
            InputError: the checkpoint says nothing of its vocabulary.
        """
        checkpoint = self.chosen[0].checkpoint
        pieces = pieces_of(checkpoint)
        for variant in self.chosen:
            try:
                client = Client(str(variant.url), self.model, self.key, retries=self.retries)
                self.servers[variant.name] = Server(client, pieces)
                self.servers[variant.name].probe()
            except Unanswered as error:
                raise HubError(str(error)) from None
        served = [int(s.client.meta["n_vocab"]) for s in self.servers.values() if "n_vocab" in s.client.meta]
        said = (checkpoint.raw_config or {}).get("vocab_size") if checkpoint.profile.source.format == "hf" else None
        sizes = [*served, *([len(pieces)] if pieces else []), *([said] if isinstance(said, int) else [])]
        if not sizes:
            raise InputError("says nothing of its vocabulary", where=checkpoint.ref)
        self.vocabulary = min(sizes)
        self.needs_words = not all(server.takes_tokens for server in self.servers.values())
        names = sorted({server.client.owner or "server" for server in self.servers.values()})
        self.environment: dict[str, Any] = {
            "engine": f"http {', '.join(names)}", "device": "remote", "dtype": "as served",
        }  # fmt: skip

    def estimate(self, variant: Variant, length: int, rows: int) -> None:
        """Another machine's business."""
        return

    def free(self) -> None:
        """Another machine's business."""
        return

    def answers(self, variant: Variant, texts: Texts, rows: int) -> dict[float, Answers]:
        """One thread a text, deepest block first: a server that keeps prefixes computes each only once."""
        return ask(self.servers[variant.name], texts, self.concurrency)

    def close(self) -> None:
        """Connections are closed after each answer."""


def ask(server: Server, texts: Texts, concurrency: int) -> dict[float, Answers]:
    """All questions of some texts on one server.

    Raises:
        Unanswered: a request was refused, or not answered in the end.
    """
    whole = {depth: texts.at(depth) for depth in sorted(texts.blocks, reverse=True)}

    def one(row: int) -> Row:
        return {depth: server.answer(tokens[row]) for depth, tokens in whole.items()}

    rows = _each(one, texts.samples, concurrency)
    found = {}
    for depth in texts.blocks:
        hits, numbers, counts = zip(*(row[depth] for row in rows), strict=True)
        known = None if any(value is None for value in numbers) else numbers
        found[depth] = Answers(hits, known, sum(counts))
    return found


def _each(function: Callable[[int], Row], count: int, threads: int) -> list[Row]:
    """``function`` of 0 to ``count``, several at once; after an error or Ctrl-C nobody waits for those under way."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Row | BaseException]] = queue.SimpleQueue()
    over = threading.Event()
    for index in range(count):
        todo.put(index)

    def work() -> None:
        while not over.is_set():
            try:
                index = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, function(index)))
            except BaseException as error:
                done.put((index, error))

    for _ in range(max(1, min(threads, count))):
        threading.Thread(target=work, daemon=True).start()
    found: dict[int, Row] = {}
    try:
        while len(found) < count:
            index, result = done.get()
            if isinstance(result, BaseException):
                raise result
            found[index] = result
    finally:
        over.set()
    return [found[index] for index in range(count)]
