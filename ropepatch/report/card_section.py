"""The part of a model card that ropepatch writes: what was patched, who reads it how, what was checked and measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropepatch import runtimes
from ropepatch.bundle import stem_of
from ropepatch.manifest import Manifest
from ropepatch.naming import MANIFEST, MANIFEST_SUFFIX
from ropepatch.patch import Value
from ropepatch.report import tables
from ropepatch.report.markdown import block, code, table, text
from ropepatch.report.text import short, tokens
from ropepatch.runtimes import launch, readings
from ropepatch.runtimes.comparison import Row
from ropepatch.runtimes.launch import Launch
from ropepatch.runtimes.readings import Reading

BEGIN = "<!-- ropepatch:begin -->"
END = "<!-- ropepatch:end -->"
_NOT_MEASURED = "Not measured."
#: edits beyond this many are in the manifest only: one that bakes factors may touch every shard
_EDITS = 24
_VALUE = 40
#: shards beyond this many are named by a pattern
_SHARDS = 4


@dataclass(frozen=True)
class Facts:
    """What the section is made of.

    Attributes:
        record: the manifest.
        repo: where it is published, ``org/name``.
        base: what was patched, ``org/name`` or a file's name.
        base_url: the same as a link; None where it is on no Hub.
        config: the patched ``config.json``, for the readings of engines that go by it.
        verification: the statement that ``ropepatch verify`` wrote.
        audit: what ``ropepatch audit --json`` printed.
        followed: whether the base's own card stands below.
    """

    record: Manifest
    repo: str
    base: str
    base_url: str | None
    config: Mapping[str, Any] | None
    verification: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    followed: bool


def section(facts: Facts) -> str:
    """The whole section between its two markers."""
    parts = (_opening, _patch, _runtimes, _launch, _checks, _audit, _undo)
    lines: list[str] = []
    for part in parts:
        lines += ["", *part(facts)]
    inner = "\n".join(lines).strip()
    # a name that holds a marker must not end the section when it is replaced
    for marker in (BEGIN, END):
        inner = inner.replace(marker, marker.replace("ropepatch:", "ropepatch "))
    return f"{BEGIN}\n{inner}\n{END}\n"


def _opening(facts: Facts) -> list[str]:
    patch = facts.record.patch
    name = f"[{text(facts.base)}]({facts.base_url})" if facts.base_url else code(facts.base)
    factor = f" {patch.factor:g}x" if patch.factor else ""
    old, new = patch.before.declared_context, patch.after.declared_context
    contexts = f"from {tokens(old)} to {tokens(new)} tokens" if old != new else f"for {tokens(new)} tokens"
    follows = " The base's own card follows below." if facts.followed else ""
    return [
        f"# {text(facts.repo.rsplit('/', 1)[-1])}",
        "",
        (
            f"{name} with its rotary position embedding set by the method {code(patch.method + factor)} {contexts}, "
            f"written by ropepatch. The weights are those of the base; no training took place.{follows}"
        ),
    ]


def _patch(facts: Facts) -> list[str]:
    patch = facts.record.patch
    rows = [
        ["method", code(patch.method + (f" {patch.factor:g}x" if patch.factor else ""))],
        ["trained on", f"{tokens(patch.after.trained_context)} tokens"],
        ["declared before", f"{tokens(patch.before.declared_context)} tokens"],
        ["declared now", f"{tokens(patch.after.declared_context)} tokens"],
    ]
    members = [(edit.file, *member) for edit in patch.edits for member in tables.members(edit)]
    edits = [[code(name), _value(old), _value(new), code(file)] for file, name, old, new in members[:_EDITS]]
    more = len(members) - len(edits)
    return [
        "## The patch",
        "",
        *table(("", ""), rows),
        "",
        *(
            table(("key", "before", "after", "file"), edits)
            if edits
            else ["The base said so already: nothing changed."]
        ),
        *(["", f"and {more} more, listed in the manifest {code(_manifest_name(facts))}."] if more else []),
    ]


def _value(value: Value | None) -> str:
    if value is None:
        return "-"
    return code(short(value.data, _VALUE)) if value.shape is None else f"{value.type or ''} {list(value.shape)}".strip()


def _manifest_name(facts: Facts) -> str:
    """The manifest's name as it stands beside the output."""
    if facts.record.patch.after.source.format != "gguf":
        return MANIFEST
    return stem_of(next(iter(facts.record.subjects), "model.gguf")) + MANIFEST_SUFFIX


