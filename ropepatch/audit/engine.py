"""What an engine has to do for an audit: answer the questions of some texts, as one variant rotates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ropepatch.audit.tasks import Texts
from ropepatch.errors import UsageError

if TYPE_CHECKING:
    from ropepatch.audit.variants import Variant

#: as the command line calls them
NAMES = ("torch", "transformers", "llama.cpp", "http")


@dataclass(frozen=True)
class Answers:
    """What came of one cell, a value for each text.

    Attributes:
        hits: whether greedy decoding says the whole answer.
        log_probabilities: of the answer's tokens together; None where the engine does not give them.
        prompt_tokens: tokens of all prompts, as the engine counts them.
    """

    hits: tuple[bool, ...]
    log_probabilities: tuple[float, ...] | None
    prompt_tokens: int


class OutOfMemory(Exception):
    """A cell did not fit although the estimate said so."""


class Unanswered(Exception):
    """The engine cannot run a cell: it does not load the variant, or does not take that many tokens."""


class Engine(Protocol):
    """A way to run variants.

    Attributes:
        vocabulary: token ids that all variants know are below this.
        needs_words: it takes texts, no tokens.
        environment: ``engine``, ``device`` and ``dtype``, for the record.
    """

    @property
    def vocabulary(self) -> int: ...

    @property
    def needs_words(self) -> bool: ...

    @property
    def environment(self) -> dict[str, Any]: ...

    def estimate(self, variant: Variant, length: int, rows: int) -> dict[str, int] | None:
        """Bytes that ``rows`` texts take at once, and of what; None where it is another machine's business."""

    def free(self) -> int | None:
        """Bytes that may be taken, weights that are held already counted in; None where nobody knows."""

    def answers(self, variant: Variant, texts: Texts, rows: int) -> Mapping[float, Answers]:
        """Answer every question of ``texts``, at most ``rows`` texts at a time.

        Raises:
            OutOfMemory: not even a single text could be run.
            Unanswered: the variant or the length cannot be run.
        """

    def close(self) -> None:
        """End what was started."""


def opened(
    name: str,
    chosen: Sequence[Variant],
    *,
    device: str = "auto",
    dtype: str = "float32",
    longest: int = 0,
    served_model: str | None = None,
    api_key: str | None = None,
    concurrency: int = 4,
) -> Engine:
    """An engine that can run the variants.

    Args:
        name: one of ``NAMES``.
        chosen: what it shall run.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        longest: tokens of the longest text.
        served_model: the model's name on a server.
        api_key: what a server wants to see.
        concurrency: requests that a server gets at once.

    Raises:
        UsageError: there is no such engine, or a library is missing.
        InputError: it cannot run the checkpoints.
        HubError: a server does not answer.
    """
    if (name == "http") != any(variant.url for variant in chosen):
        raise UsageError("--engine http and --url go together", hint="for example --url http://127.0.0.1:8080/v1")
    if name in ("llama.cpp", "http") and (own := next((item for item in chosen if item.runtime), None)):
        raise UsageError(
            f"{name} cannot run {own.name!r}: nothing in a file says it", hint="--engine torch or transformers can"
        )
    if name == "torch":
        from ropepatch.audit.torch_engine import TorchEngine

        return TorchEngine(chosen, device, dtype)
    if name == "transformers":
        from ropepatch.audit.transformers_engine import TransformersEngine

        return TransformersEngine(chosen, device, dtype)
    if name == "llama.cpp":
        from ropepatch.audit.llama_engine import LlamaCppEngine

        return LlamaCppEngine(chosen, device, dtype, longest)
    if name == "http":
        from ropepatch.audit.http_engine import HttpEngine

        return HttpEngine(chosen, served_model, api_key, concurrency)
    raise UsageError(f"there is no engine {name!r}; there are: {', '.join(NAMES)}")


def rows_that_fit(engine: Engine, variant: Variant, length: int, rows: int, limit: int | None) -> int:
    """As many rows at once as there are bytes for; 0 when not even one."""
    free = limit if limit is not None else engine.free()
    while rows and free is not None and (engine.estimate(variant, length, rows) or {"total": 0})["total"] > free:
        rows //= 2
    return rows
