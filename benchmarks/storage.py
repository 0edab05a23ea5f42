"""Measures what reading and writing cost: in place, as a new file, as an overlay, on large and on sparse files.

    python benchmarks/storage.py                       # a 4 GB GGUF in ./bench-data, removed afterwards
    python benchmarks/storage.py --size 400M --markdown > docs/performance.md

The file has a 152,000-token vocabulary; the sparse one declares 400 GB of tensors and holds a header. Everything
runs as a command of its own, on a warm page cache; times are medians of the repeats, memory is the largest resident
set. `cp` and `sha256sum` are measured in turn with ropepatch, so that a busy machine is as busy for both. A file that
ropepatch writes is on the disk when it ends, which plain `cp` does not wait for: `cp + sync` does, and is the measure.
Exit code 1: a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import large_gguf
from large_gguf import MIB, Row, byte_count, filesystem, in_child, run_once, script

SPARSE = 400 * 10**9
SHARDS = 1000
#: a model of 400 GB has about as many tensors as this many layers
SPARSE_LAYERS = 120


def make_sparse(path: Path) -> None:
    """A GGUF whose header declares 400 GB of tensors, and which holds no more than that header."""
    shape = large_gguf.Shape.for_bytes(10**9)
    infos, offset = [], 0
    rows = SPARSE // (SPARSE_LAYERS * 9 * 2 * shape.hidden)
    for layer in range(SPARSE_LAYERS):
        for part in range(9):
            name = f"blk.{layer}.part_{part}.weight"
            infos.append(large_gguf.string(name) + struct.pack("<IQQIQ", 2, shape.hidden, rows, 1, offset))
            offset += -(-rows * shape.hidden * 2 // 32) * 32
    pairs = large_gguf.metadata(shape)
    header = b"".join([struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(pairs)), *pairs, *infos])
    with path.open("wb") as file:
        file.write(header)
        file.truncate(-(-len(header) // 32) * 32 + offset)


def make_shards(folder: Path) -> None:
    """A Hugging Face folder with 1,000 safetensors files of one small tensor each."""
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096}
    config |= {"num_attention_heads": 32, "num_hidden_layers": SHARDS, "max_position_embeddings": 8192}
    config |= {"rope_theta": 500000.0, "num_key_value_heads": 8, "vocab_size": 128256, "intermediate_size": 14336}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    places = {}
    for number in range(SHARDS):
        name, tensor = (
            f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors",
            f"model.layers.{number}.mlp.up_proj.weight",
        )
        text = json.dumps({tensor: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
        places[tensor] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@dataclass(frozen=True)
class Target:
    """A wanted relation of measured values."""

    name: str
    limit: float
    unit: str
    value: Callable[[dict[str, Row]], float]


def synced(rows: dict[str, Row]) -> float:
    return rows["cp + sync"].median


def full_digest(rows: dict[str, Row]) -> float:
    return rows["new file, full"].median / max(synced(rows), rows["sha256sum"].median)


def over(name: str, start: str) -> Callable[[dict[str, Row]], float]:
    return lambda rows: rows[name].median - rows[start].median


TARGETS = [
    Target("inspect over Python start", 0.15, "s", over("inspect", "python + numpy")),
    Target("diff over Python start", 0.15, "s", over("diff", "python + numpy")),
    Target("freqs over Python start", 0.15, "s", over("freqs", "python + numpy")),
    Target("gguf reader / inspect, at least", 50, "x", lambda r: r["gguf reader"].median / r["inspect"].median),
    Target("new file without digest / cp + sync", 1.1, "x", lambda r: r["new file, no digest"].median / synced(r)),
    Target(
        "new file, full digest / slower of cp + sync and sha256sum",
        1.15,
        "x",
        full_digest,
    ),
    Target("in place", 0.5, "s", lambda r: r["in place"].median),
    Target("in place, sparse 400 GB", 0.5, "s", lambda r: r["in place, sparse"].median),
    Target("1,000 shards inspected", 1.0, "s", lambda r: r["inspect 1,000 shards"].median),
    Target("--help over bare Python", 0.12, "s", over("--help", "bare python")),
    Target("peak memory of ropepatch", 120, "MiB", lambda r: max(row.peak for row in r.values() if ours(row))),
]


def ours(row: Row) -> bool:
    return "ropepatch" in Path(row.command[0]).name or "ropepatch" in row.command[2:3]


class Bench:
    """The commands in their order, and what each needs before and leaves behind."""

    def __init__(self, folder: Path, size: int, repeats: int) -> None:
        self.folder, self.size, self.repeats = folder, size, repeats
        self.model, self.sparse, self.shards = folder / "model.gguf", folder / "sparse.gguf", folder / "shards"
        self.out = folder / "out"
        self.rows: dict[str, Row] = {}

    def make(self) -> None:
        large_gguf.make_file(self.model, self.size)
        make_sparse(self.sparse)
        make_shards(self.shards)
        self.out.mkdir()

    def run(self) -> None:
        program, python = script("ropepatch", "ropepatch"), sys.executable
        model, out = str(self.model), str(self.out / "out.gguf")
        apply = [*program, "apply", "-q", "--method", "yarn", "--factor", "4"]
        with self.model.open("rb", buffering=0) as stream:
            while stream.read(MIB):
                pass
        self.measure(
            ("bare python", [python, "-c", "pass"]),
            ("python + numpy", [python, "-c", "import numpy, click"]),
            ("--help", [*program, "--help"]),
            ("inspect", [*program, "inspect", model]),
            ("freqs", [*program, "freqs", model]),
            ("diff", [*program, "diff", model, model]),
            ("inspect 1,000 shards", [*program, "inspect", str(self.shards)]),
        )
        for file, suffix in ((model, ""), (str(self.sparse), ", sparse")):
            self.measure(
                (f"in place{suffix}", [*apply, "--in-place", file]),
                (f"revert in place{suffix}", [*program, "revert", "-q", "--in-place", file]),
                in_turn=False,
            )
        self.measure(("overlay", [*apply, "--existing", "replace", "--overlay", "-o", out, self.overlay()]))
        run_once(Row("first", ["cp", model, out]))  # the first copy pays for fresh blocks
        self.measure(
            ("cp", ["cp", model, out]),
            ("cp + sync", ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", model, out]),
            ("new file, no digest", [*apply, "--digest", "none", "-o", out, model]),
            ("sha256sum", ["sha256sum", model]),
            ("new file, full", [*apply, "--digest", "full", "-o", out, model]),
            repeats=3,
        )
        self.measure(("gguf reader", [python, "-c", f"import gguf; gguf.GGUFReader({model!r})"]), repeats=1)

    def overlay(self) -> str:
        """A body that can be shared: made once, not measured."""
        base = self.folder / "base.gguf"
        program = script("ropepatch", "ropepatch")
        row = Row("base", [*program, "apply", "-q", "--method", "ntk", "--factor", "2", "--overlay", "-o", str(base)])
        row.command.append(str(self.model))
        run_once(row)
        return str(self.folder / "base-00001-of-00002.gguf")

    def measure(self, *commands: tuple[str, list[str]], repeats: int | None = None, in_turn: bool = True) -> None:
        """Run the commands in turn, backwards every second time (unless one needs the other before it)."""
        rows = [Row(name, command) for name, command in commands]
        self.rows |= {row.name: row for row in rows}
        for turn in range(repeats or self.repeats):
            for row in reversed(rows) if in_turn and turn % 2 else rows:
                for leftover in self.out.iterdir():
                    leftover.unlink()
                os.sync()
                if row.error is None:
                    run_once(row)
                result = row.error or f"{row.seconds[-1]:8.2f} s {row.peak_mib[-1]:8.0f} MiB"
                print(f"  {row.name:24} {turn + 1}  {result}", file=sys.stderr)


def met(target: Target, value: float) -> bool:
    return value >= target.limit if target.name.endswith("at least") else value <= target.limit


def document(bench: Bench) -> dict[str, Any]:
    """What was measured, as one JSON object."""
    values = [(target, target.value(bench.rows)) for target in TARGETS]
    return {
        "file_bytes": bench.model.stat().st_size,
        "filesystem": filesystem(bench.model),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "rows": [
            {"name": row.name, "seconds": row.seconds, "median_s": row.median, "peak_mib": row.peak, "error": row.error}
            for row in bench.rows.values()
        ],
        "targets": [
            {"name": t.name, "value": value, "limit": t.limit, "unit": t.unit, "met": met(t, value)}
            for t, value in values
        ],
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def page(report: dict[str, Any]) -> Iterator[str]:
    """The report as Markdown."""
    yield "# Performance"
    yield ""
    yield f"A GGUF of {report['file_bytes'] / 1e9:.2f} GB with a 152,000-token vocabulary on {report['filesystem']};"
    yield f"{report['machine']};"
    yield f"Python {report['python']}; load average {report['load']:.1f} while it ran. Made by"
    yield "`python benchmarks/storage.py --markdown`, which anyone can run; times are medians of commands, the start of"
    yield "Python included, on a warm page cache."
    yield ""
    yield "| command | median s | fastest s | peak MiB |"
    yield "|---|---:|---:|---:|"
    for row in report["rows"]:
        if row["error"]:
            yield f"| {row['name']} | {row['error']} | | |"
        else:
            yield f"| {row['name']} | {row['median_s']:.3f} | {min(row['seconds']):.3f} | {row['peak_mib']:.0f} |"
    yield ""
    yield "| target | measured | wanted | |"
    yield "|---|---:|---:|---|"
    for target in report["targets"]:
        sign = "≥" if target["name"].endswith("at least") else "≤"
        verdict = "met" if target["met"] else "missed"
        name, unit = target["name"].removesuffix(", at least"), target["unit"]
        yield f"| {name} | {target['value']:.3f} {unit} | {sign} {target['limit']:g} {unit} | {verdict} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what reading and writing cost.")
    parser.add_argument("--size", type=byte_count, default="4G", help="of the GGUF (default: 4G)")
    parser.add_argument("--dir", type=Path, default=Path("bench-data"), help="where to make it (default: bench-data)")
    parser.add_argument("--repeats", type=int, default=5, help="of each quick command (default: 5)")
    parser.add_argument("--markdown", action="store_true", help="print docs/performance.md")
    options = parser.parse_args()
    folder = options.dir.resolve() / f"storage-{os.getpid()}"
    options.dir.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(options.dir).free < options.size * 3.3:
        raise SystemExit(f"{options.dir}: {options.size * 3.3 / 1e9:.1f} GB have to be free")
    folder.mkdir()
    try:
        bench = Bench(folder, options.size, options.repeats)
        in_child(bench.make)
        bench.run()
        report = document(bench)
    finally:
        shutil.rmtree(folder)
    print("\n".join(page(report)) if options.markdown else json.dumps(report, indent=2))
    return 0 if all(target["met"] for target in report["targets"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
