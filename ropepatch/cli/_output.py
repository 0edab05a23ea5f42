"""Printing: results on stdout, notes, hints and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

#: seconds before a progress line appears; most patches are done by then
_PATIENCE = 0.5


class Output:
    """Where a command prints.

    Attributes:
        json: print one JSON document instead of tables.
        quiet: no progress, notes or hints.
    """

    def __init__(self, json: bool, quiet: bool) -> None:
        self.json = json
        self.quiet = quiet

    @cached_property
    def console(self) -> Console:
        """A console that interprets nothing in the texts that it prints; colour and width are the terminal's."""
        from rich.console import Console

        return Console(markup=False, emoji=False, highlight=False)

    def document(self, document: Mapping[str, Any]) -> None:
        """Print one JSON document. Pure ASCII, so that no name in it reaches a terminal unescaped."""
        print(json.dumps(_portable(document), indent=2, allow_nan=False))

    def show(self, *renderables: Any) -> None:
        """Print tables and texts for people; into a pipe without the blanks that fill up a table's lines."""
        if self.console.is_terminal:
            for item in renderables:
                self.console.print(item)
            return
        with self.console.capture() as capture:
            for item in renderables:
                self.console.print(item)
        print("\n".join(line.rstrip() for line in capture.get().split("\n")), end="")

    def line(self, text: object) -> None:
        """Print one line as it is, however wide; control characters are escaped."""
        from ropepatch.report.text import clean

        print(clean(text))

    def sentence(self, text: object) -> None:
        """Print a line of prose; on a terminal, wrapped between words."""
        from ropepatch.report.text import clean

        print(_wrapped(clean(text)) if sys.stdout.isatty() else clean(text))

    def note(self, text: object, label: str = "note") -> None:
        """Tell a person something about the result."""
        if not (self.json or self.quiet):
            from ropepatch.report.text import clean

            sys.stdout.flush()
            line = f"{label}: {clean(text)}"
            # a hint holds a command, which has to stay on its line to be copied
            print(_wrapped(line) if label != "hint" and sys.stderr.isatty() else line, file=sys.stderr)

    def hint(self, text: object) -> None:
        """Tell a person what they may want to do next."""
        self.note(text, "hint")

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int], None] | None]:
        """A function that takes the number of bytes just moved; None where nobody is watching."""
        if self.json or self.quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        known = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), *known)
        with _Late(Progress(*columns, console=Console(stderr=True), transient=True), what) as late:
            yield late


class _Late:
    """A progress line that appears only when the work takes long."""

    def __init__(self, progress: Any, what: str) -> None:
        self.progress = progress
        self.task = progress.add_task(what, total=None)
        self.total = 0
        self.started = False
        self.since = progress.get_time()

    def expect(self, count: int) -> None:
        """Say how many more bytes there are to move or hash."""
        self.total += count
        self.progress.update(self.task, total=self.total)

    def __call__(self, count: int) -> None:
        self.progress.update(self.task, advance=count)
        if not self.started and self.progress.get_time() - self.since > _PATIENCE:
            self.started = True
            self.progress.start()

    def __enter__(self) -> _Late:
        return self

    def __exit__(self, *_: object) -> None:
        if self.started:
            self.progress.stop()


def _wrapped(line: str) -> str:
    """A line as wide as the terminal, the rest of it indented."""
    import shutil
    import textwrap

    width = max(shutil.get_terminal_size().columns, 40)
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _portable(value: Any) -> Any:
    """``value`` with numbers that JSON lacks as texts: metadata of a stranger's file may hold them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    return value
