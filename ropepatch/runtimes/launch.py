"""Ready launch lines: how each runtime is started on a checkpoint at a context length, and what must not be used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropepatch import runtimes
from ropepatch.errors import RopepatchError
from ropepatch.frequencies import TOLERANCE, deviation, plain_base, profile_frequencies
from ropepatch.methods.base import Frequencies
from ropepatch.profile import RopeProfile
from ropepatch.runtimes.base import Order, Prediction

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint


@dataclass(frozen=True)
class Launch:
    """One runtime's way to start.

    Attributes:
        runtime: its name.
        text: the command, Modelfile or snippet; empty where the runtime refuses the checkpoint or ignores its scaling.
        avoid: options that would spoil the result, with why.
        notes: what the runtime does with the checkpoint.
        refused: why it does not load it.
        ignored: what it turns by instead, where it loads the checkpoint and drops what the file says.
        length: the context that the line asks for, in tokens.
        context: the one that the runtime derives by itself; None where it derives none, or there is no line.
    """

    runtime: str
    text: str
    avoid: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str | None = None
    ignored: str | None = None
    length: int | None = None
    context: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``text`` is null where there is no line."""
        return {
            "runtime": self.runtime,
            "text": self.text or None,
            "length": self.length,
            "context": self.context,
            "avoid": list(self.avoid),
            "notes": list(self.notes),
            "refused": self.refused,
            "ignored": self.ignored,
        }


def lines(
    ref: str,
    profile: RopeProfile,
    config: Mapping[str, Any] | None,
    length: int | None = None,
    rope: Mapping[str, Any] | None = None,
) -> list[Launch]:
    """A launch line for every runtime that reads the checkpoint's format.

    Args:
        ref: how the command shall name the checkpoint.
        profile: what it says about its RoPE.
        config: its ``config.json`` as spelled; None for a GGUF file.
        length: the context in tokens; default the declared one.
        rope: a whole rope dict to put in force without changing the file, for the runtimes that can take one. It must
            hold ``rope_theta``: vLLM sets it as it is, and without a base 10000 would be taken.

    Raises:
        ValueError: ``rope`` has no ``rope_theta``.
    """
    if rope is not None and "rope_theta" not in rope:
        raise ValueError("a rope dict for the command line must hold rope_theta")
    wanted = length or profile.declared_context or 4096
    from ropepatch.dialects.hf_section import text_section

    path = text_section(config, ref).path if config is not None else ()
    found = []
    for name in runtimes.names():
        try:
            predicted = runtimes.predict(name, profile, config, wanted, ref)
        except runtimes.WrongFormat:
            continue
        except RopepatchError as error:
            found.append(Launch(name, "", refused=f"{error.what}; {error.hint}" if error.hint else error.what))
            continue
        dropped = _dropped(profile, predicted, wanted) if rope is None else None
        if dropped is not None:
            found.append(Launch(name, "", notes=_notes(predicted), ignored=dropped))
            continue
        order = _order(ref, wanted, predicted, rope, path)
        runtime = runtimes.get(name)
        text, avoid = runtime.launch(order, predicted)
        off = () if rope is not None or _as_written(profile, predicted, wanted) else (_OTHER,)
        notes = (*off, *(note for note in _notes(predicted) if note not in runtime.avoided))
        found.append(Launch(name, text, avoid, notes, length=wanted, context=order.context))
    return found


def of_checkpoint(model: Checkpoint, length: int | None = None) -> list[Launch]:
    """The launch lines of an opened checkpoint; none for a format whose readers are not predicted.

    Args:
        model: the checkpoint; its ref stands in the lines.
        length: the context in tokens; default the declared one.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    if not runtimes.predicted(model.profile, model.raw_config):
        return []
    return lines(model.ref, model.profile, model.raw_config, length)


_OTHER = "other frequencies than the file's method defines: see ropepatch diff with --runtime-b"


def _notes(predicted: Mapping[str, Prediction]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for one in predicted.values() for note in one.notes))


def _as_written(profile: RopeProfile, predicted: Mapping[str, Prediction], length: int) -> bool:
    """Whether the runtime computes what the methods in the file define."""
    return all(deviation(_of(name, predicted).frequencies, said) <= TOLERANCE for name, said in _said(profile, length))


def _said(profile: RopeProfile, length: int) -> Iterable[tuple[str, Frequencies]]:
    return profile_frequencies(profile, length).items()


def _of(name: str, predicted: Mapping[str, Prediction]) -> Prediction:
    return predicted.get(name) or predicted.get("default") or next(iter(predicted.values()))


def _dropped(profile: RopeProfile, predicted: Mapping[str, Prediction], length: int) -> str | None:
    """What the runtime turns by instead, where it comes to plain RoPE that the file does not say."""
    for name, said in _said(profile, length):
        made = _of(name, predicted)
        theta = plain_base(made.frequencies)
        if theta is None or deviation(made.frequencies, said) <= TOLERANCE:
            continue
        keys = f" and ignores {', '.join(made.ignored)}" if made.ignored else ""
        if made.inv_freq.size != said.inv_freq.size:
            return f"rotates {made.inv_freq.size} pairs of dimensions, the file says {said.inv_freq.size}{keys}"
        return f"loads it as plain RoPE of base {theta:.0f}{keys}"
    return None


def _order(
    ref: str, length: int, predicted: Mapping[str, Prediction], rope: Mapping[str, Any] | None, path: tuple[str, ...]
) -> Order:
    contexts = [one.context for one in predicted.values() if one.context is not None]
    magnitude = any(not math.isclose(one.attention_scale, 1.0, rel_tol=1e-9) for one in predicted.values())
    return Order(ref, length, max(contexts, default=None), magnitude, rope, path)
