"""A checkpoint as every known span of releases of every runtime reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch import runtimes
from ropepatch.errors import InputError, NoRope
from ropepatch.profile import RopeProfile
from ropepatch.runtimes.base import Prediction
from ropepatch.runtimes.comparison import Row, dotted, outcomes, row_of

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

SCHEMA = "ropepatch.runtimes/1"


@dataclass(frozen=True)
class Reading:
    """One span of a runtime's releases on one checkpoint, at each length.

    Attributes:
        runtime: the runtime's name.
        releases: the span as people write it, for example ``4.50-4.55``.
        version: the release that was predicted, the newest of the span that is known.
        rows: by length in tokens; None is a short context.
    """

    runtime: str
    releases: str
    version: str
    rows: Mapping[int | None, Row]

    @property
    def same(self) -> bool:
        """Whether it computes what the reference does at every length."""
        return all(row.status == "same" for row in self.rows.values())

    @property
    def refusal(self) -> str | None:
        """Why it does not run the checkpoint at one of the lengths; None when it does at all of them."""
        return next((row.reason for row in self.rows.values() if row.reason is not None), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        last = list(self.rows.values())[-1]
        return {
            "runtime": self.runtime,
            "releases": self.releases,
            "version": self.version,
            "same": self.same,
            "context": last.context,
            "ignored": list(dict.fromkeys(key for row in self.rows.values() for key in row.ignored)),
            "notes": list(dict.fromkeys(note for row in self.rows.values() for note in row.notes)),
            "at": [
                {
                    "length": length,
                    "status": row.status,
                    "reason": row.reason,
                    "groups": {name: cell.to_json() for name, cell in row.cells.items()},
                }
                for length, row in self.rows.items()
            ],
        }


@dataclass(frozen=True)
class Readings:
    """What every runtime that reads a checkpoint's format makes of it.

    Attributes:
        ref: the checkpoint.
        lengths: the contexts compared, in tokens; None is a short one.
        reference: what the others are compared with.
        readings: every span of releases of every runtime that reads the format.
        unlifted: why ropepatch itself cannot describe the file; None where it can.
    """

    ref: str
    lengths: tuple[int | None, ...]
    reference: str
    readings: tuple[Reading, ...]
    unlifted: str | None = None

    @property
    def same(self) -> bool:
        """Whether all of them compute the same."""
        return all(reading.same for reading in self.readings)

    def sentence(self) -> str:
        """The result in one plain sentence."""
        if self.same:
            return f"Every runtime that reads this format computes the same ({len(self.readings)} readings)."
        alike = sum(reading.same for reading in self.readings)
        differing = [reading for reading in self.readings if not reading.same and reading.refusal is None]
        refusing = [reading for reading in self.readings if reading.refusal is not None]
        parts = [f"{alike} of {len(self.readings)} readings agree with {self.reference}"]
        parts += [f"other frequencies in {_listed(differing)}"] if differing else []
        parts += [f"refused by {_listed(refusing)}"] if refusing else []
        return f"The runtimes differ: {'; '.join(parts)}."

    def to_json(self) -> dict[str, Any]:
        """The readings as the JSON that ``schemas/runtimes.schema.json`` describes."""
        return {
            "schema": SCHEMA,
            "ref": self.ref,
            "lengths": list(self.lengths),
            "reference": self.reference,
            "same": self.same,
            "sentence": self.sentence(),
            "unlifted": self.unlifted,
            "runtimes": [reading.to_json() for reading in self.readings],
        }


def all_runtimes(checkpoint: Checkpoint | str | Path, length: int | None = None) -> Readings:
    """Every span of releases of every runtime that reads the checkpoint's format, against the newest one.

    Args:
        checkpoint: a checkpoint, or a ref.
        length: the context in tokens; default a short one and the declared one.

    Raises:
        InputError: the ref cannot be read, or no runtime known here reads its format.
    """
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.checkpoint import open as opened

    model = checkpoint if isinstance(checkpoint, Checkpoint) else opened(checkpoint)
    profile, unlifted = described(model)
    return readings(profile, model.raw_config, model.ref, length, unlifted)


def readings(
    profile: RopeProfile | None,
    config: Mapping[str, Any] | None,
    where: str,
    length: int | None = None,
    unlifted: str | None = None,
) -> Readings:
    """As :func:`all_runtimes`, of a profile and a ``config.json`` that may be on no disk.

    Args:
        profile: the lifted profile; None where only engines understand the file.
        config: the whole ``config.json`` as spelled; None for a GGUF file.
        where: what messages call it.
        length: the context in tokens; default a short one and the declared one.
        unlifted: why there is no profile.
    """
    declared = profile.declared_context if profile is not None else None
    lengths = (length,) if length is not None else (None, declared) if declared else (None,)
    spans = [(name, span) for name in runtimes.names() for span in runtimes.behaviours(name) if _reads(name, profile)]
    specs = [f"{name}@{dotted(span.newest)}" for name, span in spans]
    by_length: dict[int | None, dict[str, Row]] = {}
    reference = ""
    for at in lengths:
        found, (reference, frequencies) = outcomes(profile, config, at, specs, where)
        by_length[at] = {spec: row_of(spec, result, frequencies) for spec, result in found.items()}
    made = [
        Reading(name, span.label, dotted(span.newest), {at: rows[spec] for at, rows in by_length.items()})
        for (name, span), spec in zip(spans, specs, strict=True)
    ]
    return Readings(where, lengths, reference, tuple(made), unlifted)


def described(model: Checkpoint) -> tuple[RopeProfile | None, str | None]:
    """The profile; or, where only engines understand the file, None and why ropepatch does not.

    Raises:
        InputError: there is no RoPE, or no engine reads the format either.
    """
    try:
        profile = model.profile
    except NoRope:
        raise
    except InputError as error:
        if model.raw_config is None:
            raise
        return None, str(error)
    if not runtimes.predicted(profile, model.raw_config):
        raise InputError(
            f"what runtimes do is predicted for config.json and GGUF files, not for {profile.source.format} files",
            where=model.ref,
        )
    return profile, None


def predicted(model: Checkpoint, runtime: str, length: int | None = None) -> dict[str, Prediction]:
    """What ``runtime`` makes of a checkpoint, by group name.

    Raises:
        UsageError: the runtime is unknown.
        RuntimeRejects: it refuses the checkpoint, or does not read its format.
        InputError: no engine reads the format, or nobody can compute with the file's values.
    """
    runtimes.get(runtime)
    profile, _ = described(model)
    return runtimes.predict(runtime, profile, model.raw_config, length, model.ref)


def _reads(name: str, profile: RopeProfile | None) -> bool:
    form = profile.source.format if profile is not None else "hf"
    return form in runtimes.get(name).reads_formats


def _listed(readings: Sequence[Reading]) -> str:
    """``vllm (<=0.11, 0.12-0.21), tgi (3.x)``."""
    names = dict.fromkeys(reading.runtime for reading in readings)
    return ", ".join(
        f"{name} ({', '.join(reading.releases for reading in readings if reading.runtime == name)})" for name in names
    )
