"""The YAML between the two lines of dashes that open a model card: keys replaced, every other line as it was.

Nothing in it is ever built into an object: the parser's own tree says which lines a key takes up, so that what YAML
would read otherwise than it was meant (``language: no``) and what nobody here knows stay as they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

#: the parser takes a second for 64 KiB of lists; only tables of results are longer, and those are cut out unparsed
MAX_SIZE = 256 << 10
#: brackets within brackets; the parser's time grows with the square
_DEPTH = 64
_FENCE = re.compile(r"---[ \t]*\n(?P<matter>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def split(card: str, dropped: Sequence[str] = ()) -> tuple[str, str]:
    """A card as front matter and body.

    Args:
        card: the whole text.
        dropped: keys to leave out of the front matter, by lines and before anything is parsed.

    Returns:
        The front matter without its dashes, empty where there is none that can be read; and what follows.
    """
    text = card.removeprefix("\ufeff").replace("\r\n", "\n")
    match = _FENCE.match(text)
    if match is None:
        return "", text
    matter, body = match["matter"], text[match.end() :]
    less = matter
    for key in dropped:
        less = re.sub(rf"^{re.escape(key)}[ \t]*:.*\n(?:(?:[ \t#-].*)?\n)*", "", less, flags=re.MULTILINE)
    return next((found for found in (less, matter) if _root(found) is not None), ""), body


def joined(matter: str, body: str) -> str:
    """The card that :func:`split` takes apart."""
    return f"---\n{matter}---\n{body}"


def texts(matter: str, key: str) -> list[str]:
    """The text or list of texts that stands under ``key``; empty where there is none."""
    root = _root(matter)
    for name, value in root.value if root is not None else ():
        if name.value == key:
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            return [str(item.value) for item in items if isinstance(item, yaml.ScalarNode) and item.value]
    return []


def edited(matter: str, values: Mapping[str, str | Sequence[str]], removed: Sequence[str] = ()) -> str:
    """``matter`` with ``values`` at its end and the keys of ``removed`` gone; the other lines are untouched.

    Where the keys cannot be cut out by lines (a mapping in braces, an anchor in a value that goes) only what is new is
    left, together with those texts and lists that are plain.
    """
    gone = {*values, *removed}
    kept = _without(matter, gone)
    if kept is None:
        kept = _dumped({name: _plain(texts(matter, name)) for name in _names(matter) if name not in gone})
    return kept + _dumped(values)


def _plain(found: list[str]) -> Any:
    return found[0] if len(found) == 1 else found


def _dumped(values: Mapping[str, Any]) -> str:
    present = {name: value if isinstance(value, str) else list(value) for name, value in values.items() if value}
    if not present:
        return ""
    text: str = yaml.safe_dump(present, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)
    return text


def _names(matter: str) -> list[str]:
    root = _root(matter)
    return [str(name.value) for name, _ in root.value] if root is not None else []


def _without(matter: str, gone: set[str]) -> str | None:
    """The lines of all keys but ``gone``; None where they do not come apart by lines."""
    root = _root(matter)
    if root is None:
        return ""
    if root.flow_style:
        return None
    lines = matter.splitlines(keepends=True)
    starts = [name.start_mark.line for name, _ in root.value]
    ends = [*starts[1:], len(lines)]
    kept = lines[: starts[0]] if starts else lines
    for (name, _), start, end in zip(root.value, starts, ends, strict=True):
        if name.value not in gone:
            kept = kept + lines[start:end]
    text = "".join(kept)
    if text and not text.endswith("\n"):
        text += "\n"
    return text if not text.strip() or _root(text) is not None or not _names(matter) else None


@functools.lru_cache(maxsize=4)
def _root(matter: str) -> yaml.MappingNode | None:
    """The tree of the front matter; None where it is no mapping of plain keys."""
    if len(matter) > MAX_SIZE or _nesting(matter) > _DEPTH:
        return None
    try:
        node = yaml.compose(matter, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    if not isinstance(node, yaml.MappingNode) or any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
        return None
    return node


def _nesting(matter: str) -> int:
    """How deep brackets may be nested at most; those in quoted texts count as well."""
    depth = deepest = 0
    for bracket in re.findall(r"[][{}]", matter):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest
