"""RP206: a declared context that nothing in the file makes."""

from __future__ import annotations

from collections.abc import Iterator

from ropepatch.doctor.base import Hit, rule
from ropepatch.doctor.subject import Subject


@rule(
    "RP206",
    "long context without a scaling",
    "info",
    fix="put a scaling in force (ropepatch apply), or declare the trained context",
    formats=("hf", "gguf"),
)
def long_without_scaling(subject: Subject) -> Iterator[Hit]:
    """The file declares more tokens than it says the model was trained on, and nothing slows the rotation down. That is
    right where the base was raised for the longer context, which no key tells."""
    profile = subject.profile
    if profile is None or not profile.trained_context or not profile.declared_context:
        return
    scaled = any(group.scaled for group in profile.groups.values())
    if profile.declared_context > profile.trained_context and not scaled:
        text = (
            f"declares {profile.declared_context:,} tokens, trained on {profile.trained_context:,}, and no scaling is "
        )
        yield Hit("", f"{text}in force: right only if the base was raised for it")
