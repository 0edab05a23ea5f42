"""``ropepatch.verify``: metadata, stored buffers and a forward pass, as one test-result statement."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.errors import InputError
from ropepatch.verify.promise import FAILED, PASSED, WARNED, Check, Checked

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.runtime_methods import SelfExtend
    from ropepatch.verify.forward import Settings
    from ropepatch.verify.promise import Promise

SCHEMA = "ropepatch.verify/1"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
#: files beyond this size are not hashed again where the manifest knows their digest
_HASHED = 256 << 20
#: is told the memory estimate
Announce = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Verification(Checked):
    """The result.

    Attributes:
        ref: the checkpoint.
        checks: what was found.
        environment: device, dtype, versions, contexts.
        memory: the estimate in bytes that was made before, by part; None where there was none.
        subjects: sha256 by file name, None where none was taken.
        promise: ``manifest`` or ``file``.
        base: the base as it was named, None for the checkpoint without its scaling.
    """

    ref: str
    checks: tuple[Check, ...]
    environment: Mapping[str, Any]
    memory: Mapping[str, Any] | None
    subjects: Mapping[str, str | None]
    promise: str
    base: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The in-toto statement that ``schemas/verify.schema.json`` describes."""
        names: dict[str, list[str]] = {PASSED: [], WARNED: [], FAILED: []}
        for check in self.checks:
            names.setdefault(check.result, []).append(check.name)
        configuration = [{"name": name, "digest": digest} for name, digest in _digests(self.subjects)]
        return {
            "schema": SCHEMA,
            "_type": STATEMENT,
            "subject": configuration,
            "predicateType": PREDICATE,
            "predicate": {
                "result": self.result,
                "configuration": configuration,
                "passedTests": names[PASSED],
                "warnedTests": names[WARNED],
                "failedTests": names[FAILED],
                "ropepatch_ref": Path(self.ref).name,
                "ropepatch_base": Path(self.base).name if self.base else None,
                "ropepatch_promise": self.promise,
                "ropepatch_checks": [_finite(check.to_json()) for check in self.checks],
                "ropepatch_environment": dict(self.environment),
                "ropepatch_memory": dict(self.memory) if self.memory else None,
            },
        }

    def write(self, path: Path) -> None:
        """Write the statement, over an older one."""
        from ropepatch.storage import files

        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        files.write_bytes(path, text.encode(), overwrite=True, sync=False)


def _digests(subjects: Mapping[str, str | None]) -> list[tuple[str, dict[str, str]]]:
    return [(name, {"sha256": digest} if digest else {}) for name, digest in sorted(subjects.items())]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def verify(
    ref: str | Path | Checkpoint,
    base: str | Path | Checkpoint | None = None,
    *,
    engine: str = "auto",
    device: str = "auto",
    dtype: str = "float32",
    layers: int | None = 2,
    limit: int | None = None,
    announce: Announce | None = None,
    self_extend: SelfExtend | None = None,
) -> Verification:
    """Hold a checkpoint against what it promises, in its metadata and in a forward pass at far positions.

    Args:
        ref: the checkpoint.
        base: what it is an extension of; default: itself without its scaling.
        engine: ``torch``, ``transformers`` or ``llama.cpp``; ``auto`` is the first that knows the model.
        device: ``auto``, ``cuda`` or ``cpu``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        layers: how many to run; None means all.
        limit: bytes that the pass may take; default what the machine has free.
        announce: called with the memory estimate before anything is loaded.
        self_extend: also run the checkpoint with Self-Extend, which no file says.

    Raises:
        InputError: the checkpoint cannot be run, or not within the memory.
        UsageError: an engine is not installed, or a device not there.
    """
    from ropepatch import checkpoint
    from ropepatch.verify import engines, forward, promise

    model = ref if isinstance(ref, checkpoint.Checkpoint) else checkpoint.open_whole(ref)
    other = base if base is None or isinstance(base, checkpoint.Checkpoint) else checkpoint.open_whole(base)
    chosen = engines.suitable(model) if engine == "auto" else engine
    settings = forward.Settings(engine=chosen, device=device, dtype=dtype, layers=layers)
    found = examine(model, other, promise.of(model, other), settings, limit=limit, announce=announce)
    if self_extend is None:
        return found
    from ropepatch.verify import grouped

    return dataclasses.replace(found, checks=(*found.checks, grouped.check(model, self_extend, settings)))


def examine(
    model: Checkpoint,
    base: Checkpoint | None,
    promised: Promise,
    settings: Settings,
    *,
    limit: int | None = None,
    announce: Announce | None = None,
) -> Verification:
    """:func:`verify` against a promise that is known already.

    Args:
        model: the checkpoint.
        base: what it is an extension of; None for itself without its scaling.
        promised: what it should be.
        settings: the engine, and how it is run.
        limit: bytes that the pass may take; default what the machine has free.
        announce: called with the memory estimate before anything is loaded.

    Raises:
        InputError: the checkpoint cannot be run, or not within the memory.
        UsageError: an engine is not installed, or a device not there.
    """
    from ropepatch.verify import engines, forward, promise, surroundings

    memory = affordable(model, promised, settings, limit, announce)
    engines.require(settings.engine)
    if memory:
        held = min(memory["held_weights"], surroundings.spare(engines.device_of(settings.device)))
        settings = dataclasses.replace(settings, hold=held)
    static = promise.checks(model, promised)
    passed, environment = forward.run(model, base, promised, settings)
    return Verification(
        ref=model.ref,
        checks=(*static, *passed),
        environment=environment,
        memory=memory,
        subjects=_subjects(model, promised),
        promise=promised.source,
        base=base.ref if base else None,
    )


def affordable(
    model: Checkpoint,
    promised: Promise,
    settings: Settings,
    limit: int | None = None,
    announce: Announce | None = None,
) -> dict[str, Any] | None:
    """The memory estimate of a pass in bytes, by part; None for a model that only another engine knows.

    Raises:
        InputError: what is needed exceeds what there is.
    """
    from ropepatch.verify import memory

    free = limit if limit is not None else memory.available()
    try:
        found = memory.of_pass(model, promised, settings, free)
    except InputError:
        if settings.engine == "torch":
            raise
        return None  # another engine's business
    found["available"] = free
    if announce is not None:
        announce(found)
    if free is not None and found["needed"] > free:
        raise InputError(
            f"the forward pass needs about {memory.human(found['needed'])}, there are {memory.human(free)}",
            where=model.ref,
            hint="fewer --layers need less",
        )
    return found


def _subjects(model: Checkpoint, promised: Promise) -> dict[str, str | None]:
    """Digests: the manifest's own, or taken now where the file is small."""
    from ropepatch.storage import files

    if promised.manifest is not None:
        return dict(promised.manifest.subjects)
    found: dict[str, str | None] = {}
    for path in _files(model):
        found[path.name] = files.sha256(path) if path.stat().st_size <= _HASHED else None
    return found


def _files(model: Checkpoint) -> Sequence[Path]:
    return [path for path in model.dialect.files() if path.is_file()]
