"""A plan for people, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ropepatch.planner.candidates import Candidate
from ropepatch.planner.cost import Cost
from ropepatch.planner.plan import Plan
from ropepatch.report.tables import grid, heading_table, plain

COLOURS = {"HEALTHY": "green", "USABLE-WITH-CARE": "yellow", "NEEDS-FINETUNE": "yellow", "DEGRADES": "red"}
_ORIGIN = {"trained": "was trained on", "given": "is said to be trained on", "declared": "declares"}
#: columns from which every column of the table of methods is shown
_WIDE = 100
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(count: float) -> str:
    """Bytes in the unit that leaves at least one before the point."""
    index = 0
    while count >= 1024 and index < len(_UNITS) - 1:
        count, index = count / 1024, index + 1
    return f"{count:.3g} {_UNITS[index]}" if count < 1000 else f"{count:.0f} {_UNITS[index]}"


def tera(flops: float) -> str:
    """Operations with an SI prefix."""
    for limit, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if flops >= limit:
            return f"{flops / limit:.3g} {unit}FLOP"
    return f"{flops:.3g} FLOP"


def shown(plan: Plan, columns: int) -> list[Any]:
    """What stands below the answer: methods, geometry of training, γ, cost, training."""
    parts: list[Any] = [""]
    if len(plan.methods) > 1:
        parts += [methods(plan.methods, plan.subject.method, columns), legend(columns), ""]
    parts += [about(plan), "", law(plan), ""]
    if plan.cost is not None:
        parts += [costs(plan.cost), ""]
        if plan.cost.gpus:
            parts += [cards(plan.cost), ""]
    if plan.recipes:
        parts += [training(plan), ""]
    return parts


def answer(plan: Plan) -> Panel:
    """What to do, why, and what it costs."""
    rows = [
        ("do", plain(action(plan), "bold")),
        ("verdict", Text(plan.verdict, f"bold {COLOURS[plan.verdict]}")),
        *(("because" if not i else "", plain(reason.text)) for i, reason in enumerate(plan.reasons)),
    ]
    if plan.subject is not plan.methods[0]:
        rows.append(("why this", plain(merits(plan))))
    rows.append(("costs", plain(price(plan))))
    title = plain(f"{plan.length:,} tokens", "bold")
    return Panel(grid(rows), title=title, title_align="left", expand=False)


def action(plan: Plan) -> str:
    """The proposal in one line."""
    start, subject = plan.start, plan.subject
    declared = plan.model.profile.declared_context or 0
    from_there = f"{start.context:,} tokens that it {_ORIGIN[start.origin]}"
    if subject.patch is not None:
        scaled = start.existing == "replace" and start.context < declared
        also = f" ({plan.length / declared:.4g} times the {declared:,} that it declares)" if scaled else ""
        return f"{subject.method}, {plan.factor:.4g} times the {from_there}{also}"
    if subject is not plan.methods[0]:
        return f"nothing: this file cannot hold {subject.method}"
    if plan.model.profile.groups[start.group].scaled and plan.length <= declared:
        return f"nothing: scaled for {declared:,} tokens already"
    if plan.length <= start.context:
        return f"nothing: within the {from_there}"
    reasons = set(plan.skipped.values())
    return f"nothing: {reasons.pop()}" if len(reasons) == 1 else "nothing: no method reaches the length in this file"


def merits(plan: Plan) -> str:
    """What speaks for the subject: angles, neighbours, runtimes."""
    now, then = plan.methods[0].geometry.angles_outside, plan.subject.geometry
    new = f"{then.angles_outside:.1%} of the angles are" if then.angles_outside else "no angle is"
    kept = "their step" if then.neighbour_ratio > 0.9995 else f"{then.neighbour_ratio:.3g} of their step"
    text = f"{new} new to the model ({now:.1%} as it is); neighbours keep {kept}"
    if not plan.subject.same:
        return text
    total = len(plan.subject.same) + len(plan.subject.differing)
    every = "both" if total == 2 else f"all {total}"
    count = f"{every} runtimes do it" if len(plan.subject.same) == total else (
        f"{len(plan.subject.same)} of {total} runtimes do it, not {', '.join(plan.subject.differing)}"
    )  # fmt: skip
    return f"{text}; {count}"


def price(plan: Plan) -> str:
    """Cache, prefill and the smallest card in one line."""
    cost = plan.cost
    if cost is None:
        return f"unknown: {plan.cost_unknown}"
    start = f" ({size(cost.kv_bytes_before['f16'])} at {plan.start.context:,})" if cost.kv_bytes_before else ""
    before = start if plan.length != plan.start.context else ""
    parts = [f"KV cache {size(cost.kv_bytes['f16'])} a sequence in f16{before}"]
    if cost.prefill_growth and plan.factor > 1:
        parts.append(f"a full prompt {cost.prefill_growth:.3g} times the work")
    if cost.gpus:
        fits = [fit for fit in cost.gpus if fit.cards is not None]
        fewest = min(fits, key=lambda fit: (fit.cards or 0, fit.memory_bytes), default=None)
        parts.append(f"fits {fewest.cards} x {fewest.name}" if fewest else "more than 8 of any card listed")
    return "; ".join(parts)


def about(plan: Plan) -> Table:
    """Where it starts from, and what training showed."""
    return grid(
        [
            ("judged", plain(judged(plan))),
            ("starts from", plain(f"{plan.start.context:,} tokens ({plan.start.origin}), group {plan.start.group}")),
            ("no full turn", plain(slow(plan.to_json_start()))),
            ("positions", plain(positions(plan))),
        ]
    )


def judged(plan: Plan) -> str:
    """What the verdict is about."""
    if plan.subject.method == "as it is":
        return "the file as it is"
    return f"{plan.subject.method}, written as {plan.subject.written or 'nothing: it cannot be'}"


def slow(start: Mapping[str, Any]) -> str:
    """How many pairs did not turn in training."""
    text = f"{start['slow_pairs']} of {start['pairs']} pairs in training"
    critical = start["critical_dimension"]
    return text + (f", from dimension {critical} on" if critical is not None and start["slow_pairs"] else "")


def positions(plan: Plan) -> str:
    """What casts do to positions."""
    bf16, fp32 = plan.aliasing("bf16"), plan.aliasing("fp32")
    shared = f"{bf16.spacing} positions share one value" if bf16.spacing > 1 else "all told apart"
    return f"in bf16 {shared} at the end; in fp32 the fastest angle is off by up to {fp32.angle_error:.2g} rad"


def methods(rows: tuple[Candidate, ...], chosen: str, columns: int) -> Table:
    """The methods side by side; without what narrow terminals have no room for."""
    wide = columns >= _WIDE
    table = heading_table()
    table.add_column("method", no_wrap=True)
    for name in ("unseen", "step", *(("logits", "base") if wide else ()), "Σcos<0"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("as", no_wrap=True)
    table.add_column("runtimes that do it", overflow="fold")
    for item in rows:
        found = item.geometry
        style = "bold" if item.method == chosen else "" if item.holds else "dim"
        base = f"{found.base_fitted:.3g}" if found.base_fitted is not None else "-"
        cells = (
            f"{'▸ ' if item.method == chosen else '  '}{item.method}",
            f"{found.angles_outside:.1%}",
            f"×{found.neighbour_ratio:.3g}",
            *((f"×{found.logit_ratio:.3g}", base) if wide else ()),
            f"{found.first_zero:,}" if found.first_zero is not None else "never",
            item.written or "no",
            runtimes(item) if item.refused is None else "",
        )
        table.add_row(*(plain(cell, style) for cell in cells))
    return table


def legend(columns: int) -> Text:
    """What the columns of :func:`methods` are."""
    found = ["unseen: share of angles that training never showed", "step: between neighbours, against training"]
    if columns >= _WIDE:
        found += ["logits: factor on them", "base: of the plain RoPE nearest to all pairs"]
    found += ["Σcos<0: first distance where the base bound breaks", "as: how the file says it"]
    return Text("; ".join(found), "dim")


def runtimes(item: Candidate) -> str:
    """Which runtimes compute a method as it is defined."""
    if item.same is None:
        return "not predicted for this format"
    total = len(item.same) + len(item.differing)
    if not item.differing:
        return f"all {total}"
    if len(item.same) >= len(item.differing):
        return f"{len(item.same)} of {total}; not {', '.join(item.differing)}"
    return f"{len(item.same)} of {total}: {', '.join(item.same)}" if item.same else f"none of {total}"


def law(plan: Plan) -> Text:
    """γ and what it is worth, in two lines."""
    values, published = plan.gamma, plan.gamma["published"]
    after = "" if values["after"] is None else f", {values['after']:.3f} with {plan.subject.method} (its fitted base)"
    text = Text("γ ")
    text.append(
        f"{values['trained']:.3f} at the start, {values['before']:.3f} at the length"
        f"{after if plan.subject is not plan.methods[0] else ''}; θ for γ {values['target']:g}: "
        f"{values['theta_design']:,.0f}. "
    )
    text.append(f"{values['standing']}. Published planner: {published['verdict']}. See explain gamma.", "dim")
    return text


def costs(cost: Cost) -> Table:
    """Cache, weights and prefill."""
    rows = [("KV cache", plain(" · ".join(f"{kind} {size(n)}" for kind, n in cost.kv_bytes.items()) + " a sequence"))]
    if cost.batch > 1:
        batch = " · ".join(f"{kind} {size(n)}" for kind, n in cost.kv_batch_bytes.items())
        rows.append((f"of {cost.batch}", plain(batch)))
    if cost.kv_bytes_before:
        rows.append(("before", plain(f"f16 {size(cost.kv_bytes_before['f16'])} at the starting context")))
    kinds = ((cost.full_layers, "full"), (cost.sliding_layers, "sliding"), (cost.other_layers, "without growing cache"))
    layers = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
    rows.append(("layers", plain(layers + (", latent cache" if cost.latent else ""))))
    weights = "unknown" if cost.weight_bytes is None else f"{size(cost.weight_bytes)} ({cost.weight_source})"
    rows.append(("weights", plain(weights)))
    if cost.prefill_flops is not None:
        growth = f", {cost.prefill_growth:.3g} times the starting context's" if cost.prefill_growth else ""
        share = f", {cost.attention_share:.0%} of it attention" if cost.attention_share is not None else ""
        rows.append(("prefill", plain(f"{tera(cost.prefill_flops)}{share}{growth}")))
    return grid(rows)


def cards(cost: Cost) -> Table:
    """Which cards hold it, and how many sequences fit."""
    table = heading_table("card", "cards", *(f"sequences {kind}" for kind in cost.kv_bytes))
    for fit in cost.gpus:
        held = fit.cards is not None
        cells = (fit.name, str(fit.cards) if held else "more than 8", *(f"{n:,}" for n in fit.sequences.values()))
        table.add_row(*(plain(cell, "" if held else "dim") for cell in cells))
    return table


def training(plan: Plan) -> Table:
    """Published runs."""
    table = heading_table("published run", "lengths", "steps", "rate", "batch", "source")
    for run in plan.recipes:
        table.add_row(*map(plain, (run.model, run.lengths, run.steps, run.rate, run.batch, run.source)))
    return table


def topic(document: Mapping[str, Any]) -> list[Any]:
    """A topic of ``explain``."""
    rows = [(item["name"], plain(item["formula"])) for item in document["formulas"]]
    parts: list[Any] = [
        Panel(grid(rows), title=plain(f"{document['name']}: {document['title']}", "bold"), title_align="left")
    ]
    parts += [plain(f"· {text}") for text in document["known"]]
    return [*parts, *([plain(f"Sources: {'; '.join(document['sources'])}", "dim")] if document["sources"] else [])]
