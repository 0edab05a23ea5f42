"""The files of a publication: each is sent, copied on the server, or there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropepatch import naming
from ropepatch.bundle import Progress
from ropepatch.hub import client
from ropepatch.hub.client import HubFile, Snapshot
from ropepatch.hub.publication import Item, Plan
from ropepatch.manifest import Manifest
from ropepatch.storage import files, ranges

CARD = "README.md"
#: what every repository has of its own
_OWN = (CARD, ".gitattributes")
#: statements beside an output that are published with it, in a folder and behind a file's stem
_EVIDENCE = (naming.EVIDENCE, naming.AUDIT, naming.SIGNATURE)
_BESIDE = (naming.EVIDENCE_SUFFIX, naming.AUDIT_SUFFIX, naming.SIGNATURE_SUFFIX)


def items_of(plan: Plan, progress: Progress | None) -> list[Item]:
    """Every file of the publication, those that are sent first."""
    names = [name for name in plan.output.names if name not in _OWN and plan.output.path(name).exists()]
    items = [_local(plan, name, progress) for name in names]
    if plan.output.kind == "folder" and plan.source is not None and not plan.own:
        items += _absent(plan, set(names))
    items += [_bytes(plan, name, data) for name, data in _statements(plan, _from_base(plan, items))]
    if not plan.own:
        items.append(_bytes(plan, CARD, _card(plan).encode()))
    return sorted(items, key=lambda item: (item.action != "upload", item.path))


def _local(plan: Plan, name: str, progress: Progress | None) -> Item:
    """A file of the output: it is in the target already, or in the base, or has to be sent."""
    path = plan.output.path(name)
    size = path.stat().st_size
    place = f"{plan.below}{name}" if plan.own else name
    if plan.there is not None and _is(path, plan.there.files.get(place), plan.there, place, progress):
        return Item(place, "keep", size)
    source = plan.source
    recorded = source.files.get(plan.below + name) if source is not None else None
    if (
        source is not None
        and recorded is not None
        and recorded.sha256
        and not plan.own
        and name not in plan.record.splices
    ) and _is(path, recorded, source, plan.below + name, progress):
        return _copy(plan, plan.below + name, name, recorded)
    return Item(place, "upload", size, path)


def _is(path: Path, recorded: HubFile | None, snapshot: Snapshot, name: str, progress: Progress | None) -> bool:
    """Whether a local file has the bytes that the Hub records."""
    if recorded is None or path.stat().st_size != recorded.size:
        return False
    known = client.cached(snapshot.ref, name)
    if known is not None and path.samefile(known):
        return True
    if recorded.sha256:
        ranges.expect(progress, recorded.size)
        return files.sha256(path, progress=progress) == recorded.sha256
    return recorded.oid == git_blob(path.read_bytes())


def git_blob(data: bytes) -> str:
    """git's name for a file, by which the Hub knows small ones."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _from_base(plan: Plan, items: Sequence[Item]) -> dict[str, HubFile]:
    """The files that are the base's byte for byte, by their name in the output."""
    if plan.source is None:
        return {}
    found = {}
    for item in items:
        short = item.path.removeprefix(plan.below) if plan.own else item.path
        recorded = plan.source.files.get(plan.below + short)
        if item.action != "upload" and recorded is not None and recorded.size == item.size:
            found[short] = recorded
    return found


def _absent(plan: Plan, present: set[str]) -> list[Item]:
    """Files of the base that the output was written without."""
    assert plan.source is not None
    items = []
    for name, recorded in plan.source.files.items():
        short = name.removeprefix(plan.below)
        if not name.startswith(plan.below) or short in present or name in _OWN or short == naming.MANIFEST:
            continue
        if plan.config_only and (recorded.sha256 or short.endswith(".index.json")):
            continue
        there = plan.there.files.get(short) if plan.there is not None else None
        same = there is not None and (there.sha256, there.oid) == (recorded.sha256, recorded.oid)
        items.append(Item(short, "keep", recorded.size) if same else _copy(plan, name, short, recorded))
    if plan.config_only:
        plan.notes.append("the weights stay with the base; the card says where they are")
    return items


def _copy(plan: Plan, name: str, short: str, recorded: HubFile) -> Item:
    assert plan.source is not None
    return Item(short, "copy", recorded.size, origin=str(plan.source.ref.within(name)))


def _bytes(plan: Plan, name: str, data: bytes) -> Item:
    there = plan.there.files.get(name) if plan.there is not None else None
    same = there is not None and there.oid == git_blob(data)
    return Item(name, "keep" if same else "upload", len(data), None if same else data)


def _statements(plan: Plan, kept: Mapping[str, HubFile]) -> Iterator[tuple[str, bytes]]:
    """The manifest, with what the Hub copies; and the evidence beside it."""
    folder = plan.output.kind == "folder"
    names = _EVIDENCE if folder else tuple(plan.output.stem + suffix for suffix in _BESIDE)
    found = [name for name in names if plan.output.path(name).is_file()]
    signed = any(name.endswith(naming.SIGNATURE) for name in found)
    record = plan.record if signed or not kept else _with_base(plan, kept)
    prefix = plan.below if plan.own else ""
    yield prefix + plan.output.manifest.name, record.to_text().encode()
    for name in found:
        yield prefix + name, plan.output.path(name).read_bytes()


def _with_base(plan: Plan, kept: Mapping[str, HubFile]) -> Manifest:
    """The manifest with the files that are the base's: in and out are one, by the Hub's own records."""
    assert plan.source is not None
    document = json.loads(json.dumps(plan.record.document))
    dependencies = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    for entries, is_input in ((document["subject"], False), (dependencies, True)):
        known = {entry["name"]: entry for entry in entries}
        for name, recorded in kept.items():
            entry = known.setdefault(name, {"name": name, "digest": {}})
            entry["digest"] = entry["digest"] or recorded.digest
            if is_input:
                entry["uri"] = str(plan.source.ref.within(plan.below + name))
        entries[:] = [known[name] for name in sorted(known)]
    return Manifest(document)


def _card(plan: Plan) -> str:
    from ropepatch.card import MAX_SIZE, of_output

    own = plan.output.kind == "folder" and plan.output.path(CARD).is_file()
    text = None
    if not own and plan.source is not None and CARD in plan.source.files:
        text = client.read(plan.source, CARD, MAX_SIZE).decode("utf-8", "replace")
    return of_output(plan.output, plan.record, text, base_ref=str(plan.base or "") or None, repo=plan.target.repo)


def unchanged(plan: Plan, items: Sequence[Item]) -> bool:
    """Whether nothing but the time of the run would change: then the manifest that is there stays."""
    name = next(item.path for item in items if item.path.endswith(plan.output.manifest.name))
    left = {item.path for item in items if item.action != "keep"}
    assert plan.there is not None
    if not left:
        return True
    if left - {name, CARD} or name not in plan.there.files or plan.there.files[name].size > 32 << 20:
        return False
    try:
        old = json.loads(client.read(plan.there, name, 32 << 20))
        new = next(item.source for item in items if item.path == name)
        same = isinstance(new, bytes) and _timeless(old) == _timeless(json.loads(new))
    except (ValueError, KeyError, TypeError):
        return False
    return name not in left or same


def _timeless(document: Mapping[str, Any]) -> dict[str, Any]:
    predicate = {key: value for key, value in document["predicate"].items() if key != "runDetails"}
    return {**document, "predicate": predicate}
