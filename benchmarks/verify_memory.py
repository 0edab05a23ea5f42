"""Runs `ropepatch verify` on checkpoints of a 70B model's shape in a process that may not have more than 15 GiB.

    python benchmarks/verify_memory.py                       # both formats, 1 and 2 layers; needs about 4 GB of disk
    python benchmarks/verify_memory.py --layers 1 --format gguf --dir /data --json
    python benchmarks/verify_memory.py --page docs/verify.md # and writes the page

The files have Llama 3.1 70B's shapes (8192 wide, 80 layers, 64 and 8 heads, 128,256 tokens): 141 GB in 32 shards of
bfloat16, and a GGUF of 40 GB in Q4_K and Q8_0. Embedding, attention and the head's first rows hold repeated random
blocks; the rest are holes, which read as zeros. That is the same for memory and time; of a model it says nothing. The
cap is on all memory but mapped files (RLIMIT_DATA): 16 GiB less 1 GiB for the rest of a machine. The peak is the
largest resident set as the kernel reports it. Exit code 1: a run failed, or its peak exceeded its own
estimate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MIB, GIB = 1 << 20, 1 << 30
MACHINE_GIB, MARGIN_GIB = 16, 1
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCABULARY = 8192, 80, 64, 8, 128, 28672, 128256
TRAINED = 8192
SHARDS = 32
#: of the head, as many rows are filled
HEAD_ROWS = 4096

#: role -> (rows, columns), name in a config's folder, name in a GGUF, GGUF type
MATRICES = {
    "q":    (HEADS * HEAD_DIM, HIDDEN,    "self_attn.q_proj", "attn_q",      "Q4_K"),
    "k":    (KV_HEADS * HEAD_DIM, HIDDEN, "self_attn.k_proj", "attn_k",      "Q4_K"),
    "v":    (KV_HEADS * HEAD_DIM, HIDDEN, "self_attn.v_proj", "attn_v",      "Q8_0"),
    "o":    (HIDDEN, HEADS * HEAD_DIM,    "self_attn.o_proj", "attn_output", "Q4_K"),
    "gate": (INNER, HIDDEN,               "mlp.gate_proj",    "ffn_gate",    "Q4_K"),
    "up":   (INNER, HIDDEN,               "mlp.up_proj",      "ffn_up",      "Q4_K"),
    "down": (HIDDEN, INNER,               "mlp.down_proj",    "ffn_down",    "Q4_K"),
}  # fmt: skip
FILLED = ("q", "k", "v", "o")
NORMS = (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"))

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": INNER,
    "vocab_size": VOCABULARY, "max_position_embeddings": TRAINED, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip


# ---------------------------------------------------------------- the files


def block(kind: str, row: int) -> bytes:
    """Sixteen random rows of ``row`` bytes in a type: small numbers in all of them."""
    import numpy as np

    draw = np.random.default_rng(1)
    if kind == "BF16":
        values = draw.normal(0, 0.02, 16 * row // 2).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    size, scales = {"Q4_K": (144, 2), "Q8_0": (34, 1)}[kind]
    raw = draw.integers(0, 256, (16 * row // size, size), np.uint8)
    raw[:, : 2 * scales] = np.full(scales, 1e-4, np.float16).view(np.uint8)
    return raw.tobytes()


def fill(path: Path, offset: int, size: int, kind: str, row: int) -> None:
    """Write repeated blocks over ``size`` bytes."""
    piece = block(kind, row)
    with open(path, "r+b") as file:
        file.seek(offset)
        while size:
            size -= file.write(piece[:size])


def ones(path: Path, offset: int, count: int, kind: str) -> None:
    """Write ``count`` ones: a norm's weight."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write((b"\x80\x3f" if kind == "BF16" else b"\x00\x00\x80\x3f") * count)


