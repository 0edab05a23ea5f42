"""The same audit through every engine: our own decoder, transformers, llama.cpp, and real and simulated servers."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

import ropepatch
from ropepatch import schemas
from ropepatch.audit import completions, statistics
from ropepatch.audit.result import Audit
from ropepatch.audit.torch_engine import Model, prefill
from ropepatch.errors import HubError, UsageError
from ropepatch.verify.cache import Cache
from tests.support.command import ROOT
from tests.support.command import ropepatch as command

FOLDER, FILE = ROOT / "fixtures" / "tiny-retriever", ROOT / "fixtures" / "tiny-retriever.gguf"
LETTERS = "bos=0,filler=1-40,key=41-72,value=73-136"
TRIED = ("none", "linear 4x", "ntk 4x", "yarn 4x")
SAME: dict[str, Any] = {
    "alphabet": LETTERS, "samples": 4, "depths": (0.1, 0.5, 0.9), "lengths": (256, 1024), "device": "cpu",
    "task": ("passkey", "multikey"),
}  # fmt: skip
METHODS: dict[str, Any] = {"methods": ("linear", "ntk", "yarn"), "factor": 4}


@pytest.fixture(scope="module")
def reference() -> Audit:
    """None, PI, NTK and YaRN at four times the context, on our own decoder."""
    return ropepatch.audit(FOLDER, **METHODS, **SAME)


def agree(found: Audit, reference: Audit) -> None:
    """Every cell lies within the other's interval, and most log-probabilities are the same."""
    cells = {(c["variant"], c["task"], c["length"], c["depth"]): c for c in reference.cells}
    assert len(found.cells) == len(cells) == 4 * 2 * 2 * 3
    close = 0
    for cell in found.cells:
        other = cells[cell["variant"], cell["task"], cell["length"], cell["depth"]]
        assert cell["status"] == "measured", cell
        low, high = statistics.clopper_pearson(other["k"], other["n"])
        assert low <= cell["k"] / cell["n"] <= high
        close += abs(cell["log_probability"] - other["log_probability"]) < 0.01
    assert close >= 0.9 * len(cells)
    schemas.validator("audit").validate(json.loads(json.dumps(found.to_json())))


def test_transformers(reference: Audit) -> None:
    """transformers' own model, its config patched and its cache cut back for each depth, finds the same."""
    pytest.importorskip("transformers")

    agree(ropepatch.audit(FOLDER, engine="transformers", **METHODS, **SAME), reference)


def test_llama_cpp(reference: Audit) -> None:
    """llama.cpp on the patched GGUF finds the same, the unpatched one beyond its declared context among it."""
    pytest.importorskip("xllamacpp")

    agree(ropepatch.audit(FILE, engine="llama.cpp", **METHODS, **SAME), reference)


def test_http(reference: Audit, tmp_path: Path) -> None:
    """A real OpenAI-compatible server for each variant finds the same, and counts the prompts' tokens itself."""
    pytest.importorskip("xllamacpp")
    from ropepatch.audit.llama_engine import with_context
    from ropepatch.audit.llama_server import LlamaServer
    from ropepatch.audit.variants import resolve

    servers = []
    try:
        for variant in resolve(ropepatch.open(FILE), methods=METHODS["methods"], factors=[4]):
            patch = with_context(variant, 1024)
            assert patch is not None
            path = tmp_path / f"{variant.name}.gguf"
            patch.write(path, digest="none")
            servers.append(LlamaServer(path, 1024, 2, float32=True, gpu=False))
        urls = [f"{name}={server.url}/v1" for name, server in zip(TRIED, servers, strict=True)]
        found = ropepatch.audit(FILE, engine="http", url=urls, concurrency=2, **SAME)
    finally:
        for server in servers:
            server.close()

    agree(found, reference)
    assert {cell["prompt_tokens"] for cell in found.cells} == {4 * (256 - 3), 4 * (1024 - 3)}
    assert found.baseline == "none"
    assert found.environment["engine"] == "http llamacpp"


# ---- servers that are less convenient -------------------------------------------------------------------------------


class Words(http.server.BaseHTTPRequestHandler):
    """Completions of texts only, by the fixture and its words; every third request is turned away at first."""

    logprobs = False
    answered = 0
    asked = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        """There is no list of models."""
        self._send(404, {"error": {"message": "not here"}})

    def do_POST(self) -> None:
        """A completion, or a reason why not."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Words.lock:
            Words.asked += 1
            if Words.asked % 3 == 0:
                return self._send(429 if Words.asked % 2 else 503, {"error": {"message": "busy"}}, {"Retry-After": "0"})
            if not isinstance(body["prompt"], str):
                return self._send(400, {"error": {"message": "prompt must be a string"}})
            Words.answered += 1
            vocabulary, say = fixture()
            prompt = [vocabulary[word] for word in body["prompt"].split()]
            said = say(prompt, body["max_tokens"])
        choice = {"text": " " + " ".join(said), "index": 0, "logprobs": None, "finish_reason": "length"}
        return self._send(200, {"choices": [choice], "usage": {"prompt_tokens": len(prompt) + 7}})

    def _send(self, code: int, document: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quietly."""


