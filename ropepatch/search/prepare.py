"""From what a person asks to what is run: spaces, starts, texts and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.audit.alphabets import alphabet_of
from ropepatch.audit.torch_engine import Model
from ropepatch.errors import UsageError
from ropepatch.hub import refs
from ropepatch.methods.base import yarn_attention
from ropepatch.profile import RopeProfile
from ropepatch.search import heldout, needles, texts
from ropepatch.search.heldout import Work
from ropepatch.search.objective import BATCH, OBJECTIVES, Task
from ropepatch.search.result import Search, Stage
from ropepatch.search.settings import Settings
from ropepatch.search.space import INITS, Candidate, Space, space
from ropepatch.verify import engines
from ropepatch.verify.promise import trained_context, unscaled

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint

SHORT = ("auto", "search", "ones", "same")
_MOST = 1 << 24
# added to the search's, so that the needles are others
_FINAL_SEED, _HELD_OUT_SEED = 15485863, 104729


@dataclass
class Plan:
    """Everything that a search needs.

    Attributes:
        ref: the checkpoint.
        search: what is asked, to be filled with what is found.
        base: the unscaled profile.
        spaces, starts, settings, tasks, finals: by stage; ``finals`` are other texts of the same kind.
        held_out: what is measured in the end, by length.
        held_out_task: what that is, in words.
        compared: methods that are measured beside it.
        decides: what decides the scores, for the journal.
        wanted_device: as the person said it.
    """

    ref: str
    search: Search
    base: RopeProfile
    spaces: dict[str, Space]
    starts: dict[str, dict[str, Candidate]]
    settings: dict[str, Settings]
    tasks: dict[str, Task]
    finals: dict[str, Task]
    held_out: tuple[Work, ...]
    held_out_task: str
    compared: tuple[str, ...]
    decides: Mapping[str, Any]
    wanted_device: str


@dataclass(frozen=True)
class _Asked:
    """Numbers of the extension."""

    group: str
    trained: int
    factor: float
    length: int


def prepare(
    ref: str | Path | Checkpoint,
    factor: float | None,
    *,
    length: int | None,
    original: int | None,
    group: str | None,
    objective: str,
    text: str | Path | None,
    tokenizer: str | Path | None,
    space: str,
    init: Sequence[str] | None,
    short: str,
    attention: str | float,
    budget: int,
    samples: int,
    held_out: int,
    alphabet: str | None,
    seed: int,
    settings: Mapping[str, Any],
    device: str,
    dtype: str,
) -> Plan:
    """Check what is asked and draw the texts; the arguments are those of :func:`ropepatch.search.run.search`.

    Raises:
        UsageError: they cannot be used together.
        InputError: the checkpoint or the text cannot be used.
    """
    from ropepatch import checkpoint

    model = ref if isinstance(ref, checkpoint.Checkpoint) else checkpoint.open_whole(ref)
    named = checkpoint.open(ref).ref if isinstance(ref, str) and refs.is_remote(ref) else model.ref
    _check(objective, text, short, budget, samples, held_out)
    base = unscaled(model.profile)
    asked = _asked(model, base, factor, length, original, group)
    scale = attention_scale(attention, asked.factor, asked.trained)
    with engines.needs("torch", "torch"):
        import torch
    where = engines.device_of(device)
    engine = Model(model, where, getattr(torch, dtype))
    names = tuple(init) if init else INITS
    short = {"longrope": "search", "longrope2": "ones"}[space] if short == "auto" and space in _KINDS else short
    made = _spaces(base, asked, space, short, budget, settings, names)
    found = Search(
        named, asked.group, asked.factor, asked.trained, asked.length, space, objective, seed, samples, scale,
        short, made[2]["long"].describe(), (),
        {"engine": f"torch {torch.__version__}", "device": where, "dtype": dtype},
    )  # fmt: skip
    drawn = _Texts(model, engine, objective, text, tokenizer, alphabet, samples, held_out, seed)
    lengths = {"long": asked.length, "short": asked.trained}
    rotation = base.groups[asked.group].spectrum().inv_freq
    work, finals = (
        {
            name: Task(objective, drawn.training(lengths[name], times), base, asked.group, rotation, scale)
            for name in made[0]
        }
        for times in (1, made[2]["long"].final_texts)
    )
    found.stages = tuple(
        _stage(name, made, work[name], engine, asked.factor if name == "long" else 1.0, budget) for name in made[0]
    )
    decides = {
        "ref": Path(model.ref).name, "group": asked.group, "factor": asked.factor, "length": asked.length,
        "trained": asked.trained, "space": space, "objective": objective, "short": short, "attention": scale,
        "init": list(names), "samples": samples, "seed": seed, "dtype": dtype, "settings": found.settings,
        "texts": {name: _digest(task) for name, task in work.items()},
    }  # fmt: skip
    return Plan(
        model.ref, found, base, *made, work, finals, (drawn.held_out(asked.trained), drawn.held_out(asked.length)),
        heldout.task_of(asked.trained) if objective == "needle" else "perplexity",
        tuple(dict.fromkeys((*names, "yarn"))), decides, device,
    )  # fmt: skip


_KINDS = ("longrope", "longrope2")
_Made = tuple[dict[str, Space], dict[str, dict[str, Candidate]], dict[str, Settings]]


def _check(objective: str, text: Any, short: str, budget: int, samples: int, held_out: int) -> None:
    if objective not in OBJECTIVES:
        raise UsageError(f"there is no objective {objective!r}; there are: {', '.join(OBJECTIVES)}")
    if (objective == "ppl") != (text is not None):
        raise UsageError("the objective ppl needs a text" if objective == "ppl" else "a text goes with objective ppl")
    if short not in SHORT:
        raise UsageError(f"the short list is one of {', '.join(SHORT)}, not {short!r}")
    for name, value in (("budget", budget), ("samples", samples), ("held-out samples", held_out)):
        if not 1 <= value <= 1_000_000:
            raise UsageError(f"{name} must be at least 1")


def _asked(
    model: Checkpoint,
    base: RopeProfile,
    factor: float | None,
    length: int | None,
    original: int | None,
    group: str | None,
) -> _Asked:
    trained = original or trained_context(base)
    if trained is None:
        raise UsageError("the checkpoint does not say its trained context; pass --original-length")
    if factor is None and length is None:
        raise UsageError("a search needs --factor or --length")
    if factor is not None and length is not None and round(factor * trained) != length:
        raise UsageError(f"--factor {factor:g} of {trained} tokens is not --length {length}; give one of them")
    asked = factor if factor is not None else (length or 0) / trained
    if not 1 < asked < 1e6 or round(asked * trained) > _MOST:
        raise UsageError(f"the factor must be above 1 and the length at most {_MOST} tokens, not {asked:g}")
    return _Asked(model.reached(group), trained, asked, round(asked * trained))


def attention_scale(name: str | float, factor: float, trained: int) -> float:
    """The factor on cos and sin that goes with every candidate.

    Raises:
        UsageError: it is neither a known name nor a number above 0.
    """
    if name == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(trained))
    if name == "yarn":
        return yarn_attention(factor)
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    if not 0 < value < 100:
        raise UsageError(f"the attention factor is longrope, yarn or a number, not {name!r}")
    return value


def _spaces(
    base: RopeProfile, asked: _Asked, name: str, short: str, budget: int, given: Mapping[str, Any], init: Sequence[str]
) -> _Made:
    """Space, starts and settings of each list that is searched.

    The short list is always searched in LongRoPE's space, with the extension 1: LongRoPE2 has no short list.
    """
    spectrum = base.groups[asked.group].spectrum()
    wanted = {"long": (name, asked.factor, tuple(init))}
    if short == "search":
        wanted["short"] = ("longrope", 1.0, ("none",))
    spaces, starts, settings = {}, {}, {}
    for stage, (kind, factor, names) in wanted.items():
        if kind not in _KINDS:
            space(kind, spectrum, asked.trained, factor, Settings.of("longrope", budget, {}))  # says what there is
        settings[stage] = Settings.of(kind, budget, given)
        spaces[stage] = space(kind, spectrum, asked.trained, factor, settings[stage])
        starts[stage] = spaces[stage].starts(names)
    return spaces, starts, settings


def _stage(name: str, made: _Made, task: Task, engine: Model, factor: float, budget: int) -> Stage:
    texts, settings = int(task.tokens.shape[0]), made[2][name]
    scored = budget + min(settings.finalists, budget) * settings.final_texts
    return Stage(
        name, task.length, factor, budget, tuple(made[0][name].facts()), tuple(made[1][name]),
        scored * texts * _flops(engine, task.length), engine.estimate(task.length, min(BATCH, budget) * texts)["total"],
    )  # fmt: skip


def _flops(engine: Model, length: int) -> float:
    """Of one text: twice the weights of the layers for each token, and attention over all pairs of tokens."""
    sizes, inside = engine.sizes, 0
    for name in engine.weights.names():
        shape = engine.weights.shape(name) or ()
        if len(shape) == 2 and shape[0] != engine.vocabulary:
            inside += shape[0] * shape[1]
    attention = 4.0 * sizes.layers * sizes.heads * sizes.head_dim * length * (length + 1) / 2
    return 2.0 * inside * length + attention


@dataclass
class _Texts:
    """What is scored on and what is measured with, never the same."""

    model: Checkpoint
    engine: Model
    objective: str
    text: str | Path | None
    tokenizer: str | Path | None
    alphabet: str | None
    samples: int
    measured: int
    seed: int

    def __post_init__(self) -> None:
        if self.objective == "ppl":
            assert self.text is not None
            self.ids = texts.read(self.text, self.model, self.engine.vocabulary, self.tokenizer)
        else:
            letters = alphabet_of(self.model, self.engine.vocabulary, self.alphabet)
            self.pools, self.rest = needles.divided(letters)

    def training(self, length: int, times: int) -> Any:
        """(texts, length) token ids; those for the final are more, and others as far as there are."""
        if self.objective == "ppl":
            return texts.windows(self.ids, length, self.samples * times, str(self.text))[0]
        return needles.draw(self.pools, length, self.samples * times, self.seed + _FINAL_SEED * (times > 1))

    def held_out(self, length: int) -> Work:
        """What is measured at a length."""
        seed = self.seed + _HELD_OUT_SEED
        if self.objective == "ppl":
            found = texts.windows(self.ids, length, self.measured, str(self.text))[1]
            return Work(length, self.measured, seed, windows=found)
        return Work(length, self.measured, seed, alphabet=self.rest)


def _digest(task: Task) -> str:
    import hashlib

    return hashlib.sha256(task.tokens.tobytes()).hexdigest()[:16]
