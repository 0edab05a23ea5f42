"""Cells on llama.cpp: each variant as a patched GGUF, served by the `xllamacpp` wheel to this process alone."""

from __future__ import annotations

import dataclasses
import os
import queue
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.audit.completions import Client
from ropepatch.audit.engine import Answers, OutOfMemory, Unanswered
from ropepatch.audit.http_engine import Server, ask
from ropepatch.audit.llama_server import LlamaServer, NotServed, out_of_memory
from ropepatch.audit.tasks import Texts
from ropepatch.errors import InputError, RopepatchError, UsageError
from ropepatch.patch import Edit, Patch, Value
from ropepatch.verify import memory
from ropepatch.verify.weights import gguf_header

if TYPE_CHECKING:
    from ropepatch.audit.variants import Variant

#: prompts at once
SLOTS = 4
#: tokens that llama.cpp runs at once
_BATCH = 512


class LlamaCppEngine:
    """GGUF variants in llama.cpp.

    Args:
        chosen: what it shall run.
        device: ``cpu`` keeps all layers there.
        dtype: ``float32`` takes a cache of that type and no flash attention.
        longest: tokens that any text will have.

    Raises:
        UsageError: xllamacpp is not installed.
        InputError: a checkpoint is no GGUF file.
    """

    needs_words = False

    def __init__(self, chosen: Sequence[Variant], device: str, dtype: str, longest: int) -> None:
        try:
            wheel = version("xllamacpp")
        except PackageNotFoundError:
            raise UsageError("this needs xllamacpp", hint="pip install 'ropepatch[llamacpp]'") from None
        for variant in chosen:
            if variant.checkpoint.profile.source.format != "gguf":
                raise InputError(
                    "llama.cpp is given GGUF files only",
                    where=variant.checkpoint.ref,
                    hint="--engine torch takes folders",
                )
        self.environment = {"engine": f"llama.cpp (xllamacpp {wheel})", "device": device, "dtype": dtype}
        self._float32, self._gpu, self._longest = dtype == "float32", device != "cpu", longest
        self._folder = Path(tempfile.mkdtemp(prefix="ropepatch-audit-"))
        self._files: dict[str, Path] = {}
        self._running: tuple[tuple[str, int], LlamaServer, Server] | None = None
        self.vocabulary = min(_vocabulary(variant) for variant in chosen)

    def estimate(self, variant: Variant, length: int, rows: int) -> dict[str, int]:
        """Bytes of the file, the cache of each slot, and the largest buffers of a pass."""
        header, kind = gguf_header(variant.checkpoint), variant.checkpoint.profile.source.architecture
        slots, context = min(rows, SLOTS), -(-length // 256) * 256
        heads = _number(header.get(f"{kind}.attention.head_count"), 1)
        kv_heads = _number(header.get(f"{kind}.attention.head_count_kv"), heads)
        hidden = _number(header.get(f"{kind}.embedding_length"), 0)
        width = 2 * _number(header.get(f"{kind}.attention.key_length"), hidden // heads)
        item = 4 if self._float32 else 2
        parts = {
            "weights": _size(variant),
            "keys_and_values": slots
            * context
            * _number(header.get(f"{kind}.block_count"), 1)
            * kv_heads
            * width
            * item,
            "attention": heads * _BATCH * context * 4 if self._float32 else 0,
            "logits": _BATCH * self.vocabulary * 4,
        }
        return {"total": sum(parts.values()), **parts}

    def free(self) -> int | None:
        """What is available."""
        return memory.available()

    def answers(self, variant: Variant, texts: Texts, rows: int) -> dict[float, Answers]:
        """Start a server for the variant and length where it is not the one that runs, and ask it.

        Raises:
            OutOfMemory: it had not the memory.
            Unanswered: the variant cannot be written or loaded, or the engine aborted.
        """
        slots = min(rows, texts.samples, SLOTS)
        try:
            return ask(self._server(variant, texts.length, slots), texts, slots)
        except NotServed as error:
            raise (OutOfMemory if out_of_memory(str(error)) else Unanswered)(f"llama.cpp: {error}") from None
        except Unanswered:
            if self._running is None or self._running[1].alive:
                raise
            why = self._running[1].why()
            self._stop()
            raise (OutOfMemory if out_of_memory(why) else Unanswered)(f"llama.cpp: {why}") from None

    def _server(self, variant: Variant, length: int, slots: int) -> Server:
        key = (variant.name, length)
        if self._running is None or self._running[0] != key:
            self._stop()
            process = LlamaServer(self._file(variant), length, slots, float32=self._float32, gpu=self._gpu)
            free: queue.SimpleQueue[int] = queue.SimpleQueue()
            for slot in range(slots):
                free.put(slot)
            client = Client(process.url, retries=1)
            self._running = (key, process, Server(client, (), logprobs=64, slots=free))
        return self._running[2]

    def _file(self, variant: Variant) -> Path:
        """The variant as a file; the checkpoint itself where nothing has to be changed."""
        if variant.name not in self._files:
            try:
                self._files[variant.name] = self._written(variant)
            except RopepatchError as error:
                raise Unanswered(f"cannot be written as GGUF: {error}") from None
        return self._files[variant.name]

    def _written(self, variant: Variant) -> Path:
        from ropepatch.bundle import bundle_of
        from ropepatch.output import source_of

        patch = with_context(variant, self._longest)
        if patch is None:
            return bundle_of(Path(variant.checkpoint.ref)).anchor
        size, free = _size(variant), shutil.disk_usage(self._folder).free
        if size > free:
            raise InputError(
                f"has no room for {memory.human(size)}", where=str(self._folder), hint="TMPDIR names another folder"
            )
        output = self._folder / f"{len(self._files)}.gguf"
        patch.write(output, digest="none", verify=False)
        return source_of(patch).renamed(output).anchor

    def _stop(self) -> None:
        if self._running is not None:
            self._running[1].close()
            self._running = None

    def close(self) -> None:
        """End the server, and remove what was written."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def with_context(variant: Variant, longest: int) -> Patch | None:
    """The variant's patch, with a declared context that llama.cpp's server serves ``longest`` tokens by.

    The server stops at the declared context. Raising it alone changes no rotation as long as the original context of a
    scaling is written; where it is not, what was declared is what it counts from, and is written.
    """
    checkpoint, patch = variant.checkpoint, variant.patch()
    header, kind = gguf_header(checkpoint), checkpoint.profile.source.architecture
    key, original = f"{kind}.context_length", f"{kind}.rope.scaling.original_context_length"
    edits = {edit.path: edit for edit in patch.edits} if patch else {}
    planned = edits.get((key,))
    before = header.get(key)
    declared = planned.after.data if planned and planned.after else before
    if isinstance(declared, int) and declared < longest:
        kept = None if before is None else Value(before, header.type_of(key))
        edits[(key,)] = Edit(header.path.name, "key", (key,), kept, Value(longest, header.type_of(key) or "UINT32"))
        scaled = any(group.scaled for group in variant.profile.groups.values())
        if scaled and (original,) not in edits and header.get(original) is None:
            edits[(original,)] = Edit(header.path.name, "key", (original,), None, Value(declared, "UINT32"))
    elif patch is None:
        return None
    plain = Patch(checkpoint.ref, "none", None, {}, (), checkpoint.profile, variant.profile)
    return dataclasses.replace(patch or plain, edits=tuple(edits.values()))


def _vocabulary(variant: Variant) -> int:
    from ropepatch.verify.weights import open_weights

    found = open_weights(variant.checkpoint).shape("token_embd.weight")
    if not found:
        raise InputError("has no embedding", where=variant.checkpoint.ref)
    return found[0]


def _size(variant: Variant) -> int:
    from ropepatch.bundle import bundle_of

    bundle = bundle_of(Path(variant.checkpoint.ref))
    return sum(os.path.getsize(bundle.path(name)) for name in bundle.names)


def _number(value: Any, default: int) -> int:
    """A size; of a list by layer, which estimates need not tell apart, the default."""
    return value if isinstance(value, int) and value > 0 else default
