"""Measures ropepatch on a large GGUF against cp, sha256sum, gguf-new-metadata and the gguf library's reader.

    python benchmarks/large_gguf.py                  # a 4 GB file in ./bench-data, removed afterwards
    python benchmarks/large_gguf.py --size 200M --dir /data --keep --json

The file has llama's layout, a 152,000-token vocabulary and real blocks on the disk. All commands read it from the same
warm page cache; before each one the outputs of the last are gone and the disk has nothing left to write. The order of
the copies is turned round at every repeat. Times are medians; peak memory is the largest resident set of any repeat.
Exit code 1: a target is missed.

Only the standard library is imported here, and the file is made by a child: a child's peak, as the kernel reports it,
starts from that of its parent, so the parent has to stay small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MIB = 1 << 20
ALIGNMENT = 32
VOCABULARY, MERGES = 152_000, 151_000

INSPECT_OVER_START_S = 0.35
APPLY_OVER_CP = 1.25
PEAK_MIB = 200.0

# ---------------------------------------------------------------- the file

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SCALARS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}
TYPE_F32, TYPE_F16 = 0, 1
ITEM_SIZE = {TYPE_F32: 4, TYPE_F16: 2}


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(key: str, kind: int, value: Any) -> bytes:
    body = string(value) if kind == STRING else struct.pack(SCALARS[kind], value)
    return string(key) + struct.pack("<I", kind) + body


def array(key: str, kind: int, values: list[Any]) -> bytes:
    head = string(key) + struct.pack("<IIQ", ARRAY, kind, len(values))
    if kind == STRING:
        return head + b"".join(map(string, values))
    return head + struct.pack(f"<{len(values)}{SCALARS[kind][1:]}", *values)


def words(count: int) -> list[str]:
    """Distinct tokens of the lengths and alphabets that byte-level BPE vocabularies have: most start with a space (Ġ),
    some are written in other scripts, some are code and digits."""
    draw = random.Random(4)
    others = ("абвгдежзиклмнопрстуфхцчшыя", "的一是不了人我在有他这中大来上国", "_(){}=.,;:/-<>0123456789")
    alphabets = ("etaoinshrdlucmfwypvbgkjqxz",) * 12 + others
    seen: dict[str, None] = {}
    while len(seen) < count:
        alphabet = draw.choice(alphabets)
        letters = "".join(draw.choices(alphabet, k=min(24, 1 + int(draw.gammavariate(3.0, 1.8)))))
        seen[("Ġ" if draw.random() < 0.55 else "") + letters] = None
    return list(seen)


@dataclass(frozen=True)
class Shape:
    """Sizes of a llama whose float16 tensors come to a wanted number of bytes (or up to a block more)."""

    hidden: int
    feed_forward: int
    layers: int

    @classmethod
    def for_bytes(cls, wanted: int) -> Shape:
        hidden = next((h for h in (2048, 1024, 512, 256) if VOCABULARY * h * 2 * 2 <= wanted), 128)
        one = sum(rows * columns * 2 for _, rows, columns in cls(hidden, hidden * 3, 1).block(0))
        layers = max(1, round((wanted - VOCABULARY * hidden * 2) / one))
        return cls(hidden, hidden * 3, layers)

    def block(self, layer: int) -> list[tuple[str, int, int]]:
        h, f, prefix = self.hidden, self.feed_forward, f"blk.{layer}."
        matrices = [("attn_q", h, h), ("attn_k", h // 2, h), ("attn_v", h // 2, h), ("attn_output", h, h)]
        matrices += [("ffn_gate", f, h), ("ffn_up", f, h), ("ffn_down", h, f)]
        return [(f"{prefix}{name}.weight", rows, columns) for name, rows, columns in matrices]

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """(name, dimensions as GGUF orders them, type)"""
        yield "token_embd.weight", (self.hidden, VOCABULARY), TYPE_F16
        yield "output_norm.weight", (self.hidden,), TYPE_F32
        for layer in range(self.layers):
            yield f"blk.{layer}.attn_norm.weight", (self.hidden,), TYPE_F32
            yield f"blk.{layer}.ffn_norm.weight", (self.hidden,), TYPE_F32
            for name, rows, columns in self.block(layer):
                yield name, (columns, rows), TYPE_F16


def metadata(shape: Shape) -> list[bytes]:
    heads = shape.hidden // 64
    tokens = words(VOCABULARY)
    merges = [f"{token[: len(token) // 2 or 1]} {token[len(token) // 2 or 1 :] or 'e'}" for token in tokens[:MERGES]]
    return [
        scalar("general.architecture", STRING, "llama"),
        scalar("general.name", STRING, "benchmark"),
        scalar("general.file_type", UINT32, 1),
        scalar("general.alignment", UINT32, ALIGNMENT),
        scalar("llama.vocab_size", UINT32, VOCABULARY),
        scalar("llama.context_length", UINT32, 32768),
        scalar("llama.embedding_length", UINT32, shape.hidden),
        scalar("llama.block_count", UINT32, shape.layers),
        scalar("llama.feed_forward_length", UINT32, shape.feed_forward),
        scalar("llama.attention.head_count", UINT32, heads),
        scalar("llama.attention.head_count_kv", UINT32, heads // 2),
        scalar("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        scalar("llama.rope.dimension_count", UINT32, 64),
        scalar("llama.rope.freq_base", FLOAT32, 1000000.0),
        scalar("tokenizer.ggml.model", STRING, "gpt2"),
        scalar("tokenizer.ggml.pre", STRING, "qwen2"),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.scores", FLOAT32, [-float(rank) for rank in range(VOCABULARY)]),
        array("tokenizer.ggml.token_type", INT32, [1] * (VOCABULARY - 64) + [3] * 64),
        array("tokenizer.ggml.merges", STRING, merges),
        scalar("tokenizer.ggml.bos_token_id", UINT32, VOCABULARY - 2),
        scalar("tokenizer.ggml.eos_token_id", UINT32, VOCABULARY - 1),
        scalar("tokenizer.ggml.add_bos_token", BOOL, False),
    ]


def write_data(stream: BinaryIO, size: int) -> None:
    """Random blocks: one of 16 MiB, begun elsewhere each time, so that no two parts of the file are alike or sparse."""
    block = os.urandom(16 * MIB)
    turn = 0
    while size > 0:
        turn += 1
        start = (turn * 7919 * 64) % len(block)
        for part in (block[start:], block[:start]):
            stream.write(part[:size])
            size -= min(size, len(part))


def make_file(path: Path, size: int) -> None:
    shape = Shape.for_bytes(size)
    pairs = metadata(shape)
    infos, offset = [], 0
    for name, dimensions, kind in shape.tensors():
        infos.append(string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset))
        length = ITEM_SIZE[kind]
        for dimension in dimensions:
            length *= dimension
        offset += -(-length // ALIGNMENT) * ALIGNMENT
    header = b"".join([struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(pairs)), *pairs, *infos])
    with path.open("wb") as stream:
        stream.write(header + bytes(-len(header) % ALIGNMENT))
        write_data(stream, offset)


# ---------------------------------------------------------------- measuring


@dataclass
class Row:
    """One measured command: seconds and peak memory of each repeat."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def peak(self) -> float:
        return max(self.peak_mib, default=float("nan"))


