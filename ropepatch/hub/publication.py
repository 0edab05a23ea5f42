"""What a publication is: an output, its base, where it goes, and what is there before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropepatch import bundle, located, manifest
from ropepatch.bundle import Bundle
from ropepatch.errors import HubError, UsageError
from ropepatch.hub import client, mirror, refs
from ropepatch.hub.client import Snapshot
from ropepatch.hub.refs import HubRef
from ropepatch.manifest import Manifest


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
    """What can be known of publishing ``output``; the Hub is asked and nothing is changed.

    Raises:
        InputError: there is no output, or no manifest beside it.
        UsageError: no repository is meant, or one that it may not go to.
        HubError: the Hub is not asked, or has no place for a pull request.
    """
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
    """What the commit is called."""
    outer = record.document["predicate"]["buildDefinition"]["externalParameters"]
    factor = f" {outer['factor']:g}x" if outer["factor"] else ""
    context = f", {outer['declared_context']} tokens" if outer["declared_context"] else ""
    return f"{outer['method']}{factor}{context} (ropepatch)"
