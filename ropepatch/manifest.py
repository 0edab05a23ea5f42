"""The manifest: where an output came from, what changed, and how to undo it.

An in-toto Statement v1 whose predicate is SLSA provenance v1. Fields of our own carry the prefix ``ropepatch_``.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropepatch._version import __version__
from ropepatch._versions import installed
from ropepatch.containers import json_text
from ropepatch.errors import InputError
from ropepatch.patch import Edit, Patch
from ropepatch.profile import RopeProfile
from ropepatch.storage.splice import Splice

SCHEMA = "ropepatch.manifest/1"
BUILD_TYPE = "urn:ropepatch:buildtype:patch:v1"
BUILDER = "urn:ropepatch:builder:local:v1"
#: what in-toto and SLSA want and nothing here reads: ``manifest verify`` says whether it is there and right
_UNREAD = frozenset({"_type", "predicateType", "buildType", "uri", "id", "invocationId", "startedOn", "mediaType"})


class NotOurs(InputError):
    """The file holds something else than a manifest of ropepatch."""


@dataclass(frozen=True)
class Manifest:
    """A provenance record; ``document`` is the statement as JSON."""

    document: Mapping[str, Any]

    @property
    def _definition(self) -> Mapping[str, Any]:
        definition: Mapping[str, Any] = self.document["predicate"]["buildDefinition"]
        return definition

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self._definition["externalParameters"]["method"])

    @property
    def subjects(self) -> dict[str, str | None]:
        """The sha256 of each output file by name; None where none was taken."""
        return {item["name"]: item["digest"].get("sha256") for item in self.document["subject"]}

    @property
    def inputs(self) -> dict[str, str | None]:
        """The sha256 of each input file by name; None where none was taken."""
        return {item["name"]: item["digest"].get("sha256") for item in self._definition["resolvedDependencies"]}

    @property
    def patch(self) -> Patch:
        """The patch that was applied."""
        inner = self._definition["internalParameters"]
        outer = self._definition["externalParameters"]
        return Patch.from_json(
            {
                "schema": "ropepatch.patch/1",
                **{key: outer[key] for key in ("ref", "method", "factor", "parameters")},
                **{key: inner[key] for key in ("edits", "before", "after")},
                **({"search": inner["ropepatch_search"]} if "ropepatch_search" in inner else {}),
            }
        )

    @property
    def edits(self) -> list[Edit]:
        """The edits with old and new values."""
        return [Edit.from_json(edit) for edit in self._definition["internalParameters"]["edits"]]

    @property
    def splices(self) -> dict[str, list[Splice]]:
        """The exact bytes exchanged, by output file name, in offsets of the input."""
        raw = self._definition["internalParameters"]["ropepatch_splices"]
        return {name: [Splice.from_json(item) for item in items] for name, items in raw.items()}

    @property
    def previous(self) -> Mapping[str, Any] | None:
        """The manifest that was there before a second patch in place."""
        found: Mapping[str, Any] | None = self._definition["internalParameters"].get("ropepatch_previous")
        return found

    @property
    def overlay(self) -> bool:
        """Whether the output is an overlay, whose input is as it was."""
        return "ropepatch_overlay" in self._definition["internalParameters"]

    @property
    def tensor_data(self) -> Mapping[str, Any]:
        """Size and sha256 of the tensor data before and after, by output file name; empty where none were taken."""
        found: Mapping[str, Any] = self._definition["internalParameters"].get("ropepatch_tensorData", {})
        return found

    @property
    def verification(self) -> Mapping[str, Any] | None:
        """The verification report, None when it was not asked for."""
        for product in self.document["predicate"]["runDetails"].get("byproducts", []):
            if product["name"] == "verification":
                report: Mapping[str, Any] = product["ropepatch_report"]
                return report
        return None

    def check(self, where: str) -> None:
        """Hold the document, which somebody else may have written, against what readers count on.

        Raises:
            NotOurs: it is no manifest of ropepatch.
            InputError: a member is missing, or of another type.
        """
        from ropepatch import shapes

        if self.document.get("schema") != SCHEMA:
            raise NotOurs("is not a ropepatch manifest", where=where)
        fault = shapes.misfit("manifest", self.document, _UNREAD)
        try:
            _ = fault or (self.subjects, self.inputs, self.edits, self.splices, self.previous)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fault = f"{type(error).__name__} {error}"
        if fault is not None:
            raise InputError(f"is not a whole manifest: {fault}", where=where)

    def to_text(self) -> str:
        """The JSON text that is written to disk."""
        text = json.dumps(self.document, indent=2, ensure_ascii=False) + "\n"
        try:
            text.encode()
        except UnicodeEncodeError:  # a file name that is no UTF-8
            return json.dumps(self.document, indent=2) + "\n"
        return text


def build(
    patch: Patch,
    *,
    subjects: Mapping[str, Mapping[str, str]],
    inputs: Mapping[str, Mapping[str, str]],
    splices: Mapping[str, list[Splice]],
    started: datetime.datetime,
    verification: Mapping[str, Any] | None,
    previous: Mapping[str, Any] | None = None,
    source: str,
    origin: str = "file:",
    overlay: str | None = None,
    tensor_data: Mapping[str, Mapping[str, Any]] | None = None,
) -> Manifest:
    """Put a manifest together.

    Args:
        patch: what was applied.
        subjects: digests by output file name.
        inputs: digests by input file name.
        splices: the bytes exchanged, by output file name.
        started: when the work began, UTC.
        verification: the report of the check after writing.
        previous: the manifest that this one replaces.
        source: the input's name, which ``revert`` restores.
        origin: what the names of inputs follow in their URIs: ``file:``, or ``hf://org/repo@commit/``.
        overlay: how an overlay's body was brought beside its head; None for other outputs.
        tensor_data: size and sha256 of the tensor data before and after, by output file name, where they were taken.
    """
    internal: dict[str, Any] = {
        "edits": [edit.to_json() for edit in patch.edits],
        "before": _portable(patch.before, patch.root),
        "after": _portable(patch.after, patch.root),
        "ropepatch_splices": {name: [splice.to_json() for splice in items] for name, items in splices.items()},
    }
    if previous is not None:
        internal["ropepatch_previous"] = dict(previous)
    if patch.search is not None:
        internal["ropepatch_search"] = dict(patch.search)
    if overlay is not None:
        internal["ropepatch_overlay"] = {"body": overlay}
    if tensor_data:
        internal["ropepatch_tensorData"] = {name: dict(entry) for name, entry in tensor_data.items()}
    byproducts = []
    if verification is not None:
        byproducts.append(
            {"name": "verification", "mediaType": "application/json", "ropepatch_report": dict(verification)}
        )
    return Manifest(
        {
            "schema": SCHEMA,
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": dict(digest)} for name, digest in sorted(subjects.items())],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "ref": Path(patch.ref).name if os.path.exists(patch.ref) else patch.ref,
                        "source": source,
                        "method": patch.method,
                        "factor": patch.factor,
                        "parameters": dict(patch.parameters),
                        "declared_context": patch.after.declared_context,
                    },
                    "internalParameters": internal,
                    "resolvedDependencies": [
                        {"name": name, "uri": f"{origin}{name}", "digest": dict(digest)}
                        for name, digest in sorted(inputs.items())
                    ],
                },
                "runDetails": {
                    "builder": {"id": BUILDER, "version": _versions()},
                    "metadata": {
                        "invocationId": str(uuid.uuid4()),
                        "startedOn": _stamp(started),
                        "finishedOn": _stamp(now()),
                    },
                    "byproducts": byproducts,
                },
            },
        }
    )


def _portable(profile: RopeProfile, root: Path | None) -> dict[str, Any]:
    """A profile without the folders of this machine: manifests are published."""
    document = profile.to_json()
    if root is not None and "://" not in profile.source.ref:
        document["source"]["ref"] = Path(profile.source.ref).name
    if root is not None:
        document["notes"] = [note.replace(f"{root}{os.sep}", "") for note in profile.notes]
    return document


def now() -> datetime.datetime:
    """The time in UTC; ``SOURCE_DATE_EPOCH`` fixes it for reproducible output."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch and epoch.isdigit():
        return datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    return datetime.datetime.now(datetime.timezone.utc)


def _stamp(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions() -> dict[str, str]:
    found = {"ropepatch": __version__, "python": platform.python_version()}
    for name in ("numpy", "gguf", "safetensors"):
        version = installed(name)
        if version is not None:
            found[name] = version
    return found


def read(path: Path) -> Manifest:
    """The manifest in the file ``path``.

    Raises:
        InputError: it is no manifest of ropepatch, or not whole.
    """
    if not path.exists():
        raise InputError(
            "there is no manifest", where=str(path), hint="apply writes one with each output: give what it has written"
        )
    _, document = json_text.read(path)
    manifest = Manifest(document)
    manifest.check(str(path))
    return manifest