def _runtimes(facts: Facts) -> list[str]:
    heading = ["## How engines read it", ""]
    profile = facts.record.patch.after
    if not runtimes.predicted(profile, facts.config):
        return [
            *heading,
            "Not computed: what engines make of these files is predicted from config.json or a GGUF file.",
        ]
    found = readings.readings(profile, facts.config, facts.repo)
    rows = [[text(name), text(", ".join(spans)), said] for name, spans, said in _by_outcome(found.readings)]
    at = f" and at {tokens(found.lengths[-1])} tokens" if found.lengths[-1] else ""
    return [
        *heading,
        (
            f"Frequencies and attention scale in short contexts{at}, computed from each engine's own rules and "
            f"compared with {text(found.reference)}. None of them was run for this table."
        ),
        "",
        *table(("engine", "releases", "reads it"), rows),
    ]


def _by_outcome(found: Sequence[Reading]) -> list[tuple[str, list[str], str]]:
    """Neighbouring releases of an engine that come to the same, in one row."""
    rows: list[tuple[str, list[str], str]] = []
    for reading in found:
        said = _outcome(reading)
        if rows and rows[-1][0] == reading.runtime and rows[-1][2] == said:
            rows[-1][1].append(reading.releases)
        else:
            rows.append((reading.runtime, [reading.releases], said))
    return rows


def _outcome(reading: Reading) -> str:
    if reading.same:
        return "the same"
    if reading.refusal is not None:
        return f"refuses: {text(reading.refusal.removeprefix(f'{reading.runtime} {reading.version} '))}"
    notes = list(dict.fromkeys(note for row in reading.rows.values() for note in row.notes))
    words = "; ".join(dict.fromkeys(_difference(row) for row in reading.rows.values() if row.status != "same"))
    return f"**otherwise**: {words}" + (f" ({text('; '.join(notes))})" if notes else "")


def _difference(row: Row) -> str:
    from ropepatch.report.runtime_tables import cell_words

    return "; ".join(dict.fromkeys(text(cell_words(cell)) for cell in row.cells.values() if not cell.same))


def _launch(facts: Facts) -> list[str]:
    profile = facts.record.patch.after
    gguf = profile.source.format == "gguf"
    heading = ["## Run it", ""]
    if not runtimes.predicted(profile, facts.config):
        return [*heading, f"See {code('ropepatch inspect --launch')}."]
    lines = list(heading)
    if "/" in facts.repo:
        lines += [*block([_download(facts, gguf)], "sh"), ""]
    local = next(iter(facts.record.subjects), "model.gguf") if gguf else facts.repo.rsplit("/", 1)[-1]
    found = [line for line in launch.lines(local if gguf else facts.repo, profile, facts.config) if line.text]
    here = {line.runtime: line for line in launch.lines(local, profile, facts.config)}
    for line in found:
        lines += [*_line(here[line.runtime] if runtimes.get(line.runtime).from_folder else line), ""]
    return lines[:-1] if found else [*heading, "No engine that is known here runs it; see the table above."]


def _download(facts: Facts, gguf: bool) -> str:
    """Ollama's and llama.cpp's files, and the folder that exllama starts from."""
    names = list(facts.record.subjects) if gguf else []
    if len(names) > _SHARDS:
        names = ["--include", f"{stem_of(names[0])}-*.gguf"]
    folder = "." if gguf else facts.repo.rsplit("/", 1)[-1]
    return shlex.join(["hf", "download", facts.repo, *names, "--local-dir", folder])


