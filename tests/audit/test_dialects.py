"""Servers that answer in the shapes which vLLM, SGLang, Ollama and LM Studio document. None of those runs here.

The shapes are those of their documentation, their sources and the reports of their users in autumn 2026; what is said
is the trained fixture's own, so that what comes of an audit can be held against the built-in engine's.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

import ropepatch
from ropepatch.audit import completions
from ropepatch.audit.result import Audit
from ropepatch.audit.torch_engine import Model, prefill
from ropepatch.errors import HubError
from ropepatch.verify.cache import Cache
from tests.support.command import ROOT

FOLDER = ROOT / "fixtures" / "tiny-retriever"
CONTEXT = 300
ASKED: dict[str, Any] = {
    "lengths": (256, 400), "samples": 2, "depths": (0.3, 0.8), "task": ("passkey",),
    "alphabet": "bos=0,filler=1-40,key=41-72,value=73-136",
}  # fmt: skip
Answer = tuple[int, Any]


class Bad(Exception):
    """An answer with another code than 200."""

    def __init__(self, code: int, document: Any) -> None:
        self.answer = code, document


@functools.cache
def model() -> tuple[Model, dict[str, int], list[str]]:
    """The fixture, and its words by id and ids by word."""
    words = json.loads((FOLDER / "tokenizer.json").read_text())["model"]["vocab"]
    names = [word for word, _ in sorted(words.items(), key=lambda item: item[1])]
    return Model(ropepatch.open(FOLDER), "cpu", torch.float32), words, names


def said(prompt: list[int], count: int, tops: int) -> list[tuple[int, list[tuple[int, float]]]]:
    """Greedy decoding: each token, and the likeliest ones with their log-probabilities."""
    decoder, tokens, found = model()[0].first, list(prompt), []
    with torch.inference_mode():
        for _ in range(count):
            states, _ = prefill(decoder, torch.tensor([tokens]), 0, Cache(), 512, 1)
            values, ids = decoder.log_probabilities(states)[0, 0].topk(max(tops, 1))
            found.append((int(ids[0]), list(zip(ids.tolist(), values.tolist(), strict=True))))
            tokens.append(int(ids[0]))
    return found


def completion(prompt: int, steps: Any, logprobs: Any = None) -> dict[str, Any]:
    """What all of them have in common."""
    names = model()[2]
    text = "".join(f" {names[token]}" for token, _ in steps)
    choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "length"}
    usage = {"prompt_tokens": prompt, "completion_tokens": len(steps), "total_tokens": prompt + len(steps)}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice],
            "usage": usage}  # fmt: skip


def lists(steps: Any, tops: int, spell: Callable[[int], str]) -> dict[str, Any]:
    """Log-probabilities as lists side by side."""
    return {
        "text_offset": [0] * len(steps),
        "tokens": [spell(token) for token, _ in steps],
        "token_logprobs": [likeliest[0][1] for _, likeliest in steps],
        "top_logprobs": [{spell(token): value for token, value in likeliest[:tops]} for _, likeliest in steps],
    }


def vllm(body: Any) -> Any:
    """Lists of ids; ids in the names of tokens where asked for; 20 alternatives; a nested error."""

    def bad(message: str) -> Bad:
        return Bad(400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}})

    prompt, tops = body["prompt"], body["logprobs"]
    if tops > 20:
        raise bad(f"Requested sample logprobs of {tops}, which is greater than max allowed: 20")
    if len(prompt) + body["max_tokens"] > CONTEXT:
        raise bad(
            f"This model's maximum context length is {CONTEXT} tokens. However, you requested {len(prompt) + 3} tokens"
        )
    assert body["return_tokens_as_token_ids"] is True
    steps = said(prompt, body["max_tokens"], tops)
    return completion(len(prompt), steps, lists(steps, tops, lambda token: f"token_id:{token}"))


def sglang(body: Any) -> Any:
    """Lists of ids, tokens as texts, and an error without a member ``error``; the last place is not given away."""
    prompt, tops = body["prompt"], body["logprobs"]
    if len(prompt) + body["max_tokens"] >= CONTEXT:
        message = f"Requested token count exceeds the model's maximum context length of {CONTEXT} tokens."
        raise Bad(400, {"object": "error", "message": message, "type": "BadRequest", "param": None, "code": 400})
    steps = said(prompt, body["max_tokens"], tops)
    return completion(len(prompt), steps, lists(steps, tops, lambda token: f" {model()[2][token]}"))


def ollama(body: Any) -> Any:
    """Texts only, no log-probabilities; what does not fit is cut off in front without a word."""
    if not isinstance(body["prompt"], str):
        message = "json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type string"
        raise Bad(400, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})
    prompt = [model()[1][word] for word in body["prompt"].split()][-CONTEXT:]
    return completion(len(prompt), said(prompt, body["max_tokens"], 1))


def lm_studio(body: Any) -> Any:
    """Texts only, log-probabilities that are always null, and 200 with an error for what is too long."""
    if not isinstance(body["prompt"], str):
        raise Bad(400, {"error": "'prompt' field must be a string"})
    prompt = [model()[1][word] for word in body["prompt"].split()]
    if len(prompt) > CONTEXT:
        return {"error": "The number of tokens to keep from the initial prompt is greater than the context length."}
    return completion(len(prompt), said(prompt, body["max_tokens"], 1))


#: dialect -> what answers, ``owned_by`` of its models, whether it has log-probabilities, what it says to long prompts
DIALECTS = {
    "vLLM":      (vllm,      "vllm",               True,  "maximum context length is 300"),
    "SGLang":    (sglang,    "sglang",             True,  "exceeds the model's maximum context length"),
    "Ollama":    (ollama,    "library",            False, "counts 300 tokens in a prompt of 397"),
    "LM Studio": (lm_studio, "organization_owner", False, "greater than the context length"),
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    """One dialect; ``busy`` answers come first."""

    def do_GET(self) -> None:
        """The list of models."""
        owner = self.server.owner  # type: ignore[attr-defined]
        self._send(200, {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": owner}]}, {})

    def do_POST(self) -> None:
        """A completion, or what the server says instead."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        if server.busy:
            return self._send(*server.busy.pop(0))
        try:
            return self._send(200, server.answer(body), {})
        except Bad as bad:
            return self._send(*bad.answer, {})

    def _send(self, code: int, document: Any, headers: dict[str, str]) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quietly."""


@pytest.fixture
def serve() -> Iterator[Callable[[str], Any]]:
    """Starts a server of a dialect."""
    servers = []

    def start(name: str) -> Any:
        server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.answer, server.owner, server.busy = *DIALECTS[name][:2], []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def reference() -> Audit:
    """The same on the built-in engine."""
    return ropepatch.audit(FOLDER, device="cpu", **{**ASKED, "lengths": (256,)})


@pytest.mark.parametrize("name", DIALECTS)
def test_audit_of_a_server_that_answers_in_the_shape_that_it_documents(
    name: str, serve: Callable[[str], Any], reference: Audit
) -> None:
    """Cells within its context are the built-in engine's; longer ones failed, with what the server says of them."""
    found = ropepatch.audit(FOLDER, engine="http", url=[serve(name).url], **ASKED)
    short = [cell for cell in found.cells if cell["length"] == 256]
    long = [cell for cell in found.cells if cell["length"] == 400]

    assert [cell["hits"] for cell in short] == [[1, 1], [1, 1]] == [cell["hits"] for cell in reference.cells]
    if DIALECTS[name][2]:
        expected = [cell["log_probability"] for cell in reference.cells]  # about -5e-05: the answers are certain
        assert [cell["log_probability"] for cell in short] == pytest.approx(expected, abs=1e-6)
    else:
        assert {cell["log_probability"] for cell in short} == {None}
    assert {cell["prompt_tokens"] for cell in short} == {2 * 253}
    assert {cell["status"] for cell in long} == {"failed"}
    assert all(DIALECTS[name][3] in cell["why"] for cell in long), long[0]["why"]


