"""What the commands show to people, as rich renderables.

Every text that comes from a file goes through :func:`ropepatch.report.text.clean` and into ``Text``, so that neither
the terminal nor rich's markup acts on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ropepatch.methods.base import Frequencies
from ropepatch.profile import RopeGroup, RopeProfile
from ropepatch.report import summary
from ropepatch.report.catalogue import SPELLED, default_text
from ropepatch.report.text import clean, number, short, tokens

if TYPE_CHECKING:
    from ropepatch.patch import Edit, Value

#: rope groups side by side in one table
_SIDE_BY_SIDE = 3
#: characters of a value in a table cell
_CELL = 44
#: columns from which the titles of methods are shown
_WIDE = 110


def plain(text: object, style: str = "") -> Text:
    """A text that nothing interprets."""
    return Text(clean(text), style=style)


def heading_table(*headings: str) -> Table:
    """An empty table with a line under its headings."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    return table


def grid(rows: Iterable[tuple[str, Text]]) -> Table:
    """Names and values in two columns without lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), value)
    return table


def profile_panel(profile: RopeProfile) -> Panel:
    """Where a profile was read, and its contexts."""
    source = profile.source
    name = source.ref.rstrip("/").rsplit("/", 1)[-1] or source.ref
    rows = [("path", plain(source.ref))] if name != source.ref else []
    rows += [
        ("format", plain(" · ".join(filter(None, (source.format, source.architecture, source.layout_version))))),
        ("trained on", plain(f"{tokens(profile.trained_context)}{' tokens' if profile.trained_context else ''}")),
        ("declares", plain(f"{tokens(profile.declared_context)}{' tokens' if profile.declared_context else ''}")),
    ]
    if profile.nope_layers:
        rows.append(("without RoPE", plain(f"layers {ranges(profile.nope_layers)}")))
    return Panel(grid(rows), title=plain(_cut(name), "bold"), title_align="left", expand=False)


def _cut(name: str, width: int = 60) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def group_tables(profile: RopeProfile) -> list[Table]:
    """Settings and a frequency summary, one column a rope group."""
    names = list(profile.groups)
    tables = []
    for start in range(0, len(names), _SIDE_BY_SIDE):
        part = names[start : start + _SIDE_BY_SIDE]
        table = heading_table("rope group", *map(clean, part))
        for rows in (_setting_rows, _frequency_rows):
            columns = [rows(profile, profile.groups[name]) for name in part]
            for label in dict.fromkeys(label for column in columns for label in column):
                table.add_row(plain(label, "dim"), *(plain(column.get(label, "")) for column in columns))
            table.add_section()
        tables.append(table)
    return tables


def _setting_rows(profile: RopeProfile, group: RopeGroup) -> dict[str, str]:
    layers = "all" if len(profile.groups) == 1 else "not listed"
    rows = {
        "layers": ranges(group.layers) if group.layers is not None else layers,
        "base θ": number(group.rope_theta, 9),
        "rotates": f"{group.rotary_dim} of {group.head_dim} dimensions",
        "pair layout": group.layout,
    }
    if any(other.window for other in profile.groups.values()):
        rows["window"] = f"{group.window:,} tokens" if group.window else "none"
    if group.mrope_section:
        rows["M-RoPE sections"] = short(group.mrope_section)
    rows["scaling"] = str(group.scaling.to_json()["method"])
    rows.update(_scaling_rows(group.scaling.to_json(), "  "))
    if group.softmax_scale is not None:
        rows["softmax scale"] = number(group.softmax_scale)
    if group.query_temperature is not None:
        rows["query temperature"] = ", ".join(f"{k} {number(v)}" for k, v in group.query_temperature.items())
    return rows


def _frequency_rows(profile: RopeProfile, group: RopeGroup) -> dict[str, str]:
    numbers = summary.group_summary(profile, group)
    longest = numbers["longest_wavelength"]
    rows = {
        "inv_freq": f"{number(numbers['first'], 4)} to {number(numbers['last'], 4)}, {numbers['pairs']} pairs",
        "longest wavelength": f"{longest:,.0f} tokens" if longest else "none: a pair stands still",
    }
    if numbers["beyond_trained"] is not None:
        rows["no full turn in training"] = f"{numbers['beyond_trained']} of {numbers['pairs']} pairs"
    rows["attention scale"] = number(numbers["attention_scale"])
    if numbers["changes_with_length"]:
        rows["follows the length"] = "yes: shown for a short context"
    return rows


def _scaling_rows(scaling: Mapping[str, Any], indent: str) -> dict[str, str]:
    rows = {}
    for key, value in scaling.items():
        if key == "stages":
            for stage in value:
                rows.update(_scaling_rows(stage, f"{indent}{stage['method']} "))
        elif key != "method":
            rows[indent + key] = short(value, _CELL)
    return rows


def ranges(layers: Sequence[int]) -> str:
    """``0-4, 6-10``: runs of layers, the middle left out where there are many."""
    runs = []
    for _, run in groupby(enumerate(sorted(layers)), key=lambda pair: pair[1] - pair[0]):
        members = [layer for _, layer in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    if len(runs) > 6:
        return f"{', '.join(runs[:3])}, … {runs[-1]} ({len(layers)})"
    return ", ".join(runs) or "none"


def frequency_table(group: RopeGroup | None, now: Frequencies) -> Table:
    """Each pair's frequency and wavelength, and how much the scaling slows it where the group is known."""
    rotation = group.spectrum().inv_freq if group is not None else now.inv_freq[:0]
    comparable = rotation.size == now.inv_freq.size
    table = heading_table()
    for heading in ("pair", "inv_freq", "wavelength", "slowed by"):
        table.add_column(heading, justify="right")
    for index, value in enumerate(now.inv_freq):
        still = value == 0
        slowed = f"{rotation[index] / value:.6g}" if not still and comparable else ""
        wavelength = "stands still" if still else f"{2 * math.pi / value:,.6g}"
        table.add_row(str(index), f"{value:.9g}", wavelength, slowed if slowed != "1" else Text("1", "dim"))
    return table


