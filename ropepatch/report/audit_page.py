"""An audit as one HTML file: maps side by side, what follows from them, and nothing from anywhere else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ropepatch.audit.tasks import TASKS
from ropepatch.report import brief_page
from ropepatch.report.audit_tables import DARK, SHADES, effective, paired, unmeasured
from ropepatch.report.text import clean

if TYPE_CHECKING:
    from ropepatch.audit.result import Audit

_STYLE = (
    "<style>body{max-width:80rem}.maps{display:flex;flex-wrap:wrap;gap:1.2rem 1.6rem;margin:.8rem 0}"
    ".maps table{width:auto;border-collapse:separate;border-spacing:2px;font-variant-numeric:tabular-nums}"
    ".maps caption{text-align:left;font-weight:600;padding-bottom:.2rem}"
    ".maps th,.maps td{border:0;padding:.25rem .3rem;text-align:right;min-width:2.5rem}"
    ".maps td,.maps thead th+th{text-align:center}.maps td{border-radius:.15rem;overflow-wrap:normal}"
    ".maps .no{color:var(--soft);background:var(--panel);font-size:.8em}</style>"
)


def page(result: Audit) -> str:
    """Length by depth for each variant side by side, a row of maps a task, and the summary below."""
    from ropepatch.audit.result import CAVEAT

    name = clean(result.ref).rstrip("/").rsplit("/", 1)[-1]
    engine = ", ".join(str(result.environment[key]) for key in ("engine", "device", "dtype"))
    about = (
        f"Trained on {result.trained:,} tokens; right answers of {result.samples} by length and depth; {engine}; "
        f"seed {result.seed}. Point at a cell for its interval."
    )
    body = [_STYLE, f"<h1>{_safe(name)}: what it still finds</h1>", f"<p>{_safe(about)}</p>"]
    if result.interrupted:
        body.append("<p><strong>Interrupted: this is what there was.</strong></p>")
    for task in result.tasks:
        maps = "".join(_map(result, variant, task) for variant in result.variants)
        body.append(f'<h2>{_safe(task)}: {_safe(TASKS[task])}</h2><div class="maps">{maps}</div>')
    body += ["<h2>What follows</h2>", _summary(result), f"<p>{_safe(CAVEAT)}</p>"]
    return brief_page.page(f"{name}: audit", "\n".join(body))


def _map(result: Audit, variant: str, task: str) -> str:
    cells = {(c["length"], c["depth"]): c for c in result.cells if (c["variant"], c["task"]) == (variant, task)}
    head = "".join(f'<th scope="col">{depth:.2g}</th>' for depth in result.depths)
    rows = ""
    for length in result.lengths:
        line = "".join(_cell(cells.get((length, depth))) for depth in result.depths)
        rows += f'<tr><th scope="row">{length:,}</th>{line}</tr>'
    return (
        f'<table><caption>{_safe(variant)}</caption><thead><tr><th scope="col">tokens</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "<td></td>"
    if cell["status"] != "measured":
        return f'<td class="no" title="{_safe(cell["why"])}">{_safe(unmeasured(cell))}</td>'
    shade = min(int(cell["k"] / cell["n"] * len(SHADES)), len(SHADES) - 1)
    low, high = cell["interval"]
    told = f"{cell['k']} of {cell['n']}, 95 %: {low:.2f} to {high:.2f}"
    if cell["log_probability"] is not None:
        told += f"; log p {cell['log_probability']:.2f}"
    ink = "#000" if shade >= DARK else "#fff"
    return f'<td style="background:{SHADES[shade]};color:{ink}" title="{told}">{cell["k"]}</td>'


def _summary(result: Audit) -> str:
    against = f"short texts against {result.baseline}" if result.baseline else "short texts"
    heads = ("variant", "task", "effective, 0.85 of own", "effective, 0.856", "weakest depth", "middle gap", against)
    head = "".join(f'<th scope="col">{_safe(text)}</th>' for text in heads)
    rows = []
    for variant in result.variants:
        for task in (task for task in result.tasks if task != "absent"):
            found = result.summary(variant, task)
            values = [
                variant, task, effective(found, "relative"), effective(found, "ruler"),
                at_longest(found["weakest_depth"]), at_longest(found["middle_gap"], "+.2f"), paired(found),
            ]  # fmt: skip
            rows.append("<tr>" + "".join(f"<td>{_safe(value)}</td>" for value in values) + "</tr>")
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def at_longest(values: Mapping[str, float], form: str = ".2f") -> str:
    """``0.44 at 1,024``: a number of the longest length that has one."""
    if not values:
        return ""
    longest = max(values, key=int)
    return f"{values[longest]:{form}} at {int(longest):,}"


def _safe(text: object) -> str:
    return html.escape(clean(text))
