"""Whose files an output's are: each against the digest that the manifest has of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropepatch import evidence, schemas
from ropepatch.bundle import Bundle, Progress
from ropepatch.errors import InputError
from ropepatch.located import Found, Located
from ropepatch.manifest import Manifest
from ropepatch.patch import Edit, group_edits
from ropepatch.storage.digesting import Digests
from ropepatch.verify.promise import FAILED, PASSED, SKIPPED, WARNED, Check

#: files that people change after the patch, and no engine reads
_DOCUMENTS = ("README.md", ".gitattributes")


@dataclass
class Files:
    """An output beside its manifest.

    Attributes:
        output: where the two are.
        progress: called with the number of bytes just hashed.
    """

    output: Located
    progress: Progress | None

    @property
    def patched(self) -> Bundle:
        """The files."""
        return self.output.files

    @property
    def record(self) -> Manifest:
        """The manifest."""
        return self.output.record

    @property
    def input_names(self) -> dict[str, str]:
        """The input's file by output file: the same in a folder, in order else. An overlay's body has the last one."""
        outputs, inputs = sorted(self.record.subjects), sorted(self.record.inputs)
        if self.patched.kind == "folder":
            return {name: name for name in outputs if name in self.record.inputs}
        if self.record.overlay:
            return {outputs[-1]: inputs[-1]}
        return dict(zip(outputs, inputs, strict=False))

    def edits_by_output(self) -> dict[str, list[Edit]]:
        """The edits under the names that the files have now."""
        new_name = {old: new for new, old in self.input_names.items()}
        if self.record.overlay:
            new_name = {edit.file: sorted(self.record.subjects)[0] for edit in self.record.edits}
        return {new_name.get(name, name): items for name, items in group_edits(self.record.edits).items()}

    def document(self) -> Check:
        """The manifest against its schema."""
        error = next(iter(schemas.validator("manifest").iter_errors(self.record.document)), None)
        if error is not None:
            where = ".".join(map(str, error.absolute_path)) or "the document"
            return Check("document", FAILED, f"is not what the schema says: {where}: {error.message}"[:300])
        return Check("document", PASSED, "an in-toto statement of SLSA provenance, as the schema has it")

    def digests(self) -> Check:
        """Every output file against its sha256."""
        wanted = {name: digest for name, digest in self.record.subjects.items() if digest}
        missing = [name for name in self.record.subjects if self.path(name) and not self.output.there(name)]
        if missing:
            return Check("digests", FAILED, f"not there: {', '.join(missing)}")
        taken = self.output.digests(wanted, self.progress)
        other = [name for name, digest in wanted.items() if taken[name] != digest]
        numbers = {"files": len(self.record.subjects), "hashed": len(wanted)}
        if broken := [name for name in other if name not in _DOCUMENTS]:
            return Check("digests", FAILED, f"another sha256 than the manifest's: {', '.join(broken)}", numbers)
        without = len(self.record.subjects) - len(wanted)
        rest = f"; {without} without one in the manifest" if without else ""
        if other:
            return Check("digests", WARNED, f"changed since, no engine reads it: {', '.join(other)}{rest}", numbers)
        return Check(
            "digests",
            PASSED if wanted else SKIPPED,
            f"{files_of(len(wanted))} with the manifest's sha256{rest}",
            numbers,
        )

    def tensor_data(self) -> Check:
        """The weights' own digests, which are the same before and after."""
        declared: Mapping[str, Any] = self.record.tensor_data
        if not declared:
            return Check("tensor data", SKIPPED, "the manifest has no digest of the tensor data alone")
        if set(declared) & set(self.output.recorded):
            return Check("tensor data", SKIPPED, "the weights are on the Hub and were not downloaded")
        without = [
            name for name, entry in declared.items() if any("sha256" not in entry[side] for side in ("before", "after"))
        ]
        if without:
            return Check(
                "tensor data", FAILED, f"the manifest has no sha256 of it before and after: {', '.join(without)}"
            )
        edits = self.edits_by_output()
        with Digests(self.progress) as running:
            taken = {
                name: running.ranges(self.path(name), evidence.tensor_ranges(self.path(name), edits.get(name, [])))
                for name in declared
            }
        for name, entry in declared.items():
            if taken[name].result() != entry["after"]["sha256"]:
                return Check("tensor data", FAILED, f"another sha256 than the manifest's: {name}")
            if entry["before"] != entry["after"]:
                return Check("tensor data", FAILED, f"was another one before the patch: {name}")
        total = sum(entry["bytes"] for entry in declared.values())
        return Check("tensor data", PASSED, f"{total} bytes of weights are those of the input", {"bytes": total})

    def others(self) -> Check:
        """Files of a folder that the manifest does not speak of."""
        if self.patched.kind != "folder":
            return Check("other files", SKIPPED, "the manifest stands beside files, not in a folder of them")
        known = {*self.record.subjects, *_DOCUMENTS}
        strange = [name for name in self.patched.names if name not in known]
        if strange:
            return Check("other files", WARNED, f"the manifest does not speak of {', '.join(strange[:8])}")
        return Check("other files", PASSED, "the folder holds nothing that the manifest does not speak of")

    def given(self, source: Found) -> Check:
        """Files that are said to be the input."""
        declared = sorted(self.record.inputs)
        names = source.files.names
        if source.files.kind == "folder":
            wanted = {name: self.record.inputs[name] for name in declared if source.there(name)}
        else:
            wanted = {name: self.record.inputs[old] for name, old in zip(names, declared, strict=False)}
        wanted = {name: digest for name, digest in wanted.items() if digest}
        taken = source.digests(wanted, self.progress)
        if wrong := [name for name, digest in taken.items() if digest != wanted[name]]:
            return Check("given input", FAILED, f"is not what was patched: {', '.join(wrong)}")
        if not taken:
            return Check("given input", SKIPPED, "the manifest has no sha256 of any of its files")
        return Check("given input", PASSED, f"{files_of(len(taken))} with the sha256 of what was patched")

    def path(self, name: str) -> Path:
        """Where a file of the manifest is.

        Raises:
            InputError: the name leads out of the output's folder.
        """
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise InputError(f"speaks of {name!r}, which is outside", where=str(self.patched.manifest))
        return self.patched.path(name)

    def wanted(self, name: str) -> str | None:
        """The sha256 that an output file's input had; None where the manifest has none."""
        return self.record.inputs.get(self.input_names.get(name, ""))


def files_of(count: int) -> str:
    """A number of files in words."""
    return "1 file" if count == 1 else f"{count} files"