@pytest.mark.parametrize(("name", "why"), [
    ("Ollama", "cannot unmarshal array .* no tokenizer.json"),
    ("LM Studio", "must be a string; .* no tokenizer.json"),
    ("SGLang", "answers in texts, .* needs its tokenizer.json"),
])  # fmt: skip
def test_servers_of_texts_need_a_tokenizer(name: str, why: str, serve: Callable[[str], Any], tmp_path: Path) -> None:
    """Without the texts of the tokens, a server that takes or says only texts is refused in one line."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*")))
    with pytest.raises(HubError, match=why):
        ropepatch.audit(folder, engine="http", url=[serve(name).url], **ASKED)


def test_vllm_needs_no_tokenizer(serve: Callable[[str], Any], tmp_path: Path) -> None:
    """Ids in, ids out."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*")))
    found = ropepatch.audit(folder, engine="http", url=[serve("vLLM").url], **{**ASKED, "lengths": (256,)})

    assert found.score("served", "passkey", 256) == 1


def test_retry_after_is_waited_for(serve: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds and dates in Retry-After are never undercut, and not waited for without end."""
    slept: list[float] = []
    monkeypatch.setattr(completions.time, "sleep", slept.append)
    server = serve("vLLM")
    client = completions.Client(server.url, first_wait=0.5)
    server.busy = [
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "7"}),
        (503, {}, {"Retry-After": formatdate(time.time() + 60, usegmt=True)}),
        (503, {}, {"Retry-After": "1e9"}),
        (429, {}, {}),
    ]
    reply = client.complete([0, 1, 2], 1, 5)

    assert reply.prompt_tokens == 3
    assert slept[0] == 7
    assert 55 < slept[1] <= 60
    assert slept[2] == completions._LONGEST_ASKED
    assert 0.75 * 4 <= slept[3] <= 1.25 * 4


def test_tokens_that_differ_in_blanks_have_the_likelier_ones_value() -> None:
    """Texts are compared without their blanks, so that a rare variant must not hide the usual one."""
    logprobs = {"tokens": [" a"], "token_logprobs": [-2.0], "top_logprobs": [{" b": -0.1, "\tb": -9.0, " a": -2.0}]}
    reply = completions._reply({"choices": [{"text": " a", "logprobs": logprobs}]})

    assert reply.steps[0].tops == {"b": -0.1, "a": -2.0}
