"""One file for each kind of rule, found by its name: ``gguf_*`` looks at GGUF files alone, ``any_*`` at every format,
all others at the rest. So a doctor loads what can apply, and a new file is enough."""

from __future__ import annotations

import importlib
import pkgutil


def load(format: str | None = None) -> None:
    """Enter the rules that look at a format, or every rule."""
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        gguf = module.startswith("gguf_")
        if format is None or module.startswith("any_") or gguf == (format == "gguf"):
            importlib.import_module(f"{__name__}.{module}")
