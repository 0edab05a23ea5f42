"""Values as short plain text that is safe to print."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

#: Lists longer than this are shortened.
LIST = 6
#: Cc control, Cf format (direction marks), Cs surrogates, Zl and Zp line separators: nothing a terminal may act on.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: object) -> str:
    """``text`` with every character that a terminal could act on escaped; it comes from strangers' files."""
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in str(text))


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def number(value: float, digits: int = 6) -> str:
    """Whole numbers in full, others with ``digits`` significant ones."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15 if math.isfinite(value) else False):
        return str(int(value))
    return f"{value:.{digits}g}"


def tokens(count: int | None) -> str:
    """A number of tokens with separators."""
    return "unknown" if count is None else f"{count:,}"


def short(value: Any, width: int = 60) -> str:
    """A JSON value in at most about ``width`` characters: long lists and texts are cut and say how long they are."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (list, tuple)):
        if len(value) <= LIST:
            return "[" + ", ".join(short(item, width) for item in value) + "]"
        head = ", ".join(short(item, width) for item in value[:2])
        return f"[{head} … {short(value[-1], width)}] ({len(value)} values)"
    text = clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= width else f"{text[: width - 1]}…"