@functools.cache
def fixture() -> tuple[dict[str, int], Any]:
    """The fixture's words, and greedy decoding on our own decoder."""
    words = json.loads((FOLDER / "tokenizer.json").read_text())["model"]["vocab"]
    names = {number: word for word, number in words.items()}
    model = Model(ropepatch.open(FOLDER), "cpu", torch.float32)

    def say(prompt: list[int], count: int) -> list[str]:
        said: list[int] = []
        with torch.inference_mode():
            for _ in range(count):
                states, _ = prefill(model.first, torch.tensor([prompt + said]), 0, Cache(), 512, 1)
                said.append(int(model.first.log_probabilities(states).argmax()))
        return [names[token] for token in said]

    return words, say


@pytest.fixture
def words() -> Iterator[str]:
    """The address of a server of texts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Words)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_server_of_texts(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes texts only, gives no log-probabilities and is often busy is audited in words."""
    monkeypatch.setattr(completions, "_LONGEST_WAIT", 0.01)
    Words.answered = Words.asked = 0
    result = ropepatch.audit(
        FOLDER, engine="http", url=[words], lengths=(64, 256), samples=2, depths=(0.3, 0.8), alphabet=LETTERS,
        task=("passkey",),
    )  # fmt: skip

    assert result.score("served", "passkey", 256) == 1
    assert {cell["log_probability"] for cell in result.cells} == {None}
    assert {cell["prompt_tokens"] for cell in result.cells} == {2 * (61 + 7), 2 * (253 + 7)}
    assert result.baseline is None
    assert result.summary("served", "passkey")["measurable"] is True
    assert Words.asked > Words.answered > 8
    schemas.validator("audit").validate(json.loads(json.dumps(result.to_json())))


def test_a_server_that_is_not_there() -> None:
    """No answer after all retries is exit code 4, and one line that names the address."""
    started = time.monotonic()
    with pytest.raises(HubError, match=r"127\.0\.0\.1:9/v1 gave no answer after 1 attempts"):
        _client_of(0)
    assert time.monotonic() - started < 10


def _client_of(retries: int) -> None:
    from ropepatch.audit.http_engine import HttpEngine
    from ropepatch.audit.variants import resolve

    HttpEngine(resolve(ropepatch.open(FOLDER), urls=["http://127.0.0.1:9"]), retries=retries)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "http"), "--engine http and --url go together"),
        (("--engine", "torch", "--url", "http://127.0.0.1:9"), "--engine http and --url go together"),
        (("--url", "ftp://x"), "is no http:// address"),
        (("--url", "http://127.0.0.1:9", "--method", "yarn", "--factor", "4"), "what a server has is decided there"),
        (("--url", "http://127.0.0.1:9", "--api-key-env", "ROPEPATCH_NO_SUCH_KEY"), "is not set"),
        (("--variant", "nothing:4"), "neither METHOD:FACTOR nor a checkpoint"),
        (("--variant", "yarn:four"), "is no factor"),
    ],
)
def test_command_refuses(options: tuple[str, ...], message: str) -> None:
    """Options that do not go together are usage errors in one line."""
    ended = command("audit", FOLDER, "--lengths", "256", *options)

    assert ended.code == 2, ended.err
    assert message in ended.err


@pytest.mark.parametrize(("engine", "ref"), [("llama.cpp", FOLDER), ("transformers", FILE)])
def test_formats_that_an_engine_is_not_given(engine: str, ref: Path) -> None:
    """Folders do not go to llama.cpp, GGUF files not to transformers."""
    pytest.importorskip("transformers" if engine == "transformers" else "xllamacpp")
    ended = command("audit", ref, "--engine", engine, "--lengths", "256")

    assert ended.code == 3
    assert "is given" in ended.err


def test_an_unknown_engine() -> None:
    """The message names those that there are."""
    with pytest.raises(UsageError, match="there are: torch, transformers"):
        ropepatch.audit(FOLDER, engine="jax", lengths=(256,), alphabet=LETTERS)


def test_replies_in_both_spellings() -> None:
    """Lists side by side, with ids in their names or not, and lists of tokens come to the same steps."""
    side = {"tokens": [" a", " b"], "token_logprobs": [-0.1, -0.2], "top_logprobs": [{" a": -0.1, " c": -3.0}, {}]}
    named = {"tokens": ["token_id:5"], "token_logprobs": [-0.1], "top_logprobs": [{"token_id:6": -2.0}]}
    listed = {
        "content": [{"id": 5, "token": "a", "logprob": -0.1, "top_logprobs": [{"id": 6, "token": "c", "logprob": -2}]}]
    }

    def steps(logprobs: Any) -> tuple[completions.Step, ...]:
        return completions._reply({"choices": [{"text": "x", "logprobs": logprobs}]}).steps

    assert [step.tops for step in steps(side)] == [{"a": -0.1, "c": -3.0}, {"b": -0.2}]
    assert [(step.id, step.tops) for step in steps(named)] == [(5, {5: -0.1, 6: -2.0})]
    assert [(step.id, step.tops) for step in steps(listed)] == [(5, {5: -0.1, 6: -2.0})]
    assert steps({"content": [{}]}) == ()