def run_once(row: Row) -> None:
    """Runs the command and notes its wall time and peak resident set, or why it failed."""
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        child = subprocess.Popen(row.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        elapsed = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            row.error = f"exit {child.returncode}: {last[0][:200]}"
            return
    row.seconds.append(elapsed)
    row.peak_mib.append(usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024))


def script(name: str, module: str) -> list[str]:
    """A console script of the running environment, or its module where the script is not there."""
    beside = Path(sys.executable).parent / name
    return [str(beside)] if beside.exists() else [sys.executable, "-m", module]


class Bench:
    """The commands, and what each must find and leave on the disk."""

    def __init__(self, source: Path, repeats: int, only: set[str]) -> None:
        self.source, self.repeats, self.only = source, repeats, only
        self.folder = source.parent / f"out-{os.getpid()}"
        out = str(self.folder / "out.gguf")
        ropepatch = script("ropepatch", "ropepatch")
        apply = [*ropepatch, "apply", "--method", "yarn", "--factor", "4"]
        file, python = str(source), sys.executable
        reader = f"import gguf; gguf.GGUFReader({file!r})"
        new_metadata = script("gguf-new-metadata", "gguf.scripts.gguf_new_metadata")
        rows = [
            Row("start", [python, "-c", "import numpy, click"]),
            Row("inspect", [*ropepatch, "inspect", file]),
            Row("cp", ["cp", file, out]),
            Row("cp + sync", ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", file, out]),
            Row("apply", [*apply, "--digest", "none", "-o", out, file]),
            Row("sha256sum", ["sha256sum", file]),
            Row("apply full", [*apply, "--digest", "full", "-o", out, file]),
            Row("gguf reader", [python, "-c", reader]),
            Row("gguf-new-metadata", [*new_metadata, "--force", "--general-name", "renamed", file, out]),
        ]
        self.rows = {row.name: row for row in rows}

    def measure(self, names: list[str], repeats: int) -> None:
        """Runs the named commands in turn, backwards every second time, so that none always follows the same one."""
        for turn in range(repeats):
            for name in names if turn % 2 == 0 else reversed(names):
                row = self.rows[name]
                if (self.only and name not in self.only) or row.error:
                    continue
                self.clear()
                run_once(row)
                result = row.error or f"{row.seconds[-1]:8.2f} s {row.peak_mib[-1]:8.0f} MiB"
                print(f"  {name:18} {turn + 1}/{repeats}  {result}", file=sys.stderr)
        self.clear()

    def clear(self) -> None:
        for leftover in self.folder.iterdir():
            leftover.unlink()
        os.sync()

    def run(self) -> None:
        self.folder.mkdir()
        try:
            with self.source.open("rb", buffering=0) as stream:  # the page cache is warm for all or for none
                while stream.read(MIB):
                    pass
            self.measure(["start", "inspect"], self.repeats)
            run_once(Row("first", self.rows["cp"].command))  # the first copy pays for fresh blocks; nobody measures it
            self.measure(["cp", "apply", "cp + sync"], self.repeats)
            self.measure(["sha256sum", "apply full"], 3)
            self.measure(["gguf reader", "gguf-new-metadata"], 1)
        finally:
            shutil.rmtree(self.folder)


# ---------------------------------------------------------------- the report


@dataclass(frozen=True)
class Target:
    name: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.limit  # False for nan: what was not measured is not met


def targets(rows: dict[str, Row]) -> list[Target]:
    ours = [rows[name].peak for name in ("inspect", "apply", "apply full")]
    peak = max(ours) if all(value == value for value in ours) else float("nan")
    return [
        Target("inspect - start", rows["inspect"].median - rows["start"].median, INSPECT_OVER_START_S, "s"),
        Target("apply / cp", rows["apply"].median / rows["cp"].median, APPLY_OVER_CP, "x"),
        Target("peak memory of ropepatch", peak, PEAK_MIB, "MiB"),
    ]


RATIOS = [
    ("apply",      "cp + sync"),
    ("apply",      "gguf-new-metadata"),
    ("apply full", "sha256sum"),
    ("apply full", "cp"),
    ("inspect",    "gguf reader"),
]  # fmt: skip


def document(bench: Bench) -> dict[str, Any]:
    """What was measured, as one JSON object; what could not be measured is null."""

    def number(value: float) -> float | None:
        return round(value, 4) if value == value else None

    rows = bench.rows
    return {
        "file_bytes": bench.source.stat().st_size,
        "vocabulary": VOCABULARY,
        "filesystem": filesystem(bench.source),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "rows": [asdict(row) | {"median_s": number(row.median), "max_mib": number(row.peak)} for row in rows.values()],
        "ratios": {f"{a} / {b}": number(rows[a].median / rows[b].median) for a, b in RATIOS},
        "targets": [asdict(t) | {"value": number(t.value), "met": t.met} for t in targets(rows)],
    }


def filesystem(path: Path) -> str:
    probe = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=False)
    return probe.stdout.strip() or "unknown"


