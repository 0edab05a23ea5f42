"""A checkpoint as the rules see it: what its files say, and how every engine of the scope reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ropepatch import runtimes
from ropepatch.dialects.base import Dialect, is_gguf, is_hf
from ropepatch.doctor import gguf_view
from ropepatch.doctor.files import TOKENIZER, Files, edited
from ropepatch.doctor.scope import Scope
from ropepatch.errors import InputError, RopepatchError
from ropepatch.frequencies import TOLERANCE, deviation, profile_frequencies
from ropepatch.methods.base import Frequencies, ParameterError
from ropepatch.patch import Edit
from ropepatch.profile import RopeProfile
from ropepatch.runtimes import comparison
from ropepatch.runtimes.base import Prediction
from ropepatch.runtimes.comparison import Cell

if TYPE_CHECKING:
    from ropepatch.dialects.hf_section import Section

Outcome = dict[str, Prediction] | RopepatchError


class Subject(Files):
    """What rules look at.

    Attributes:
        scope: the engines to hold it against.
        explained: the engines whose deviation a rule has accounted for, while the rules run.
    """

    def __init__(
        self,
        ref: str,
        dialect: Dialect,
        scope: Scope,
        length: int | None = None,
        *,
        profile: RopeProfile | None = None,
        tokenizer: Mapping[str, Any] | None = None,
        edits: Sequence[Edit] = (),
    ) -> None:
        super().__init__(ref, dialect, profile=profile, tokenizer=tokenizer, edits=edits)
        self.scope = scope.without(self._strangers(scope)) if is_hf(dialect) else scope
        self.explained: set[str] = set()
        self._length = length
        self._references: dict[int | None, dict[str, Frequencies]] = {}
        self._cells: dict[str, list[tuple[str, int | None, Cell]]] = {}
        self._outcomes: dict[tuple[str, int | None], Outcome] = {}

    def _strangers(self, scope: Scope) -> list[str]:
        """Releases of transformers that have no class for the model type: what its own code does, nobody here knows."""
        defaults = self.section.defaults
        lines: tuple[str, ...] = () if not defaults.known and self.section.model_type != "unknown" else ("5",)
        lines = lines if not lines or defaults.only_new else ("4", *lines)
        of_engine = scope.of("transformers")
        return [spec for spec in of_engine if (spec.partition("@")[2] or "5")[0] not in lines]

    # what it comes to

    @cached_property
    def reach(self) -> int | None:
        """The long context that engines are compared at: the one asked for, the declared one or what YaRN reaches."""
        if self._length is not None:
            return self._length
        if self.profile is None:
            return _context(self.section) if self.format == "hf" else None
        reached = self.profile.declared_context or 0
        for group in self.profile.groups.values():
            original = getattr(group.scaling, "original_max_position_embeddings", None)
            factor = getattr(group.scaling, "factor", None)
            if group.scaling.name in ("yarn", "dynamic") and original and factor and factor * original < 1 << 31:
                reached = max(reached, round(factor * original))
        return reached or None

    def outcome(self, spec: str, length: int | None = None) -> Outcome:
        """What an engine computes, or why it does not."""
        key = (spec, length)
        if key not in self._outcomes:
            self._outcomes[key] = self._predict(spec, length)
        return self._outcomes[key]

    def _predict(self, spec: str, length: int | None) -> Outcome:
        config = self.config if self.format == "hf" else None
        profile = None if self.format == "hf" else self.profile
        if config is None and profile is None:
            return InputError("cannot be read")
        try:
            return runtimes.predict(spec, profile, config, length, self.file)
        except RopepatchError as error:
            return error
        except (TypeError, ParameterError) as error:  # a list for a name, an object for a number
            return InputError(f"cannot work with the kind of a value ({error})", where=self.file)

    def predictions(self, spec: str) -> Iterator[Prediction]:
        """What an engine computes in a short and in a long context, group by group; nothing where it refuses."""
        for length in dict.fromkeys((None, self.reach)):
            found = self.outcome(spec, length)
            if isinstance(found, dict):
                yield from found.values()

    def refuses(self, spec: str) -> RopepatchError | None:
        """Why an engine does not take the checkpoint, short or long."""
        for length in dict.fromkeys((None, self.reach)):
            found = self.outcome(spec, length)
            if isinstance(found, RopepatchError):
                return found
        return None

    def reference(self, length: int | None) -> dict[str, Frequencies]:
        """What the settings mean: the profile's frequencies, in the order in which transformers deals the pairs."""
        if length not in self._references:
            self._references[length] = self._meant(length)
        return self._references[length]

    def _meant(self, length: int | None) -> dict[str, Frequencies]:
        newest = self.outcome("transformers", length) if self.format == "hf" else {}
        read = {name: one.frequencies for name, one in newest.items()} if isinstance(newest, dict) else {}
        if self.profile is None:
            return read
        meant = profile_frequencies(self.profile, length)
        made = {name: _ordered(one, read.get(name) or read.get("default")) for name, one in meant.items()}
        if self.format == "hf" and self.section.model_type == "phimoe" and read:
            # its magnitudes come with the lists, which the profile has no place for
            scale = next(iter(read.values())).attention_scale
            made = {name: Frequencies(one.inv_freq, scale) for name, one in made.items()}
        return made

    def cells(self, spec: str) -> list[tuple[str, int | None, Cell]]:
        """An engine against the reference: group, length, comparison."""
        if spec not in self._cells:
            self._cells[spec] = list(self._compared(spec))
        return self._cells[spec]

    def _compared(self, spec: str) -> Iterator[tuple[str, int | None, Cell]]:
        for length in dict.fromkeys((None, self.reach)):
            found = self.outcome(spec, length)
            if not isinstance(found, dict):
                continue
            for group, meant in self.reference(length).items():
                mine = (
                    found.get(group)
                    or found.get("default")
                    or (next(iter(found.values())) if len(found) == 1 else None)
                )
                if mine is not None:
                    yield group, length, comparison.compare(meant, mine)

    def differs(self, spec: str) -> bool:
        """Whether an engine computes anything else than the settings mean."""
        return any(not cell.same for _, _, cell in self.cells(spec))

    def other_scale(self, spec: str) -> bool:
        """Whether an engine multiplies cos and sin by something else than the settings mean."""
        return any(
            not math.isclose(
                cell.prediction.attention_scale, self.reference(length)[group].attention_scale, rel_tol=TOLERANCE
            )
            for group, length, cell in self.cells(spec)
        )

    def unscaled(self, spec: str) -> tuple[int | None, ...]:
        """The lengths at which an engine turns by the plain rotation where the settings scale it."""
        lengths = dict.fromkeys((None, self.reach))
        return tuple(length for length in lengths if self._plain(spec, length))

    def _plain(self, spec: str, length: int | None) -> bool:
        found, meant = self.outcome(spec, length), self.reference(length)
        if not isinstance(found, dict) or self.profile is None:
            return False
        checked = []
        for name, group in self.profile.groups.items():
            plain, mine = Frequencies(group.spectrum().inv_freq), _of(name, found)
            if mine is not None and group.scaled and not _same(meant[name], plain):
                checked.append(_same(mine.frequencies, plain))
        return bool(checked) and all(checked)

    # which engines a statement is about

    def ignoring(self, *names: str) -> tuple[str, ...]:
        """The engines that read the file and say that a key of one of these names changes nothing."""
        return tuple(
            spec
            for spec in self.scope.specs
            if any(key.split(".")[-1] in names for one in self.predictions(spec) for key in one.ignored)
        )

    def noting(self, *words: str) -> tuple[str, ...]:
        """The engines whose prediction has a note with one of these words."""
        return tuple(
            spec
            for spec in self.scope.specs
            if any(word in note for one in self.predictions(spec) for note in one.notes for word in words)
        )

    def deviating(self) -> tuple[str, ...]:
        """The engines that refuse the file or compute something else than it means."""
        return tuple(spec for spec in self.scope.specs if self.refuses(spec) or self.differs(spec))

    def moved(self, edits: Sequence[Edit]) -> tuple[str, ...]:
        """The engines whose frequencies, magnitude or refusal the edits would change."""
        other = self.with_edits(edits)
        lengths = dict.fromkeys((None, self.reach))
        return tuple(
            spec
            for spec in self.scope.specs
            if any(not _alike(self.outcome(spec, at), other.outcome(spec, at)) for at in lengths)
        )

    def with_edits(self, edits: Sequence[Edit]) -> Subject:
        """The same checkpoint with the edits made, in memory."""
        if is_gguf(self.dialect):
            dialect: Dialect = gguf_view.with_edits(self.dialect, edits)
            return Subject(self.ref, dialect, self.scope, self._length, edits=(*self._edits, *edits))
        assert is_hf(self.dialect)
        config = edited(self.config, [edit for edit in edits if edit.file == self.file])
        tokenizer = edited(self.tokenizer, [edit for edit in edits if edit.file == TOKENIZER])
        from ropepatch.dialects.hf_config import HfDialect

        dialect = HfDialect(self.dialect.root, self.dialect.path, config)
        return Subject(self.ref, dialect, self.scope, self._length, tokenizer=tokenizer)


