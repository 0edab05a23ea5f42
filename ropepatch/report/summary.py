"""A profile's frequencies in a few numbers, and what a reader should be warned about."""

from __future__ import annotations

import math
from typing import Any

from ropepatch.frequencies import group_frequencies
from ropepatch.profile import RopeGroup, RopeProfile


def inspection(profile: RopeProfile) -> dict[str, Any]:
    """The profile with ``frequencies`` (a summary of each group) and ``warnings``, for ``inspect --json``."""
    return {
        **profile.to_json(),
        "frequencies": {name: group_summary(profile, group) for name, group in profile.groups.items()},
        "warnings": warnings(profile),
    }


def group_summary(profile: RopeProfile, group: RopeGroup) -> dict[str, Any]:
    """The ends of a group's spectrum in a short context, and what the declared context makes of it.

    Returns:
        ``pairs``; ``first`` and ``last`` in radians per position; ``longest_wavelength`` in tokens, None when a pair
        stands still; ``beyond_trained``: pairs that do not turn once over the trained context as the model was
        trained, None where that is unknown; ``attention_scale``; ``changes_with_length``.
    """
    now = group_frequencies(group)
    last = float(now.inv_freq[-1])
    beyond = None
    if profile.trained_context:
        beyond = int((group.spectrum().inv_freq * profile.trained_context < 2 * math.pi).sum())
    return {
        "pairs": int(now.inv_freq.size),
        "first": float(now.inv_freq[0]),
        "last": last,
        "longest_wavelength": 2 * math.pi / last if last > 0 else None,
        "beyond_trained": beyond,
        "attention_scale": now.attention_scale,
        "changes_with_length": not group.scaling.static,
    }


def warnings(profile: RopeProfile) -> list[str]:
    """What in the profile does not add up."""
    found = []
    trained, declared = profile.trained_context, profile.declared_context
    scaled = any(group.scaled for group in profile.groups.values())
    if trained and declared and declared > trained and not scaled:
        found.append(f"declares {declared:,} tokens, trained on {trained:,}, and no scaling is in force")
    if scaled and trained and trained == declared:
        found.append(f"is scaled, but declares no more than the trained {trained:,} tokens")
    for name, group in profile.groups.items():
        factor = getattr(group.scaling, "factor", None) if group.scaling.factor_reaches else None
        if factor and trained and declared and factor * trained < declared - 1:
            found.append(
                f"{name}: factor {factor:g} of {trained:,} tokens is {factor * trained:,.0f}, less than the declared "
                f"{declared:,}"
            )
    if profile.unrecognised:
        found.append(f"keys that are not understood are kept and not used: {', '.join(profile.unrecognised)}")
    return found