def table(report: dict[str, Any]) -> Iterator[str]:
    def cell(value: float | None, width: int, digits: int) -> str:
        return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"

    yield f"{report['file_bytes'] / 1e9:.2f} GB GGUF with {report['vocabulary']:,} tokens on {report['filesystem']}"
    yield f"Python {report['python']}, {report['system']}"
    yield ""
    yield f"{'command':18} {'median s':>9} {'min s':>8} {'max s':>8} {'peak MiB':>9}  repeats"
    for row in report["rows"]:
        seconds = row["seconds"]
        low, high = (min(seconds), max(seconds)) if seconds else (None, None)
        numbers = f"{cell(row['median_s'], 9, 3)} {cell(low, 8, 3)} {cell(high, 8, 3)} {cell(row['max_mib'], 9, 0)}"
        yield f"{row['name']:18} {numbers}  {len(seconds)}  {row['error'] or ''}".rstrip()
    yield ""
    for name, value in report["ratios"].items():
        yield f"{name:34} {cell(value, 8, 3)}"
    yield ""
    for target in report["targets"]:
        value, limit = cell(target["value"], 8, 3), f"{target['limit']:g}"
        unit = target["unit"]
        verdict = "not measured" if target["value"] is None else "met" if target["met"] else "MISSED"
        yield f"{target['name']:34} {value} {unit:4} target <= {limit:>5} {unit:4} {verdict}"


