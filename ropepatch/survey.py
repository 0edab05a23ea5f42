"""Many checkpoints as the rows of one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ropepatch import checkpoint
from ropepatch.errors import RopepatchError, translated
from ropepatch.methods.base import ParameterError

#: columns of a table of many checkpoints
COLUMNS = (
    "ref",
    "format",
    "architecture",
    "trained_context",
    "declared_context",
    "group",
    "groups",
    "layers_without_rope",
    "method",
    "factor",
    "rope_theta",
    "rotary_dim",
    "head_dim",
    "window",
    "longest_wavelength",
    "attention_scale",
    "warnings",
    "error",
)


def inspect_many(refs: Sequence[str], *, jobs: int = 1) -> Iterator[dict[str, Any]]:
    """One row of ``COLUMNS`` a ref, in their order; where one cannot be read, ``error`` says why.

    Args:
        refs: the checkpoints.
        jobs: how many at a time; more than one helps where they are on a network.
    """
    if jobs <= 1:
        yield from map(row, refs)
        return
    pool = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="inspect")
    try:
        yield from pool.map(row, refs)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def row(ref: str) -> dict[str, Any]:
    """A checkpoint as one row; of several rope groups the one that a longer context reaches."""
    from ropepatch.report import summary

    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    found["ref"] = ref
    try:
        model = checkpoint.open(ref)
        profile = model.profile
        name = model.reached()
        group = profile.groups[name]
        inside = summary.group_summary(profile, group)
    except (RopepatchError, OSError, ParameterError) as error:
        found["error"] = str(translated(error))
        return found
    scaling = group.scaling.to_json()
    found |= {
        "format": profile.source.format,
        "architecture": profile.source.architecture,
        "trained_context": profile.trained_context,
        "declared_context": profile.declared_context,
        "group": name,
        "groups": len(profile.groups),
        "layers_without_rope": len(profile.nope_layers or ()),
        "method": scaling.get("method"),
        "factor": scaling.get("factor"),
        "rope_theta": group.rope_theta,
        "rotary_dim": group.rotary_dim,
        "head_dim": group.head_dim,
        "window": group.window,
        "longest_wavelength": inside["longest_wavelength"],
        "attention_scale": inside["attention_scale"],
        "warnings": len(summary.warnings(profile)),
    }
    return found
