"""The JSON Schemas of everything that the commands print, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropepatch.errors import UsageError

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_SUFFIX = ".schema.json"


def _folder() -> Path:
    """Inside the package in a wheel, at the top of the tree in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "schemas" if (here / "schemas").is_dir() else here.parent / "schemas"


def names() -> list[str]:
    """The schemas that there are, for example ``freqs`` for ``ropepatch.freqs/1``."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _folder().glob(f"*{_SUFFIX}"))


def load(name: str) -> dict[str, Any]:
    """The schema ``name`` as JSON Schema 2020-12.

    Raises:
        UsageError: there is no such schema.
    """
    if name not in names():
        raise UsageError(f"there is no schema {name!r}; there are: {', '.join(names())}")
    schema: dict[str, Any] = json.loads((_folder() / f"{name}{_SUFFIX}").read_text("utf-8"))
    return schema


def validator(name: str) -> Draft202012Validator:
    """A validator for documents of schema ``name``; references between the schemas resolve without a network."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    resources = [Resource.from_contents(load(other)) for other in names()]
    registry: Registry[Any] = resources @ Registry()
    return Draft202012Validator(load(name), registry=registry)
