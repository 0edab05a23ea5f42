"""The plan: which method, what it costs, what to expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.checkpoint import Checkpoint
from ropepatch.checkpoint import open as opened
from ropepatch.errors import InputError, UsageError
from ropepatch.methods import REGISTRY
from ropepatch.planner import candidates, gamma, geometry, handing, recipes, shape, verdict
from ropepatch.planner import start as starting
from ropepatch.planner.candidates import Candidate
from ropepatch.planner.cost import Cost, cost
from ropepatch.planner.start import Start
from ropepatch.planner.verdict import Reason
from ropepatch.profile import MAX_CONTEXT

if TYPE_CHECKING:
    from ropepatch.runtimes.launch import Launch

SCHEMA = "ropepatch.plan/1"
DEFAULT_GAMMA = handing.DEFAULT_GAMMA
_ALL_SLIDE = "every layer has a sliding window: where the engine keeps to it, no farther distance ever occurs"


@dataclass(frozen=True)
class Plan:
    """What to do with a checkpoint for a length, and what follows from it.

    Attributes:
        model: the checkpoint.
        length: the context asked for.
        start: where the extension starts from.
        methods: the file as it is first, then every method at the factor; empty but for the first where none is needed.
        skipped: methods that a factor does not determine, with why.
        subject: the candidate that the verdict is about.
        reasons: the rules that applied.
        gamma: γ with and without, the designed base, and the published planner's verdict.
        cost: what the length costs; None where the metadata does not say.
        cost_unknown: why not.
        recipes: published fine-tuning runs, where the verdict asks for one.
        command: the command that makes the change; None where nothing changes.
        notes: what a person should know.
    """

    model: Checkpoint
    length: int
    start: Start
    methods: tuple[Candidate, ...]
    skipped: Mapping[str, str]
    subject: Candidate
    reasons: tuple[Reason, ...]
    gamma: Mapping[str, Any]
    cost: Cost | None
    cost_unknown: str | None
    recipes: tuple[recipes.Recipe, ...]
    command: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def verdict(self) -> str:
        """HEALTHY, USABLE-WITH-CARE, NEEDS-FINETUNE or DEGRADES."""
        return verdict.gravest(self.reasons)

    @cached_property
    def launch(self) -> tuple[Launch, ...]:
        """How each runtime is started on the result, or on the file as it is where nothing changes."""
        return handing.launch(self.model, self.subject, self.length)

    @property
    def factor(self) -> float:
        """The length over the start."""
        return self.length / self.start.context

    def aliasing(self, kind: str) -> geometry.Aliasing:
        """What casting positions to ``bf16`` or ``fp32`` does at the length."""
        return geometry.aliasing(kind, self.length, float(self.start.trained.inv_freq.max()))

    def to_json_start(self) -> dict[str, Any]:
        """Where it starts from, with what training showed."""
        rope = self.model.profile.groups[self.start.group].spectrum()
        return {
            "group": self.start.group,
            "context": self.start.context,
            "origin": self.start.origin,
            "existing": self.start.existing,
            "pairs": int(self.start.trained.inv_freq.size),
            "slow_pairs": geometry.slow_pairs(self.start.trained.inv_freq, self.start.context),
            "critical_dimension": geometry.critical_dimension(rope, self.start.context),
        }

    def to_json(self) -> dict[str, Any]:
        """The plan as the JSON that ``schemas/plan.schema.json`` describes."""
        profile = self.model.profile
        return {
            "schema": SCHEMA,
            "ref": self.model.ref,
            "length": self.length,
            "factor": self.factor,
            "checkpoint": {
                "format": profile.source.format,
                "architecture": profile.source.architecture,
                "trained_context": profile.trained_context,
                "declared_context": profile.declared_context,
                "groups": {
                    name: {
                        "scaling": group.scaling.to_json(),
                        "window": group.window,
                        "planned": name == self.start.group,
                    }
                    for name, group in profile.groups.items()
                },
            },
            "start": self.to_json_start(),
            "aliasing": {
                kind: asdict(self.aliasing(kind)) for kind in ("bf16", "fp32")
            },
            "methods": [item.to_json() for item in self.methods],
            "skipped": dict(self.skipped),
            "subject": self.subject.method,
            "command": self.command,
            "verdict": self.verdict,
            "reasons": [reason.to_json() for reason in self.reasons],
            "gamma": dict(self.gamma),
            "cost": self.cost.to_json() if self.cost else None,
            "cost_unknown": self.cost_unknown,
            "fine_tuning": [recipe.to_json() for recipe in self.recipes],
            "launch": [line.to_json() for line in self.launch],
            "notes": list(self.notes),
        }  # fmt: skip


def plan(
    ref: Checkpoint | str | Path,
    length: int,
    *,
    method: str | None = None,
    target_gamma: float | None = None,
    existing: str | None = None,
    original: int | None = None,
    group: str | None = None,
    batch: int = 1,
) -> Plan:
    """What a context of ``length`` tokens asks of a checkpoint, from its metadata alone.

    Args:
        ref: a checkpoint, or what names one.
        length: the context in tokens.
        method: judge this one instead of the one that the rules propose.
        target_gamma: what the base of ``theta`` is designed for; default 0.5.
        existing: for a scaled checkpoint: ``replace`` its scaling or ``compose`` with it; default what the file allows.
        original: the trained context, where the file does not say it.
        group: the rope group; default the one that a longer context reaches.
        batch: sequences at once, for the cost.

    Raises:
        InputError: the checkpoint cannot be read, or has no RoPE.
        UsageError: the arguments do not fit it.
    """
    model = ref if isinstance(ref, Checkpoint) else opened(ref)
    if not 1 <= length <= MAX_CONTEXT:
        raise UsageError(f"a length is 1 to {MAX_CONTEXT} tokens, not {length}")
    law = DEFAULT_GAMMA if target_gamma is None else target_gamma
    gamma.theta_design(law, length)  # an impossible γ is an error even where the table does not need it
    if target_gamma is not None and (method or "theta").split("+")[0] != "theta":
        raise UsageError(f"a target γ sets the base of theta; {method} has no such parameter")
    if target_gamma is not None and method is None:
        method = "theta"
    begin = starting.of(model, group, existing, original)
    now = candidates.as_it_is(model, begin, length)
    found: list[Candidate] = []
    skipped: dict[str, str] = {}
    if length > begin.context and starting.extendable(model, begin, skipped):
        found, skipped = candidates.all_methods(model, begin, length, target_gamma=law, original=original)
    subject = _subject(model, begin, length, now, found, skipped, method, law, original)
    price, unknown = _cost(model, begin, length, batch)
    reasons = _reasons(model, begin, length, subject)
    if price is not None and price.sliding_layers and not price.full_layers and length > begin.context:
        reasons.append(Reason("window", verdict.CARE, _ALL_SLIDE))
    needs = verdict.VERDICTS.index(verdict.gravest(reasons)) >= verdict.VERDICTS.index(verdict.FINETUNE)
    runs = recipes.of(subject.method.split("+"), length / begin.context) if needs else []
    return Plan(
        model=model,
        length=length,
        start=begin,
        methods=(now, *found),
        skipped=skipped,
        subject=subject,
        reasons=tuple(reasons),
        gamma=_gamma(model, begin, length, law, subject),
        cost=price,
        cost_unknown=unknown,
        recipes=tuple(runs),
        command=handing.command(model, begin, length, subject, original, target_gamma),
        notes=tuple(handing.notes(model, begin, length, subject)),
    )


def _subject(
    model: Checkpoint, start: Start, length: int, now: Candidate, found: list[Candidate], skipped: Mapping[str, str],
    method: str | None, law: float, original: int | None,
) -> Candidate:  # fmt: skip
    """What the verdict is about: the method asked for, the file as it is where that reaches, else the proposal."""
    if method is not None:
        chosen = next((item for item in found if item.method == method), None)
        if chosen is None and length <= start.context:
            raise UsageError(f"{length:,} tokens are within the {start.context:,} that {model.ref} starts from")
        if chosen is None and method in skipped:
            raise UsageError(f"{method}: {skipped[method]}")
        return chosen or candidates.candidate(model, method, start, length, target_gamma=law, original=original)
    declared = model.profile.declared_context or 0
    scaled = model.profile.groups[start.group].scaled
    if length <= start.context or (scaled and length <= declared) or model.profile.groups[start.group].window:
        return now
    return propose(found) or now


def propose(found: list[Candidate]) -> Candidate | None:
    """The first by preference that the file can hold, most runtimes compute and geometry does not speak against.

    Where none leaves no angle and no neighbour behind, the one that meets the fewest unseen angles. Runtimes decide
    before the methods' preference.
    """
    ranked = [(rank, item) for item in found if item.holds and (rank := _preference(item.method)) is not None]
    clean = [(rank, item) for rank, item in ranked if not verdict.by_geometry(item.geometry)]
    if clean:
        return min(clean, key=lambda pair: (pair[1].mostly_misread, pair[0]))[1]
    return min(ranked, key=lambda pair: (pair[1].geometry.angles_outside, pair[0]), default=(0, None))[1]


def _preference(name: str) -> int | None:
    method = REGISTRY.get(name)
    return None if method is None else method.preference


def _reasons(model: Checkpoint, start: Start, length: int, subject: Candidate) -> list[Reason]:
    """The rules that apply; see ``verdict.RULES``."""
    profile, factor = model.profile, length / start.context
    group = profile.groups[start.group]
    untouched = subject.method == "as it is"
    if untouched and model.profile.groups[start.group].window and factor > 1:
        return [Reason("window", verdict.CARE, f"the layers that rotate see no farther than {group.window:,} tokens")]
    declared = profile.declared_context or 0
    reasons = []
    if untouched and group.scaled and length <= declared:
        text = f"the file is scaled for {declared:,} tokens; whether it was trained so does not stand in it"
        reasons.append(Reason("declared", verdict.CARE, text))
    else:
        reasons.append(verdict.by_factor(factor, start.context, length))
        reasons += verdict.by_geometry(subject.geometry) if factor > 1 else []
    if subject.refused is not None:
        reasons.append(Reason("written", verdict.DEGRADES, subject.refused))
    elif untouched and factor > 1 and not (group.scaled and length <= declared):
        reasons.append(Reason("written", verdict.DEGRADES, "no method that this file can hold reaches the length"))
    elif subject.same is not None and not subject.same:
        reasons.append(Reason("written", verdict.DEGRADES, "no runtime computes it as it is defined"))
    elif subject.mostly_misread:
        text = f"computed as defined by {', '.join(subject.same or ())}, not by {', '.join(subject.differing)}"
        reasons.append(Reason("runtimes", verdict.CARE, text))
    return reasons


def _gamma(model: Checkpoint, start: Start, length: int, law: float, subject: Candidate) -> dict[str, Any]:
    """γ before and after, the designed base, and the published planner beside it."""
    base = model.profile.groups[start.group].rope_theta
    reference = gamma.published(start.context, base, length)
    naive = gamma.pade(base, length)
    return {
        "standing": gamma.STANDING,
        "trained": gamma.pade(base, start.context),
        "before": naive,
        "after": subject.gamma,
        "target": law,
        "theta_design": gamma.theta_design(law, length),
        "d_horizon": gamma.d_horizon(base, naive),
        "published": asdict(reference),
    }


def _cost(model: Checkpoint, start: Start, length: int, batch: int) -> tuple[Cost | None, str | None]:
    try:
        found = shape.of(model)
    except InputError as error:
        return None, error.what
    return cost(found, length, start.context, batch), None