def _context(section: Section) -> int | None:
    try:
        return section.context()
    except InputError:
        return None


def _ordered(meant: Frequencies, read: Frequencies | None) -> Frequencies:
    """``meant``, or the same values in the order in which ``read`` has them."""
    if read is None or read.inv_freq.shape != meant.inv_freq.shape:
        return meant
    same = np.allclose(np.sort(read.inv_freq), np.sort(meant.inv_freq), rtol=TOLERANCE, atol=0)
    return Frequencies(read.inv_freq, meant.attention_scale) if same else meant


def _same(a: Frequencies, b: Frequencies) -> bool:
    """Whether two rotations agree to float32 accuracy; a magnitude of 0 is only like another 0."""
    if not math.isclose(a.attention_scale, b.attention_scale, rel_tol=TOLERANCE):
        return False
    return a.attention_scale == 0 or deviation(a, b) <= TOLERANCE


def _of(group: str, found: Mapping[str, Prediction]) -> Prediction | None:
    """A group's prediction, or the one that an engine has for all layers."""
    return found.get(group) or found.get("default") or (next(iter(found.values())) if len(found) == 1 else None)


def _alike(a: Outcome, b: Outcome) -> bool:
    if isinstance(a, RopepatchError) or isinstance(b, RopepatchError):
        return isinstance(a, RopepatchError) and isinstance(b, RopepatchError)
    if len(a) != len(b):
        return False
    return all(
        one.inv_freq.shape == two.inv_freq.shape and _same(one.frequencies, two.frequencies)
        for one, two in zip(a.values(), b.values(), strict=True)
    )
