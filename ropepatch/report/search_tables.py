"""A search on the terminal: what it would do, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ropepatch.report.plan_tables import size, tera
from ropepatch.report.tables import grid, heading_table, plain
from ropepatch.search.heldout import SEARCHED
from ropepatch.search.result import Search, Stage


def plan(found: Search) -> list[Any]:
    """Spaces, starts, cost and settings."""
    parts: list[Any] = [_head(found), ""]
    for stage in found.stages:
        parts += [_stage(stage), ""]
    return [*parts, settings(found.settings)]


def _head(found: Search) -> Panel:
    short = {"search": "searched as well", "ones": "ones: as trained", "same": "the same as the long one"}
    rows = [
        ("context", plain(f"{found.trained:,} to {found.length:,} tokens, {found.factor:g} times")),
        ("rope group", plain(found.group)),
        ("space", plain(found.space)),
        ("objective", plain(f"{found.objective}, {found.samples} texts a candidate")),
        ("attention factor", plain(f"{found.attention_factor:.6g} with every candidate, at every length")),
        ("short list", plain(short[found.short])),
    ]
    return Panel(grid(rows), title=plain(found.ref, "bold"), title_align="left", expand=False)


def _stage(stage: Stage) -> Panel:
    rows = [(what, plain(f"{value}  ({source})")) for what, value, source in stage.facts]
    rows += [
        ("starts", plain(", ".join(stage.starts))),
        ("candidates", plain(f"{stage.budget:,} at {stage.length:,} tokens")),
        ("cost", plain(f"about {tera(stage.flops)} in all; {size(stage.bytes)} of memory")),
    ]
    return Panel(grid(rows), title=plain(f"the {stage.name} list", "bold"), title_align="left", expand=False)


def settings(values: list[dict[str, Any]]) -> Table:
    """Each setting with its source."""
    table = heading_table("setting", "value", "what it is", "from")
    for row in values:
        table.add_row(*(plain(f"{row[name]:g}" if name == "value" else row[name]) for name in _COLUMNS))
    return table


_COLUMNS = ("name", "value", "meaning", "source")


def result(found: Search) -> list[Any]:
    """The lists, what the starts scored, and the held-out measurement."""
    parts: list[Any] = []
    if found.long_factor is not None:
        parts += [_factors(found), ""]
    parts += [_progress(found), ""]
    if found.held_out is not None:
        parts += [_held_out(found, found.held_out), ""]
    return parts


def _factors(found: Search) -> Table:
    table = heading_table("list", "factors")
    for name, values in (("short", found.short_factor), ("long", found.long_factor)):
        table.add_row(plain(name), plain(" ".join(f"{value:.4g}" for value in values or ())))
    return table


def _progress(found: Search) -> Table:
    table = heading_table("list", "tried", "best start", "scored", "best", "elsewhere", "critical pair")
    for column in table.columns[:6]:
        column.no_wrap = True
    table.caption = plain("scored: of the best start; elsewhere: of the best, on texts that it was not chosen by")
    table.caption_justify = "left"
    for stage in found.stages:
        best, evolved = found.best(stage.name), found.results.get(stage.name)
        if best is None or evolved is None:
            continue
        start = max(evolved.starts, key=lambda name: evolved.starts[name], default=None)
        critical = best[0].critical
        table.add_row(
            plain(stage.name),
            plain(f"{len(evolved.tried):,} of {stage.budget:,}"),
            plain(start or ""),
            plain(f"{evolved.starts[start]:.3g}" if start else ""),
            plain(f"{dict(evolved.tried)[best[0]]:.3g}"),
            plain(f"{best[1]:.3g}" if stage.name in found.finals else ""),
            plain("" if critical is None else critical),
        )
    return table


def _held_out(found: Search, held: Mapping[str, Any]) -> Table:
    """Variants by length; one row each."""
    lengths = sorted({cell["length"] for cell in held["cells"]})
    table = heading_table("held out")
    table.title, table.title_justify = plain(f"{held['task']}, texts that the search never saw", "bold"), "left"
    for length in lengths:
        table.add_column(plain(f"{length:,} tokens"), no_wrap=True, justify="right")
        table.add_column(plain("log p" if held["task"] != "perplexity" else ""), no_wrap=True, justify="right")
    for variant in dict.fromkeys(cell["variant"] for cell in held["cells"]):
        row: list[Text] = [plain(variant, "bold" if variant == SEARCHED else "")]
        for length in lengths:
            cell = next(c for c in held["cells"] if (c["variant"], c["length"]) == (variant, length))
            row += _cell(cell)
        table.add_row(*row)
    return table


def _cell(cell: Mapping[str, Any]) -> list[Text]:
    if "perplexity" in cell:
        return [plain(f"{cell['perplexity']:.4g}"), plain("")]
    low, high = cell["interval"]
    return [
        plain(f"{cell['k'] / cell['n']:.3f} [{low:.2f}, {high:.2f}]"),
        plain(f"{cell['log_probability']:.3g}"),
    ]


def warnings(found: Search) -> list[str]:
    """What makes the result worth less than it looks."""
    cells = {(c["variant"], c["length"]): c for c in (found.held_out or {}).get("cells", [])}
    told = []
    plain_model = cells.get(("none", found.trained))
    if plain_model and "k" in plain_model and plain_model["k"] * 2 < plain_model["n"]:
        told.append(
            f"the unpatched model finds {plain_model['k']} of {plain_model['n']} at {found.trained:,} tokens: it "
            "cannot do this task, and factors found by it may mean nothing; try --objective ppl"
        )
    for length in (found.trained, found.length):
        ours = cells.get((SEARCHED, length))
        better = [
            name for (name, at), cell in cells.items()
            if ours and at == length and name not in (SEARCHED, "none") and _score(cell) > _score(ours)
        ]  # fmt: skip
        if better:
            told.append(f"held out at {length:,} tokens, {' and '.join(better)} did better than what was searched")
    return told


def _score(cell: Mapping[str, Any]) -> float:
    return float(cell["k"] if "k" in cell else -cell["perplexity"])
