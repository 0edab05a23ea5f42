"""What a publication consists of: each file is sent, copied on the server, or there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropepatch import bundle, located, manifest, naming
from ropepatch.bundle import Bundle
from ropepatch.errors import HubError, UsageError
from ropepatch.hub import client, mirror, refs
from ropepatch.hub.client import HubFile, Snapshot
from ropepatch.hub.refs import HubRef
from ropepatch.manifest import Manifest
from ropepatch.storage import files, ranges

CARD = "README.md"
#: what every repository has of its own
_OWN = (CARD, ".gitattributes")
#: statements beside an output that are published with it, in a folder and behind a file's stem
_EVIDENCE = (naming.EVIDENCE, naming.AUDIT, naming.SIGNATURE)
_BESIDE = (naming.EVIDENCE_SUFFIX, naming.AUDIT_SUFFIX, naming.SIGNATURE_SUFFIX)
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Item:
    """One file of a publication.

    Attributes:
        path: its name in the repository.
        action: ``upload``, ``copy`` (on the server) or ``keep`` (it is there already).
        size: its length in bytes.
        source: the bytes or file that are sent; None otherwise.
        origin: where it is copied from; None otherwise.
    """

    path: str
    action: str
    size: int
    source: bytes | Path | None = None
    origin: str | None = None

    def to_json(self) -> dict[str, Any]:
        """``{"path", "action", "size", "origin"?}``."""
        origin = {"origin": self.origin} if self.origin else {}
        return {"path": self.path, "action": self.action, "size": self.size, **origin}


@dataclass
class Plan:
    """What is known before anything is written.

    Attributes:
        output: what is published.
        record: its manifest.
        base: what was patched, where that is on the Hub.
        target: where it goes.
        own: the target is the base's repository.
        source: the base at the commit that was patched.
        there: what the target holds, or the commit at which its branch will begin; None where it holds nothing.
        exists: there is such a repository.
        begun: it has the revision too.
        config_only: the base's weights stay where they are.
        notes: what a person should know.
    """

    output: Bundle
    record: Manifest
    base: HubRef | None
    target: HubRef
    own: bool
    source: Snapshot | None
    there: Snapshot | None
    exists: bool
    begun: bool
    config_only: bool
    notes: list[str] = field(default_factory=list)

    @property
    def below(self) -> str:
        """The base's folder within its repository, with a slash; empty at the top."""
        if self.base is None or self.base.file is None or self.output.kind != "folder":
            return ""
        return f"{self.base.file}/"


def plan_of(output: Path, to: str | None, branch: str | None, pr: bool, config_only: bool) -> Plan:
    if not output.exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(output)
    found = bundle.bundle_of(located.described(output))
    record = manifest.read(found.manifest)
    base = base_of(record)
    repo = target_of(base, to, branch, pr)
    own = base is not None and base.repo == repo
    if client.offline():
        raise HubError("HF_HUB_OFFLINE forbids to ask the Hub", where=repo, hint="unset it to publish")
    source = mirror.look(base) if base is not None else None
    target = HubRef(repo, branch)
    there = client.found(target)
    exists = there is not None or (branch is not None and client.found(HubRef(repo)) is not None)
    begun = there is not None
    if pr and there is None:
        raise HubError("there is no such repository to open a pull request on", where=str(target))
    if own and there is None:
        there = source  # the branch begins at the commit that was patched
    if own and pr and there is not None and source is not None and there.commit != source.commit:
        raise HubError(
            f"has moved on since {source.commit[:12]} was patched: main is at {there.commit[:12]}",
            where=str(target),
            hint="patch the new commit, or use --branch",
        )
    return Plan(found, record, base, target, own, source, there, exists, begun, config_only)


def target_of(base: HubRef | None, to: str | None, branch: str | None, pr: bool) -> str:
    """The repository that is meant.

    Raises:
        UsageError: none, or the base's main branch, or options that exclude each other.
    """
    if branch and pr:
        raise UsageError("--branch and --pr exclude each other")
    repo = refs.repo_name(to) if to else base.repo if base and (branch or pr) else None
    if repo is None:
        raise UsageError("push needs --to org/name", hint="or --branch or --pr, for an output whose base is on the Hub")
    if base is not None and base.repo == repo and not (branch or pr):
        raise UsageError(
            f"{repo} is the base itself; its main branch would be changed under everybody who uses it",
            hint="--branch NAME commits beside it, --pr proposes it",
        )
    return repo


def base_of(record: Manifest) -> HubRef | None:
    """What was patched, where that is on the Hub: pinned to its commit."""
    ref = str(record.document["predicate"]["buildDefinition"]["externalParameters"]["ref"])
    if not ref.startswith(refs.SCHEME):
        return None
    found = refs.parse(ref)
    return found if found.revision else None


def title(record: Manifest) -> str:
    outer = record.document["predicate"]["buildDefinition"]["externalParameters"]
    factor = f" {outer['factor']:g}x" if outer["factor"] else ""
    context = f", {outer['declared_context']} tokens" if outer["declared_context"] else ""
    return f"{outer['method']}{factor}{context} (ropepatch)"


def items_of(plan: Plan, progress: Progress | None) -> list[Item]:
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
