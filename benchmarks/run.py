"""Measures what reading and writing cost, side by side with cp, sha256sum, gguf-new-metadata and the gguf reader.

    python benchmarks/run.py                                     # a 4 GB GGUF in ./bench-data, removed afterwards
    python benchmarks/run.py --size 200M --dir /data --repeats 3
    python benchmarks/run.py --write docs/performance.md

The GGUF has llama's layout, a 152,000-token vocabulary and random blocks on the disk; the sparse one declares 400 GB of
tensors and holds a header. Everything runs as a command of its own, on a warm page cache; before each one the outputs
of the last are gone and the disk has nothing left to write. Commands that are compared run in turn, and in the other
order every second time. Times are medians; memory is the largest resident set. Exit code 1: a target is missed.

A file that ropepatch writes is on the disk when it ends, which plain cp does not wait for. So --no-sync is held against
cp, and the default against cp followed by sync.

Only the standard library is imported here, and the files are made by a child: a child's peak, as the kernel reports it,
starts from that of its parent, so the parent has to stay small.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import files
import images
from files import MIB, VOCABULARY
from measuring import Row, byte_count, filesystem, in_child, processor, run_once, script

Rows = dict[str, Row]


@dataclass(frozen=True)
class Target:
    """A wanted relation of measured values; ``least`` turns the limit round."""

    name: str
    limit: float
    unit: str
    value: Callable[[Rows], float]
    least: bool = False

    def met(self, value: float) -> bool:
        """Whether a measured value is within it; what was not measured is not."""
        return value >= self.limit if self.least else value <= self.limit


def over(name: str, start: str) -> Callable[[Rows], float]:
    """By how many seconds one command takes longer than another."""
    return lambda rows: rows[name].median - rows[start].median


def ratio(name: str, *others: str) -> Callable[[Rows], float]:
    """How many times as long one command takes as the slowest of others."""
    return lambda rows: rows[name].median / max(rows[other].median for other in others)


def alone(name: str) -> Callable[[Rows], float]:
    """The time of one command."""
    return lambda rows: rows[name].median


def peak(rows: Rows) -> float:
    """The largest resident set of any command of ropepatch."""
    return max(row.peak for row in rows.values() if row.name in OURS)


OURS: set[str] = set()
BARE, LIBRARIES = "bare Python", "Python with numpy and click"
TARGETS = [
    *(Target(f"{name} over {LIBRARIES}", 0.15, "s", over(name, LIBRARIES)) for name in ("inspect", "freqs", "diff")),
    Target("gguf reader / inspect", 50, "x", ratio("gguf reader", "inspect"), least=True),
    Target("new file, no digest, --no-sync / cp", 1.1, "x", ratio("new file, no digest, --no-sync", "cp")),
    Target("new file, no digest / cp + sync", 1.1, "x", ratio("new file, no digest", "cp + sync")),
    Target("new file, full digest / slower of cp and sha256sum", 1.15, "x", ratio("new file, full", "cp", "sha256sum")),
    Target("gguf-new-metadata / new file, no digest", 1, "x", ratio("gguf-new-metadata", "new file, no digest"), True),
    Target("in place", 0.5, "s", alone("in place")),
    Target("in place, sparse 400 GB", 0.5, "s", alone("in place, sparse")),
    Target("reflinked new file", 0.5, "s", alone("reflinked")),
    Target("reflinked new file, sparse 400 GB", 0.5, "s", alone("reflinked, sparse")),
    Target("1,000 shards inspected", 1.0, "s", alone("inspect 1,000 shards")),
    Target("--help over bare Python", 0.12, "s", over("--help", BARE)),
    Target("peak memory of ropepatch", 120, "MiB", peak),
]


class Bench:
    """The commands in their order, and what each needs before and leaves behind."""

    def __init__(self, folder: Path, size: int, repeats: int) -> None:
        self.folder, self.size, self.repeats = folder, size, repeats
        self.model, self.sparse, self.shards = folder / "model.gguf", folder / "sparse.gguf", folder / "shards"
        self.out = folder / "out"
        self.rows: Rows = {}
        self.program = script("ropepatch", "ropepatch")
        self.apply = [*self.program, "apply", "-q", "--method", "yarn", "--factor", "4"]

    def make(self) -> None:
        """Make the files; runs in a child."""
        files.make_file(self.model, self.size)
        files.make_sparse(self.sparse)
        files.make_shards(self.shards)
        self.out.mkdir()

    def run(self) -> None:
        """Measure everything."""
        with self.model.open("rb", buffering=0) as stream:  # the page cache is warm for all or for none
            while stream.read(MIB):
                pass
        self.reading()
        self.in_place()
        self.copies()
        self.reflinks()

    def reading(self) -> None:
        """Commands that write nothing."""
        python, model = sys.executable, str(self.model)
        self.measure(
            (BARE, [python, "-c", "pass"]),
            (LIBRARIES, [python, "-c", "import numpy, click"]),
            ("--help", [*self.program, "--help"]),
            ("inspect", [*self.program, "inspect", model]),
            ("freqs", [*self.program, "freqs", model]),
            ("diff", [*self.program, "diff", model, model]),
            ("inspect 1,000 shards", [*self.program, "inspect", str(self.shards)]),
        )
        self.measure(("gguf reader", [python, "-c", f"import gguf; gguf.GGUFReader({model!r})"]), repeats=1)

    def in_place(self) -> None:
        """Changes of the file itself, each undone before the next."""
        for file, suffix in ((self.model, ""), (self.sparse, ", sparse")):
            self.measure(
                (f"in place{suffix}", [*self.apply, "--in-place", str(file)]),
                (f"revert in place{suffix}", [*self.program, "revert", "-q", "--in-place", str(file)]),
                in_turn=False,
            )

    def copies(self) -> None:
        """New files, in turn with what they are measured against."""
        model, out = str(self.model), str(self.out / "out.gguf")
        plain = [*self.apply, "--digest", "none", "-o", out]
        run_once(Row("first", ["cp", model, out]))  # the first copy pays for fresh blocks; nobody measures it
        self.measure(("cp", ["cp", model, out]), ("new file, no digest, --no-sync", [*plain, "--no-sync", model]))
        self.measure(
            ("cp + sync", ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", model, out]),
            ("new file, no digest", [*plain, model]),
        )
        self.measure(
            ("sha256sum", ["sha256sum", model]),
            ("new file, full", [*self.apply, "--digest", "full", "-o", out, model]),
            repeats=3,
        )
        tool = script("gguf-new-metadata", "gguf.scripts.gguf_new_metadata")
        self.measure(("gguf-new-metadata", [*tool, "--force", "--general-name", "renamed", model, out]), repeats=1)
        self.overlay(out)

    def reflinks(self) -> None:
        """New files that share the blocks of the old: here, or on an XFS in an image file."""
        names = ("reflinked", "reflinked, sparse")
        if shares_blocks(self.model, self.out):
            self.measure_reflinks(names, self.model, self.sparse, self.out)
            return
        try:
            with images.xfs(self.folder, self.model.stat().st_size * 5 // 4) as place:
                model, sparse = place / self.model.name, place / self.sparse.name
                shutil.copyfile(self.model, model)
                in_child(lambda: files.make_sparse(sparse))
                os.sync()
                self.measure_reflinks(names, model, sparse, place)
        except images.CannotMount as error:
            self.rows |= {name: Row(name, [], error=f"not measured: {error}") for name in names}

    def measure_reflinks(self, names: tuple[str, str], model: Path, sparse: Path, folder: Path) -> None:
        """Both models; what was written goes before each run."""
        for name, file in zip(names, (model, sparse), strict=True):
            out = folder / f"out-{file.name}"
            command = [*self.apply, "--digest", "none", "-o", str(out), str(file)]
            row = self.rows[name] = Row(name, command)
            OURS.add(name)
            for turn in range(self.repeats):
                for leftover in (out, out.with_suffix(".ropepatch.json")):
                    leftover.unlink(missing_ok=True)
                os.sync()
                if row.error is None:
                    run_once(row)
                print(f"  {name:32} {turn + 1}  {row.error or f'{row.seconds[-1]:8.2f} s'}", file=sys.stderr)

    def overlay(self, out: str) -> None:
        """A variant over a body that is shared; the body is made once, not measured."""
        base = self.folder / "base.gguf"
        ntk = [*self.program, "apply", "-q", "--method", "ntk", "--factor", "2", "--overlay"]
        run_once(Row("base", [*ntk, "-o", str(base), str(self.model)]))
        shard = str(self.folder / "base-00001-of-00002.gguf")
        self.measure(("overlay", [*self.apply, "--existing", "replace", "--overlay", "-o", out, shard]))

    def measure(self, *commands: tuple[str, list[str]], repeats: int | None = None, in_turn: bool = True) -> None:
        """Run the commands in turn, backwards every second time (unless one needs the other before it)."""
        rows = [Row(name, command) for name, command in commands]
        self.rows |= {row.name: row for row in rows}
        OURS.update(row.name for row in rows if row.command[: len(self.program)] == self.program)
        for turn in range(repeats or self.repeats):
            for row in reversed(rows) if in_turn and turn % 2 else rows:
                for leftover in self.out.iterdir():
                    leftover.unlink()
                os.sync()
                if row.error is None:
                    run_once(row)
                result = row.error or f"{row.seconds[-1]:8.2f} s {row.peak_mib[-1]:8.0f} MiB"
                print(f"  {row.name:32} {turn + 1}  {result}", file=sys.stderr)


def shares_blocks(model: Path, folder: Path) -> bool:
    """Whether cp can make a reflink there."""
    probe = Row("reflink", ["cp", "--reflink=always", str(model), str(folder / "probe")])
    run_once(probe)
    return probe.error is None


def document(bench: Bench) -> dict[str, Any]:
    """What was measured, as one JSON object; what could not be measured is null."""

    def number(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    rows = list(bench.rows.values())
    values = [(target, target.value(bench.rows)) for target in TARGETS]
    return {
        "file_bytes": bench.model.stat().st_size,
        "vocabulary": VOCABULARY,
        "filesystem": filesystem(bench.model),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "repeats": bench.repeats,
        "rows": [
            {
                "name": row.name,
                "seconds": row.seconds,
                "median_s": number(row.median),
                "fastest_s": min(row.seconds, default=None),
                "peak_mib": number(row.peak),
                "error": row.error,
            }
            for row in rows
        ],
        "targets": [
            {"name": t.name, "value": number(v), "limit": t.limit, "unit": t.unit, "least": t.least, "met": t.met(v)}
            for t, v in values
        ],
    }


def verdict(target: dict[str, Any]) -> str:
    """In a word."""
    return "not measured" if target["value"] is None else "met" if target["met"] else "**missed**"


def page(report: dict[str, Any], arguments: str) -> Iterator[str]:
    """The report as Markdown."""
    yield "# Performance"
    yield ""
    yield f"A GGUF of {report['file_bytes'] / 1e9:.2f} GB with a {report['vocabulary']:,}-token vocabulary, on"
    yield f"{report['filesystem']}; {report['machine']}; Python {report['python']};"
    yield f"load average {report['load']} at the end. Made by"
    yield f"`make bench{arguments}`,"
    yield f"which anyone can run. Times are medians of {report['repeats']} runs (one of the gguf library, three with"
    yield "digests) of whole commands, the start of Python included, on a warm page cache; memory is the largest"
    yield "resident set."
    yield ""
    yield from wrapped(
        f"The start of Python counts with the two packages that every command needs, numpy and click. Over bare "
        f"Python {', '.join(bare(report))}."
    )
    yield ""
    yield "A file that ropepatch writes is on the disk when the command ends, which plain `cp` does not wait for:"
    yield "`--no-sync` is held against `cp`, and the default against `cp` followed by `sync`."
    yield ""
    yield "| target | measured | wanted | |"
    yield "|---|---:|---:|---|"
    for target in report["targets"]:
        sign, unit = "≥" if target["least"] else "≤", target["unit"]
        value = "" if target["value"] is None else f"{target['value']:.3f} {unit}"
        yield f"| {target['name']} | {value} | {sign} {target['limit']:g} {unit} | {verdict(target)} |"
    yield ""
    yield "| command | median s | fastest s | peak MiB |"
    yield "|---|---:|---:|---:|"
    for row in report["rows"]:
        if row["error"]:
            yield f"| {row['name']} | {row['error']} | | |"
        else:
            yield f"| {row['name']} | {row['median_s']:.3f} | {row['fastest_s']:.3f} | {row['peak_mib']:.0f} |"


def bare(report: dict[str, Any]) -> Iterator[str]:
    """What the short commands take over the interpreter alone."""
    medians = {row["name"]: row["median_s"] for row in report["rows"]}
    for name in ("inspect", "freqs", "diff"):
        yield f"{name} takes {medians[name] - medians[BARE]:.3f} s"
    yield f"numpy and click alone {medians[LIBRARIES] - medians[BARE]:.3f} s"


def wrapped(text: str) -> list[str]:
    """Lines of a page."""
    return textwrap.wrap(text, 110)


def at_least_three(text: str) -> int:
    """A number of repeats."""
    if not text.isdigit() or int(text) < 3:
        raise argparse.ArgumentTypeError("a median needs at least 3 repeats")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what reading and writing cost.")
    parser.add_argument("--size", type=byte_count, default="4G", help="of the GGUF (default: 4G)")
    parser.add_argument("--dir", type=Path, default=Path("bench-data"), help="where to make it (default: bench-data)")
    parser.add_argument("--repeats", type=at_least_three, default=5, help="of each quick command (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there, too (docs/performance.md)")
    options = parser.parse_args()
    folder = options.dir.resolve() / f"bench-{os.getpid()}"
    options.dir.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(options.dir).free < options.size * 4.5:
        raise SystemExit(f"{options.dir}: {options.size * 4.5 / 1e9:.1f} GB have to be free")
    folder.mkdir()
    try:
        bench = Bench(folder, options.size, options.repeats)
        in_child(bench.make)
        bench.run()
        report = document(bench)
    finally:
        shutil.rmtree(folder)
    words = sys.argv[1:]
    pairs = zip(words, ["", *words], strict=False)
    shown = [word for word, last in pairs if "--dir" not in (word, last) and word != "--json"]
    text = "\n".join(page(report, f" BENCH='{' '.join(shown)}'" if shown else "")) + "\n"
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    print(json.dumps(report, indent=2) if options.json else text, end="")
    return 0 if all(target["met"] for target in report["targets"] if target["value"] is not None) else 1


if __name__ == "__main__":
    raise SystemExit(main())