def make_folder(folder: Path, layers: int) -> Path:
    """The checkpoint as a Hugging Face folder; what the first ``layers`` layers read is filled."""
    model = folder / "llama-70b"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG, indent=2))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        for rows, columns, name, _, _ in MATRICES.values():
            shapes[f"model.layers.{layer}.{name}.weight"] = (rows, columns)
        for name, _ in NORMS:
            shapes[f"model.layers.{layer}.{name}.weight"] = (HIDDEN,)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    names, per = list(shapes), -(-len(shapes) // SHARDS)
    index = {}
    wanted = {f"model.layers.{layer}.{MATRICES[role][2]}.weight" for layer in range(layers) for role in FILLED}
    for number in range(SHARDS):
        path = model / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        header: dict[str, Any] = {}
        end = 0
        for name in names[number * per : (number + 1) * per]:
            start = end
            end += 2 * shapes[name][0] * (shapes[name][1] if len(shapes[name]) > 1 else 1)
            header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [start, end]}
            index[name] = path.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        for name, entry in header.items():
            start, end = (8 + len(text) + at for at in entry["data_offsets"])
            if len(entry["shape"]) == 1:
                ones(path, start, HIDDEN, "BF16")
            elif name in wanted or name == "model.embed_tokens.weight":
                fill(path, start, end - start, "BF16", 2 * entry["shape"][1])
            elif name == "lm_head.weight":
                fill(path, start, HEAD_ROWS * 2 * HIDDEN, "BF16", 2 * HIDDEN)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return model


def make_gguf(folder: Path, layers: int) -> Path:
    """The checkpoint as one quantised GGUF, with a vocabulary of its size."""
    import gguf
    import numpy as np

    path = folder / "llama-70b-Q4_K.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(TRAINED)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{number}" for number in range(VOCABULARY)])
    sizes: dict[str, tuple[int, str, int]] = {}

    def announce(name: str, shape: tuple[int, ...], kind: str) -> None:
        number = gguf.GGMLQuantizationType[kind]
        columns, unit = gguf.GGML_QUANT_SIZES[number]
        row = shape[-1] // columns * unit
        sizes[name] = (row * (shape[0] if len(shape) > 1 else 1), kind, row)
        stored = (shape[0], row) if kind != "F32" else shape
        writer.add_tensor_info(
            name, stored, np.dtype(np.float32 if kind == "F32" else np.uint8), sizes[name][0], number
        )

    announce("token_embd.weight", (VOCABULARY, HIDDEN), "Q4_K")
    for layer in range(LAYERS):
        for rows, columns, _, name, kind in MATRICES.values():
            announce(f"blk.{layer}.{name}.weight", (rows, columns), kind)
        for _, name in NORMS:
            announce(f"blk.{layer}.{name}.weight", (HIDDEN,), "F32")
    announce("output_norm.weight", (HIDDEN,), "F32")
    announce("output.weight", (VOCABULARY, HIDDEN), "Q8_0")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    alignment = 32
    at = -(-path.stat().st_size // alignment) * alignment
    wanted = {f"blk.{layer}.{MATRICES[role][3]}.weight" for layer in range(layers) for role in FILLED}
    for name, (size, kind, row) in sizes.items():
        os.truncate(path, at + size)
        if kind == "F32":
            ones(path, at, HIDDEN, "F32")
        elif name in wanted or name == "token_embd.weight":
            fill(path, at, size, kind, row)
        elif name == "output.weight":
            fill(path, at, HEAD_ROWS * row, kind, row)
        at = -(-(at + size) // alignment) * alignment
    os.truncate(path, at)
    return path


# ---------------------------------------------------------------- the runs


def measure(ref: Path, layers: int, limit: float | None, cap: int) -> dict[str, Any]:
    """One run of the command: what it printed, its time, and its peak."""
    command = [sys.executable, "-m", "ropepatch", "verify", str(ref), "--layers", str(layers), "--json", "--no-record"]
    if limit:
        command += ["--memory", f"{limit:g}"]
    started = time.monotonic()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (cap, cap)),
    )  # fmt: skip
    assert child.stdout
    assert child.stderr
    out, err = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    found: dict[str, Any] = {
        "checkpoint": ref.name, "layers": layers, "memory_gib": limit, "code": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": usage.ru_maxrss // 1024,
    }  # fmt: skip
    try:
        predicate = json.loads(out)["predicate"]
    except ValueError:
        return {**found, "error": (err.strip().splitlines() or ["no output"])[-1]}
    memory = predicate["ropepatch_memory"]
    return {
        **found,
        "estimate_mib": memory["total"] >> 20,
        "held_mib": memory["held_weights"] >> 20,
        "failed": predicate["failedTests"],
        "passed": predicate["passedTests"],
    }