def edit_table(edits: Sequence[Edit]) -> Table:
    """What changes, old against new; a JSON object member by member."""
    several = len({edit.file for edit in edits}) > 1
    tensors = any(edit.target == "tensor" for edit in edits)
    table = heading_table(*(["file"] if several else []))
    table.add_column("key or tensor" if tensors else "key", no_wrap=not several, overflow="fold")
    for heading in ("before", "after"):
        table.add_column(heading, overflow="fold")
    for edit in edits:
        for name, before, after in members(edit):
            shown = (_value(before, "dim"), _value(after, "bold", _absent(after)))
            table.add_row(*([plain(edit.file)] if several else []), plain(name), *shown)
    return table


def members(edit: Edit) -> Iterable[tuple[str, Value | None, Value | None]]:
    """Name, value before and value after of what an edit changes; of a JSON object the members that differ."""
    old, new = (value.data if value is not None else None for value in (edit.before, edit.after))
    if not (isinstance(old, dict) or isinstance(new, dict)):
        yield edit.name, edit.before, edit.after
        return
    from ropepatch.patch import Value

    olds, news = (value if isinstance(value, dict) else {} for value in (old, new))
    for key in {**olds, **news}:
        before, after = (Value(values[key]) if key in values else None for values in (olds, news))
        if before != after:
            yield f"{edit.name}.{key}", before, after


def _absent(after: Value | None) -> str:
    return "removed" if after is None else ""


def _value(value: Value | None, style: str, absent: str = "-") -> Text:
    return plain(absent, "dim") if value is None else plain(short(value.data, _CELL), style)


_SIGNS = {"PASSED": ("✓", "green"), "WARNED": ("!", "yellow"), "FAILED": ("✗", "red"), "SKIPPED": ("-", "dim")}


def check_table(report: Mapping[str, Any]) -> Table:
    """The checks after writing."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in report["checks"]:
        table.add_row(Text(*_SIGNS[check["result"]]), plain(check["name"]), plain(check["detail"]))
    return table


def method_table(entries: Sequence[Mapping[str, Any]], columns: int) -> Table:
    """The registry, one row a method; with titles where ``columns`` leave room for them."""
    titles = columns >= _WIDE
    table = heading_table()
    table.add_column("method", no_wrap=True, style="bold")
    if titles:
        table.add_column("what it is", ratio=3)
    table.add_column("reach", ratio=4)
    table.add_column("fine-tuning", ratio=3)
    table.add_column("HF", no_wrap=True)
    table.add_column("GGUF", no_wrap=True)
    for entry in entries:
        table.add_row(
            plain(entry["name"]),
            *([plain(entry["title"])] if titles else []),
            plain(entry["reach"]),
            plain(entry["fine_tuning"]),
            *(_how(entry, entry["written"][name]) for name in ("hf", "gguf")),
        )
    return table


def _how(entry: Mapping[str, Any], written: str | None) -> Text:
    return plain(written) if written else plain("no" if entry["applicable"] else "read", "dim")


def method_legend() -> Text:
    """What the words in the last two columns of :func:`method_table` mean."""
    return plain(
        "key: a type or keys of its own · base: a changed rope_theta or rope.freq_base · factors: per-pair factors "
        "(in a GGUF only where the architecture reads them) · read: understood and kept, not applied",
        "dim",
    )


def _given(parameter: Mapping[str, Any]) -> str:
    option = str(parameter["option"] or "")
    return "--set" if option.startswith("--set ") else option.replace(" or ", "/").removesuffix(" FILE")


def explanation(document: Mapping[str, Any]) -> list[Any]:
    """A method at length."""
    written = document["written"]
    rows = [
        ("formula", plain(document["formula"])),
        ("paper", plain(document["paper"])),
        ("reach", plain(document["reach"])),
        ("fine-tuning", plain(document["fine_tuning"])),
        ("HF config", plain(SPELLED["hf"].get(written["hf"], "cannot be written"))),
        ("GGUF", plain(SPELLED["gguf"].get(written["gguf"], "cannot be written"))),
    ]
    shown: list[Any] = [
        Panel(grid(rows), title=plain(f"{document['name']}: {document['title']}", "bold"), title_align="left"),
        plain(document["about"]),
    ]
    if document["parameters"]:
        table = heading_table()
        table.add_column("parameter", no_wrap=True)
        table.add_column("type")
        table.add_column("default", no_wrap=True)
        table.add_column("given with", no_wrap=True)
        for item in document["parameters"]:
            table.add_row(*map(plain, (item["name"], item["type"], default_text(item))), plain(_given(item), "dim"))
        shown += [Text(), table]
    return shown
