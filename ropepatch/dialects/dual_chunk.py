"""Dual Chunk Attention (arXiv 2402.17463): the key of config.json that SGLang and old releases of vLLM read.

Positions restart in every chunk, so that no distance exceeds the trained context; frequencies stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ropepatch.errors import AlreadyScaled, MethodUnsupported, UsageError
from ropepatch.patch import Edit, Patch, Value, difference

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

KEY = "dual_chunk_attention_config"
# Model types whose classes hand the key on to rotation and attention.
READERS = {
    "sglang": ("qwen2", "qwen2_moe", "qwen3_moe", "qwen3_next"),
    "vllm":   ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
}  # fmt: skip
#: vLLM's backend went with its first engine; from this release on a config with the key does not load
VLLM_UNTIL = (0, 11)
_LAUNCH = {
    "sglang": "sglang: --attention-backend dual_chunk_flash_attn",
    "vllm": "vllm below 0.11: VLLM_USE_V1=0 VLLM_ATTENTION_BACKEND=DUAL_CHUNK_FLASH_ATTN, with --enforce-eager",
}


def check_readers(model: Checkpoint, wanted: Sequence[str]) -> None:
    """Refuse unless every engine that shall read the file reads the key.

    Raises:
        MethodUnsupported: an engine does not, or none is named.
    """
    kind = model.profile.source.architecture
    specs = [spec.strip() for entry in wanted for spec in entry.split(",") if spec.strip()]
    hint = f"--for sglang, on {', '.join(READERS['sglang'])}; --for vllm@0.10.2, on {', '.join(READERS['vllm'])}"
    if not specs:
        raise MethodUnsupported(
            "most engines ignore dual chunk attention's key or fail on it: say with --for which one shall read it",
            where=model.ref, hint=hint,
        )  # fmt: skip
    for spec in specs:
        name, _, release = spec.partition("@")
        if name not in READERS:
            raise MethodUnsupported(f"{name} does not read {KEY}", where=model.ref, hint=hint)
        if name == "vllm" and not _before(release, VLLM_UNTIL):
            raise MethodUnsupported(
                f"vllm{'@' + release if release else ''} does not load a config with {KEY}: its backend went with 0.11",
                where=model.ref, hint=hint,
            )  # fmt: skip
        if kind not in READERS[name]:
            raise MethodUnsupported(f"{name}'s class for {kind} does not read {KEY}", where=model.ref, hint=hint)


def _before(release: str, limit: tuple[int, int]) -> bool:
    try:
        numbers = tuple(int(part) for part in release.split(".")[:2])
    except ValueError:
        return False
    return numbers < limit


def patch(
    model: Checkpoint, factor: float | None, length: int | None, original: int | None, settings: Mapping[str, Any]
) -> Patch:
    """The patch that writes the key and the new context; the rotation stays.

    Args:
        model: a Hugging Face folder.
        factor: the extension; or give ``length``.
        length: the new context in tokens.
        original: the trained context, where the file does not say it.
        settings: ``chunk_size`` (default the trained context: the largest distance that attention sees) and
            ``local_size`` (default a quarter of it, the paper's three quarters for a chunk).

    Raises:
        MethodUnsupported: the format has no such key, or no engine reads it for this model.
        AlreadyScaled: the checkpoint is scaled.
        UsageError: numbers are missing or impossible.
    """
    before = model.profile
    known = sorted({kind for kinds in READERS.values() for kind in kinds})
    if before.source.format != "hf" or before.source.architecture not in known:
        raise MethodUnsupported(
            f"no engine reads dual chunk attention from a {before.source.format} of {before.source.architecture}",
            where=model.ref, hint=f"SGLang reads it from the config.json of {', '.join(known)}",
        )  # fmt: skip
    if before.scaled:
        raise AlreadyScaled("is scaled already", where=model.ref, hint="dual chunk attention is for a plain rotation")
    trained = original or before.trained_context or before.declared_context
    if trained is None:
        raise UsageError("the original context is unknown; pass --original-length")
    if length is None:
        if factor is None:
            raise UsageError("dca needs --factor or --length")
        length = round(factor * trained)
    if length <= trained:
        raise UsageError(f"{length} tokens are no more than the trained {trained}")
    values = _numbers(trained, settings)
    section = getattr(model.dialect, "section")  # noqa: B009 - the dialect of this format has it
    edits = _edits(section, str(getattr(model.dialect, "path").name), values, length)  # noqa: B009
    return Patch(
        ref=model.ref, method="dca", factor=length / trained, parameters={}, edits=tuple(edits), before=before,
        after=dataclasses.replace(before, declared_context=length, trained_context=trained),
        notes=(
            f"the frequencies stay; engines that do not read the key see a plain model of {length} tokens",
            *_LAUNCH.values(),
        ),
        root=model.dialect.root,
    )  # fmt: skip


def trained(config: Mapping[str, Any]) -> int | None:
    """The trained context that a config's key says; None where there is no such key."""
    block = config.get(KEY)
    value = block.get("original_max_position_embeddings") if isinstance(block, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _numbers(trained: int, settings: Mapping[str, Any]) -> dict[str, int]:
    values = {"chunk_size": trained, "local_size": trained // 4, "original_max_position_embeddings": trained}
    for name, value in settings.items():
        if name not in ("chunk_size", "local_size"):
            raise UsageError(f"dca has no parameter {name!r}; it has: chunk_size, local_size")
        try:
            values[name] = int(value)
        except (TypeError, ValueError):
            raise UsageError(f"dca {name} must be a whole number, not {value!r}") from None
    if not 0 < values["local_size"] < values["chunk_size"] <= trained:
        raise UsageError("dca needs 0 < local_size < chunk_size <= the trained context")
    return values


def _edits(section: Any, name: str, values: Mapping[str, int], length: int) -> list[Edit]:
    wanted = {(KEY,): dict(values), (section.context_key(),): length}
    before = {(*section.path, *path): Value(section.given[path[0]]) for path in wanted if path[0] in section.given}
    after: dict[tuple[str, ...], Value | None] = {(*section.path, *path): Value(v) for path, v in wanted.items()}
    return difference(name, "json", before, after)