def _line(line: Launch) -> list[str]:
    avoid = [f"* not: {text(option)}" for option in line.avoid] + [f"* note: {text(note)}" for note in line.notes]
    language = "python" if "import " in line.text else "sh" if "\n" not in line.text else ""
    return [f"{text(line.runtime)}:", "", *block(line.text.splitlines(), language), *(["", *avoid] if avoid else [])]


def _checks(facts: Facts) -> list[str]:
    lines = ["## Checked", ""]
    report = facts.record.verification
    if report is None:
        lines.append("When it was written: not verified.")
    else:
        rows = [[text(c.get("name")), text(c.get("result")), text(c.get("detail"))] for c in _entries(report, "checks")]
        lines += ["When it was written:", "", *table(("check", "result", "found"), rows)]
    predicate = _mapping(facts.verification, "predicate")
    if not predicate:
        return [*lines, "", f"Forward pass: {_NOT_MEASURED.lower()}"]
    checks = _entries(predicate, "ropepatch_checks")
    rows = [[text(c.get("name")), text(c.get("result")), text(c.get("detail"))] for c in checks]
    where = _mapping(predicate, "ropepatch_environment")
    ran = ", ".join(f"{name} {version}" for name, version in _mapping(where, "engines").items())
    said = f"By {code('ropepatch verify')} ({text(where.get('device'))}, {text(where.get('dtype'))}, {text(ran)}): "
    return [*lines, "", f"{said}{text(predicate.get('result'))}", "", *table(("check", "result", "found"), rows)]


def _audit(facts: Facts) -> list[str]:
    heading = ["## What it still finds", ""]
    summaries = _entries(facts.audit or {}, "summaries")
    if not summaries:
        return [*heading, f"{_NOT_MEASURED} {code('ropepatch audit')} measures retrieval by length and depth."]
    assert facts.audit is not None
    lengths = [length for length in facts.audit.get("lengths", ()) if isinstance(length, int)]
    rows = []
    for found in summaries:
        scores = _mapping(found, "scores")
        shares = [_share(scores.get(str(length))) for length in lengths]
        rows.append([text(found.get("task")), text(_variant(found.get("variant"))), *shares])
    return [
        *heading,
        (
            f"Right answers by length in tokens, over {len(facts.audit.get('depths', ()))} depths with "
            f"{text(facts.audit.get('samples'))} texts each, by {code('ropepatch audit')}:"
        ),
        "",
        *table(("task", "model", *map(tokens, lengths)), rows),
        "",
        text(facts.audit.get("caveat") or ""),
    ]


def _variant(name: object) -> str:
    return {"none": "unpatched", "as it is": "this model"}.get(str(name), str(name))


def _share(score: object) -> str:
    return f"{score:.0%}" if isinstance(score, (int, float)) else "not measured"


def _undo(facts: Facts) -> list[str]:
    record = facts.record
    manifest = code(_manifest_name(facts))
    heading = ["## Undo and check it", ""]
    if record.overlay:
        return [*heading, "This is an overlay: its input is as it was. To undo it, delete the two files."]
    name = next(iter(record.splices), next(iter(record.subjects), "OUT"))
    target = name if record.patch.after.source.format == "gguf" else facts.repo.rsplit("/", 1)[-1]
    return [
        *heading,
        (
            f"The manifest {manifest} holds every byte that was exchanged. With it beside the files, the first line "
            "restores the base's files byte for byte, the second checks that these are the files it speaks of:"
        ),
        "",
        *block([f"ropepatch revert {shlex.quote(target)}", f"ropepatch manifest verify {shlex.quote(target)}"], "sh"),
    ]


def _entries(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = document.get(key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _mapping(document: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    found = document.get(key) if document else None
    return found if isinstance(found, Mapping) else {}