def byte_count(text: str) -> int:
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    try:
        size = int(float(number) * unit)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 4G, 200M or a number of bytes") from None
    if size < 50_000_000:
        raise argparse.ArgumentTypeError("the vocabulary alone needs about 50M; ask for more")
    return size


def at_least_three(text: str) -> int:
    if not text.isdigit() or int(text) < 3:
        raise argparse.ArgumentTypeError("a median needs at least 3 repeats")
    return int(text)


def in_child(action: Callable[[], None]) -> None:
    """Runs it in a fork, whose memory never counts as this process's."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise SystemExit("the file could not be made; is the disk full?")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure ropepatch on a large GGUF against cp and the gguf library.")
    parser.add_argument("--size", type=byte_count, default="4G", help="of the file (default: 4G)")
    parser.add_argument("--dir", type=Path, default=Path("bench-data"), help="where to make it (default: bench-data)")
    parser.add_argument("--repeats", type=at_least_three, default=5, help="of each quick command (default: 5)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure this row only; repeatable")
    parser.add_argument("--keep", action="store_true", help="keep the file, and use it if it is there already")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()

    source = options.dir.resolve() / f"large-{options.size}.gguf"
    bench = Bench(source, options.repeats, set(options.only))
    unknown = sorted(bench.only - set(bench.rows))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(bench.rows)}")
    options.dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.dir).free
    if free < options.size * 2.2:
        raise SystemExit(f"{options.dir}: {free / 1e9:.1f} GB free, {options.size * 2.2 / 1e9:.1f} GB needed")
    try:
        if not source.exists():
            print(f"making {source.name}", file=sys.stderr)
            partial = source.with_suffix(".partial")
            in_child(lambda: make_file(partial, options.size))
            partial.rename(source)
        bench.run()
        report = document(bench)
    finally:
        if not options.keep:
            source.unlink(missing_ok=True)
            source.with_suffix(".partial").unlink(missing_ok=True)
    print(json.dumps(report, indent=2) if options.json else "\n".join(table(report)))
    return 0 if all(target["met"] for target in report["targets"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
