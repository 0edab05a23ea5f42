"""Publishing an output: small files are sent, weights that the base has on the Hub are copied there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.bundle import Progress
from ropepatch.errors import UsageError
from ropepatch.hub import chunks, client, contents, problems, publication, refs
from ropepatch.hub.publication import Item, Plan
from ropepatch.hub.refs import HubRef

if TYPE_CHECKING:
    from ropepatch.patch import Patch

SCHEMA = "ropepatch.push/1"


@dataclass(frozen=True)
class Publication:
    """What was published, or with ``dry_run`` would be.

    Attributes:
        repo: ``org/name``.
        revision: the branch; None for main and for a pull request.
        created: whether the repository is new.
        commit: the commit made, or the one that has everything already; None with ``dry_run``.
        parent: the commit that it follows; None where the repository is new and ``dry_run`` is on.
        pull_request: its address.
        url: where it is to be seen.
        files: every file, with what became of it.
        dry_run: nothing was written.
        notes: what a person should know.
        chunk_bytes: how many bytes went out for large patched files, of which the Hub has most chunks; None where no
            file was sent so.
    """

    repo: str
    revision: str | None
    created: bool
    commit: str | None
    parent: str | None
    pull_request: str | None
    url: str
    files: tuple[Item, ...]
    dry_run: bool
    notes: tuple[str, ...] = ()
    chunk_bytes: int | None = None

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return any(item.action != "keep" for item in self.files)

    def total(self, action: str) -> int:
        """Bytes of the files with one action."""
        return sum(item.size for item in self.files if item.action == action)

    def to_json(self) -> dict[str, Any]:
        """The document that ``schemas/push.schema.json`` describes."""
        names = ("repo", "revision", "created", "changed", "commit", "parent", "pull_request", "url", "dry_run")
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in names},
            "files": [item.to_json() for item in self.files],
            "notes": list(self.notes),
            "chunk_bytes": self.chunk_bytes,
        }


def push(
    output: str | Path,
    to: str | None = None,
    *,
    private: bool = False,
    branch: str | None = None,
    pr: bool = False,
    config_only: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Publication:
    """Publish an output with its manifest and model card, as one commit.

    Files that the base has on the Hub are copied there, pinned to the commit that was patched; they are neither
    downloaded nor sent. On the base's own repository (``branch`` or ``pr``) they stay where they are.

    Args:
        output: the patched file (any shard of it) or folder.
        to: ``org/name``; with ``branch`` or ``pr`` default the base's repository.
        private: a new repository is visible to its owner alone.
        branch: commit to this branch, which is made from the patched commit where it is not there.
        pr: open a pull request instead of committing.
        config_only: without the base's weights: what a gated base may require.
        message: the commit's first line.
        dry_run: only look.
        progress: called with the number of bytes just hashed.

    Raises:
        InputError: there is no output, or no manifest beside it.
        UsageError: no target, or options that exclude each other.
        HubError: the Hub refuses, or the repository moved on meanwhile; nothing was published.
    """
    refs.refuse(output, "push")
    if private and (branch or pr):
        raise UsageError("--private goes with a new repository, not with --branch or --pr")
    plan = publication.plan_of(Path(output), to, branch, pr, config_only)
    items = contents.items_of(plan, progress)
    if plan.there is not None and contents.unchanged(plan, items):
        items = [Item(item.path, "keep", item.size) for item in items]
    return _Publishing(
        plan, items, private, branch, pr, message or publication.title(plan.record), dry_run, progress
    ).run()


@dataclass
class _Publishing:
    plan: Plan
    items: Sequence[Item]
    private: bool
    branch: str | None
    pr: bool
    message: str
    dry_run: bool
    progress: Progress | None

    def run(self) -> Publication:
        plan, there = self.plan, self.plan.there
        if self.dry_run or not any(item.action != "keep" for item in self.items):
            head = there.commit if there else None
            return self._result(not plan.exists, None if self.dry_run else head, head, None)
        with problems.translated(plan.target, publishing=True), self._undone_on_error() as undo:
            if not plan.exists:
                client.api().create_repo(plan.target.repo, private=self.private or None)
                undo.append(self._delete_repo)
            head = self._head(undo)
            operations = {item.path: self._operation(item) for item in self.items if item.action != "keep"}
            sent = chunks.send_patched(plan, self.items, operations, self.branch, pr=self.pr, progress=self.progress)
            done = client.api().create_commit(
                plan.target.repo,
                list(operations.values()),
                commit_message=self.message,
                revision=self.branch,
                create_pr=self.pr,
                parent_commit=head,
            )
            undo.clear()
        return self._result(not plan.exists, str(done.oid), head, getattr(done, "pr_url", None), sent)

    def _head(self, undo: list[Callable[[], None]]) -> str:
        """The commit that the new one has to follow; the branch is made where it is not there."""
        plan = self.plan
        if self.branch and not plan.begun:
            start = plan.source.commit if plan.own and plan.source else client.look(HubRef(plan.target.repo)).commit
            client.api().create_branch(plan.target.repo, branch=self.branch, revision=start)
            undo.append(lambda: client.api().delete_branch(plan.target.repo, branch=self.branch))
            return start
        return plan.there.commit if plan.there is not None else client.look(plan.target).commit

    def _delete_repo(self) -> None:
        """Remove the repository that was made a moment ago, unless somebody has put something into it."""
        now = client.look(HubRef(self.plan.target.repo))
        if set(now.files) <= {".gitattributes"}:
            client.api().delete_repo(self.plan.target.repo)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[list[Callable[[], None]]]:
        steps: list[Callable[[], None]] = []
        try:
            yield steps
        except BaseException:
            for step in reversed(steps):
                with contextlib.suppress(Exception):
                    step()
            raise

    def _operation(self, item: Item) -> Any:
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy

        if item.origin is None:
            source = str(item.source) if isinstance(item.source, Path) else item.source
            assert source is not None
            return CommitOperationAdd(path_in_repo=item.path, path_or_fileobj=source)
        origin = refs.parse(item.origin)
        return CommitOperationCopy(
            src_path_in_repo=origin.file or "",
            path_in_repo=item.path,
            src_revision=origin.revision,
            src_repo_id=origin.repo,
            src_repo_type="model",
        )

    def _result(
        self, created: bool, commit: str | None, parent: str | None, pull: str | None, sent: int | None = None
    ) -> Publication:
        repo = self.plan.target.repo
        url = f"{problems.endpoint()}/{repo}" + (f"/tree/{self.branch}" if self.branch else "")
        return Publication(
            repo, self.branch, created, commit, parent, pull, pull or url, tuple(self.items), self.dry_run,
            tuple(self.plan.notes), sent,
        )  # fmt: skip


def publish(
    patch: Patch,
    to: str | None = None,
    *,
    output: str | Path | None = None,
    weights: str = "link",
    digest: str | None = None,
    verify: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Publication:
    """Write a patch and publish it in one go; the output stays only where it is given a name.

    For a folder on the Hub the weights are neither downloaded nor sent. A GGUF is downloaded, since its new digest
    needs all of its bytes, and sent as the chunks that are new.

    Args:
        patch: what to publish.
        to: as for :func:`push`, which takes ``options`` too.
        output: where the output shall stay.
        weights: as for :func:`ropepatch.output.write`, with ``output``.
        digest: likewise.
        verify: check the output before it is published.
        progress: called with the number of bytes just moved or hashed.

    Raises:
        HubError, InputError, UsageError: as :func:`push` and :func:`ropepatch.output.write`.
    """
    remote = refs.is_remote(patch.ref)
    base = refs.parse(patch.ref) if remote else None
    publication.target_of(base, to, options.get("branch"), options.get("pr", False))
    from ropepatch import output as writer

    name = output if output is not None else writer.default_output(patch).name
    with contextlib.ExitStack() as stack:
        if output is None:
            folder = tempfile.mkdtemp(prefix="ropepatch-", dir=_room(patch))
            name = Path(folder) / name
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            weights = "none" if remote and patch.before.source.format == "hf" else "link"
        patch.write(name, weights=weights, digest=digest, verify=verify, progress=progress)
        return push(_written(patch, name), to, progress=progress, **options)


def _room(patch: Patch) -> Path | None:
    """Where a passing output is written: for large files the disk that they are on already."""
    if patch.before.source.format == "hf" and refs.is_remote(patch.ref):
        return None
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) if refs.is_remote(patch.ref) else Path(patch.ref).absolute().parent
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


def _written(patch: Patch, name: str | Path) -> Path:
    """The output that a name stands for: of a split GGUF the first shard, in a folder the file."""
    from ropepatch import output as writer

    return writer.target_of(patch, writer.source_of(patch, "none"), name).anchor
