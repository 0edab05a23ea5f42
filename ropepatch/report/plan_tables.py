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
LEGEND = (
    "unseen: angles that training never showed; step: between neighbours, against training; logits: factor on them; "
    "base: of the plain RoPE nearest to all pairs; Σcos<0: first distance where the base bound breaks"
)
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
    for limit, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if flops >= limit:
            return f"{flops / limit:.3g} {unit}FLOP"
    return f"{flops:.3g} FLOP"


def shown(plan: Plan, columns: int) -> list[Any]:
    """The plan: verdict, methods, γ, cost, training."""
    parts: list[Any] = [head(plan), ""]
    if len(plan.methods) > 1:
        parts += [methods(plan.methods, plan.subject.method, columns), ""]
    parts += [law(plan), ""]
    if plan.cost is not None:
        parts += [costs(plan.cost), ""]
        if plan.cost.gpus:
            parts += [cards(plan.cost), ""]
    if plan.recipes:
        parts += [training(plan), ""]
    return parts


def head(plan: Plan) -> Panel:
    """Verdict, reasons and the geometry of training."""
    document = plan.to_json_start()
    rows = [
        ("verdict", Text(plan.verdict, f"bold {COLOURS[plan.verdict]}")),
        *(("because" if not i else "", plain(reason.text)) for i, reason in enumerate(plan.reasons)),
        ("judged", plain(judged(plan))),
        ("starts from", plain(f"{plan.start.context:,} tokens ({plan.start.origin}), group {plan.start.group}")),
        ("no full turn", plain(slow(document))),
        ("positions", plain(positions(plan))),
    ]
    title = plain(f"{plan.length:,} tokens, {plan.factor:.4g} times", "bold")
    return Panel(grid(rows), title=title, title_align="left", expand=False)


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


def runtimes(item: Candidate) -> str:
    """Which runtimes compute a method as it is defined."""
    if item.same is None:
        return "not predicted for this format"
    total = len(item.same) + len(item.differing)
    if not item.differing:
        return f"all {total}"
    if len(item.same) >= len(item.differing):
        return f"{len(item.same)} of {total}; not {', '.join(item.differing)}"
    return f"{', '.join(item.same) or 'none'} of {total}"


def law(plan: Plan) -> Text:
    """γ and what it is worth, in two lines."""
    values, published = plan.gamma, plan.gamma["published"]
    after = "-" if values["after"] is None else f"{values['after']:.3f}"
    text = Text("γ ")
    text.append(
        f"{values['trained']:.3f} as trained, {values['before']:.3f} at the length, {after} with {plan.subject.method} "
        f"(its fitted base); θ for γ {values['target']:g}: {values['theta_design']:,.0f}. "
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
