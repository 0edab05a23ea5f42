"""Model cards: the base's own, with what the patch is, how it is run and what was measured in front of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropepatch import _callable, bundle, located, naming
from ropepatch.audit.result import SCHEMA as AUDIT_SCHEMA
from ropepatch.containers import front_matter, json_text
from ropepatch.errors import InputError
from ropepatch.hub import refs
from ropepatch.manifest import Manifest
from ropepatch.report import card_section
from ropepatch.storage import files
from ropepatch.storage.remote import bring

CARD = "README.md"
MAX_SIZE = 8 << 20
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_OWN = re.compile(rf"{re.escape(card_section.BEGIN)}\n?.*?{re.escape(card_section.END)}\n*", re.DOTALL)
#: results and pointers that were the base's own and do not hold for a patched model
_DROPPED = ("model-index", "new_version")


def model_card(
    base_card: str | None,
    manifest: Mapping[str, Any],
    *,
    base_ref: str | None,
    repo: str,
    config: Mapping[str, Any] | None = None,
    verification: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
) -> str:
    """The card of a patched model; nothing is read or written.

    The base card's body and every line of its front matter stay, except for ``base_model``, ``base_model_relation`` and
    ``tags``, which are set, and for ``model-index`` and ``new_version``, which are not this model's. A section that an
    earlier run wrote is replaced.

    Args:
        base_card: the base's README.md, or the card that an earlier run made; None where there is none.
        manifest: the manifest as JSON.
        base_ref: what was patched: ``org/name``, ``hf://org/name@revision/file``, or None where it is on no Hub.
        repo: where it is published, ``org/name``; a plain name where it is not.
        config: the patched ``config.json``, for an output that has one: the table of engines needs it.
        verification: the statement of ``ropepatch verify``.
        audit: the document of ``ropepatch audit --json``.

    Raises:
        InputError: the manifest is not whole.
    """
    record = Manifest(manifest)
    record.check("manifest")
    base = repo_of(base_ref)
    name = base or str(manifest["predicate"]["buildDefinition"]["externalParameters"]["source"])
    matter, body = front_matter.split(base_card or "", _DROPPED)
    before, after = _around(body)
    facts = card_section.Facts(
        record=record,
        repo=repo,
        base=name,
        base_url=f"https://huggingface.co/{base}" if base else None,
        config=config,
        verification=verification,
        audit=audit,
        followed=bool(after.strip()),
    )
    matter = front_matter.edited(matter, _metadata(matter, record, base), removed=_DROPPED)
    parts = (before, card_section.section(facts), after)
    return front_matter.joined(matter, "\n".join(part.strip("\n") + "\n" for part in parts if part.strip()))


def repo_of(ref: str | None) -> str | None:
    """``org/name`` of a ref on the Hub; None for anything else."""
    if ref is None:
        return None
    path = "/".join(ref.removeprefix("hf://").split("/")[:2]).partition("@")[0]
    return path if _REPO.fullmatch(path) else None


def _metadata(matter: str, record: Manifest, base: str | None) -> dict[str, Any]:
    """``base_model``, ``base_model_relation`` and ``tags``.

    A GGUF made from a repository that names the unquantised model stays that model's quantisation; everything else is
    the base's child. The Hub has no word for a patch; ``finetune`` is the nearest.
    """
    patch = record.patch
    found: dict[str, Any] = {}
    above = front_matter.texts(matter, "base_model")
    if patch.after.source.format == "gguf" and above:
        found = {"base_model": above[0] if len(above) == 1 else above, "base_model_relation": "quantized"}
    elif base:
        found = {"base_model": base, "base_model_relation": "finetune"}
    methods = [part for part in patch.method.split("+") if part != "none"]
    longer = (patch.after.declared_context or 0) > (patch.before.declared_context or 0)
    own = ["ropepatch", *(["long-context"] if longer else []), *methods]
    return {**found, "tags": list(dict.fromkeys([*front_matter.texts(matter, "tags"), *own]))}


def _around(body: str) -> tuple[str, str]:
    """What stands before and after the section of an earlier run; markers that have lost their other half go."""
    place = _OWN.search(body)
    before = body[: place.start()] if place else ""
    after = _OWN.sub("", body[place.end() :] if place else body)
    for marker in (card_section.BEGIN, card_section.END):
        before, after = before.replace(marker, ""), after.replace(marker, "")
    return before, after


def card(
    ref: str | Path,
    *,
    base_card: str | Path | None = None,
    base_ref: str | None = None,
    repo: str | None = None,
    audit: str | Path | None = None,
) -> str:
    """The model card of an output, from the manifest and the evidence beside it; nothing is written.

    Args:
        ref: the patched file (any shard of it) or folder.
        base_card: the base's README.md; default the one in the output's folder.
        base_ref: what was patched, on the Hub.
        repo: where it shall be published; default the output's name.
        audit: what ``ropepatch audit --json`` printed; default ``ropepatch-audit.json`` beside the manifest.

    Raises:
        InputError: there is no manifest, or a file cannot be read.
    """
    there = located.find(ref)
    found = there.files
    if repo is None and refs.is_remote(there.ref):
        repo = refs.parse(there.ref).repo
    return of_output(
        found,
        there.record,
        _text(Path(base_card)) if base_card else None,
        base_ref=base_ref,
        repo=repo or (found.stem if found.kind == "folder" else found.anchor.name.removesuffix(".gguf")),
        audit=_audit(Path(audit)) if audit else None,
    )


def of_output(
    found: bundle.Bundle,
    record: Manifest,
    base_card: str | None,
    *,
    base_ref: str | None,
    repo: str,
    audit: Mapping[str, Any] | None = None,
) -> str:
    """The model card of an opened output: see :func:`card`; ``base_card`` is a text here."""
    return model_card(
        base_card if base_card is not None else _beside(found),
        record.document,
        base_ref=base_ref,
        repo=repo,
        config=_document(bring(found.path("config.json"))) if found.kind == "folder" else None,
        verification=_document(_evidence(found, naming.EVIDENCE, naming.EVIDENCE_SUFFIX)),
        audit=audit or _document(_evidence(found, naming.AUDIT, naming.AUDIT_SUFFIX)),
    )


def is_own(path: Path) -> bool:
    """Whether a card was made here before, so that another run brings it up to date."""
    return card_section.BEGIN in _text(path)


def write(path: Path, text: str, *, base: Path) -> None:
    """Write a card over the one that it was made from or that was made here before, and over nothing else.

    Raises:
        WouldOverwrite: another file is there.
    """
    known = path.is_file() and (is_own(path) or (base.is_file() and path.samefile(base)))
    files.write_bytes(path, text.encode(), overwrite=known)


def _beside(found: bundle.Bundle) -> str | None:
    path = bring(found.path(CARD)) if found.kind == "folder" else None
    return _text(path) if path is not None and path.is_file() else None


def _evidence(found: bundle.Bundle, folder_name: str, suffix: str) -> Path:
    return bring(found.root / (folder_name if found.kind == "folder" else found.stem + suffix))


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_SIZE:
        raise InputError(f"is too large for a model card (limit {MAX_SIZE} bytes)", where=str(path))
    return path.read_text(encoding="utf-8", errors="replace")


def _document(path: Path) -> dict[str, Any] | None:
    return json_text.read(path)[1] if path.is_file() else None


def _audit(path: Path) -> dict[str, Any]:
    document = json_text.read(path)[1]
    if document.get("schema") != AUDIT_SCHEMA:
        raise InputError("is no audit", where=str(path), hint="give what ropepatch audit --json printed")
    return document


_callable.make_callable(__name__, "ropepatch.card:card")