def patched(ref: Path) -> Path:
    """A YaRN x4 variant: an overlay, or a folder of links, so that no weight is written."""
    target = ref.with_name("yarn" + ref.suffix)
    more = ["--overlay"] if ref.suffix == ".gguf" else []
    command = [sys.executable, "-m", "ropepatch", "apply", "--method", "yarn", "--factor", "4", str(ref)]
    done = subprocess.run(
        [*command, "-o", str(target), "--digest", "none", "-q", *more],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return Path(done.stdout.strip())


def runs(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """All measurements, each as it is made."""
    cap = int((MACHINE_GIB - MARGIN_GIB) * GIB)
    makers = {"safetensors": make_folder, "gguf": make_gguf}
    for kind in options.format or makers:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            source = makers[kind](Path(place), max(options.layers))
            size = sum(path.stat().st_size for path in ([source] if source.is_file() else source.iterdir()))
            ref = patched(source)
            for layers in options.layers:
                for limit in options.memory:
                    row = {"format": kind, "gb": round(size / 1e9), **measure(ref, layers, limit, cap)}
                    print(json.dumps(row), file=sys.stderr)
                    yield row


def page(report: dict[str, Any]) -> Iterator[str]:
    """docs/verify.md."""
    yield "# What the forward pass takes"
    yield ""
    yield (
        "`ropepatch verify --layers N` on checkpoints with the shapes of Llama 3.1 70B (most of the files are holes), "
        f"in a process that may not have more than {MACHINE_GIB - MARGIN_GIB} GiB (RLIMIT_DATA)."
    )
    yield (
        f"{report['processor']}, {report['cores']} cores, {report['system']}; torch {report['torch']}; load average "
        f"{report['load']} at its end. Made by `{report['command']}`."
    )
    yield ""
    yield "| checkpoint | size GB | layers | `--memory` | estimate MiB | of it held | peak MiB | CPU s | s | failed |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for row in report["runs"]:
        limit = f"{row['memory_gib']:g}" if row["memory_gib"] else ""
        failed = row.get("error") or ", ".join(row["failed"]) or "none"
        yield (
            f"| {row['format']} | {row['gb']} | {row['layers']} | {limit} | {row.get('estimate_mib', '')} | "
            f"{row.get('held_mib', '')} | {row['peak_mib']} | {row['cpu_seconds']} | {row['seconds']} | {failed} |"
        )
    yield ""
    yield (
        "The estimate is printed before anything is loaded. Weights are held out of half of what is free, so as not to "
        "be read and dequantised again for each of the passes; with less memory they are read again."
    )


def _shown(arguments: list[str]) -> Iterator[str]:
    """The arguments without the folder, which is this machine's."""
    words = iter(arguments)
    for word in words:
        if word == "--dir":
            next(words, None)
        elif not word.startswith("--dir="):
            yield word


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("ascii", "replace"))
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def main() -> int:
    """Measure, print, judge."""
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("bench-data"), help="where the files are made")
    parser.add_argument("--format", action="append", choices=["safetensors", "gguf"])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", type=float, nargs="+", default=[0, 2], help="values of --memory; 0: not given")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, help="write the page there")
    options = parser.parse_args()
    made = not options.dir.exists()
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        found = list(runs(options, options.dir))
    finally:
        if made:
            shutil.rmtree(options.dir, ignore_errors=True)
    report = {
        "command": " ".join(("python benchmarks/verify_memory.py", *_shown(sys.argv[1:]))),
        "processor": processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}",
        "torch": version("torch"), "load": round(os.getloadavg()[0], 1), "runs": found,
    }  # fmt: skip
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(page(report)))
    if options.page:
        options.page.write_text("\n".join(page(report)) + "\n", encoding="utf-8")
    bad = [row for row in found if row["code"] != 0 or row["peak_mib"] > row.get("estimate_mib", 0)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
