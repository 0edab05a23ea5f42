"""Hostile files on the command line: one line, the right exit code, nothing left behind, little memory and time."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks import absurd_values, cage, gguf_cases, safetensors_cases
from tests.support import raw_gguf as raw
from tests.support.raw_gguf import Parts

MIB, SECONDS = 256, 2.0


def lay(folder: Path, files: Iterator[tuple[str, bytes]], name: str) -> dict[str, Path]:
    """Each file in a folder of its own."""
    paths = {}
    for number, (case, data) in enumerate(files):
        place = folder / str(number)
        place.mkdir()
        paths[case] = place / name
        paths[case].write_bytes(data)
    return paths


def hold(case: str, outcome: cage.Outcome, codes: tuple[int, ...]) -> None:
    """What every command keeps to, whatever it is given."""
    assert outcome.code in codes, f"{case}: {outcome}"
    assert "Traceback" not in outcome.err, f"{case}: {outcome}"
    assert outcome.mib <= MIB, f"{case}: {outcome.mib:.0f} MiB"
    assert outcome.seconds <= SECONDS, f"{case}: {outcome.seconds:.1f} s"
    assert not set(outcome.out + outcome.err) & set("\x00\x07\x08\x1b\x9b"), f"{case}: {outcome}"
    if outcome.code == 3:
        assert len(outcome.err.splitlines()) == 1, f"{case}: {outcome.err}"
        assert outcome.err.startswith("ropepatch: "), f"{case}: {outcome.err}"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (lambda: ((name, data) for name, (data, _) in gguf_cases.MALFORMED.items()), "model.gguf"),
        (lambda: iter(gguf_cases.ATTACKS.items()), "model.gguf"),
        (lambda: ((n, d) for n, d in safetensors_cases.every() if n in REFUSED), "model.safetensors"),
    ],
    ids=["gguf", "attacks", "safetensors"],
)
def test_a_broken_file_is_not_patched(files: object, name: str, tmp_path: Path) -> None:
    """`apply` says in one line what is wrong, exits with 3, and writes nothing at all."""
    paths = lay(tmp_path, files(), name)  # type: ignore[operator]
    outcomes = cage.run([["apply", "--method", "yarn", "--factor", "4", str(path)] for path in paths.values()])
    for (case, path), outcome in zip(paths.items(), outcomes, strict=True):
        hold(case, outcome, (3,))
        assert [left.name for left in path.parent.iterdir()] == [name], case


#: a sample over the checks; what the container refuses is the same for all of them
REFUSED = (
    "empty",
    "length of 2^64-1",
    "nested 100,000 deep",
    "not UTF-8",
    "a lone surrogate",
    "a number with thousands of digits",
    "dtype 'F128'",
    "shape whose product wraps",
    "offsets of 2^64",
    "a hole between",
    "two tensors overlap",
    "bytes behind the last tensor",
)


@pytest.mark.parametrize(
    ("command", "files", "name"),
    [
        (["inspect"], absurd_values.gguf_files, "model.gguf"),
        (["inspect"], absurd_values.configs, "config.json"),
    ],
    ids=["gguf", "config"],
)
def test_absurd_values_are_read_or_refused(command: list[str], files: object, name: str, tmp_path: Path) -> None:
    """Zeros, infinities, texts and lists where numbers belong: a reading, or one line; never a crash or a flood."""
    every = list(files())  # type: ignore[operator]
    chosen = every[:1] + every[1:][:: 1 if name == "model.gguf" else 4] + every[-6:]
    paths = lay(tmp_path, iter(dict(chosen).items()), name)
    outcomes = cage.run([[*command, str(path)] for path in paths.values()])
    for (case, _), outcome in zip(paths.items(), outcomes, strict=True):
        hold(case, outcome, (0, 3))
    assert outcomes[0].code == 0


def sparse(path: Path, head: bytes, size: int) -> Path:
    """A file of the size that begins with a head and goes on with a hole."""
    path.write_bytes(head)
    os.truncate(path, size)
    return path


def floods(folder: Path) -> Iterator[Path]:
    """Large files that are all in order as far as their lengths go."""
    tokens = raw.key("tokenizer.ggml.tokens", raw.ARRAY, raw.array(raw.STRING, 1 << 28))
    yield sparse(folder / "empty-texts.gguf", Parts([tokens]).build(), 3 << 30)
    texts = b"".join(raw.key(f"k{n}", raw.STRING, raw.text("", length=16 << 20)) for n in range(1))
    yield sparse(folder / "one-text.gguf", Parts([texts]).build(), 1 << 30)
    many = [raw.key(f"k{n}", raw.STRING, raw.text("\U0001f600" + "x" * 1_000_000)) for n in range(40)]
    (folder / "texts.gguf").write_bytes(Parts(many).build())
    yield folder / "texts.gguf"
    keys = b"".join(raw.key(f"{n:x}", raw.U8, b"\1") for n in range(300_000))
    (folder / "keys.gguf").write_bytes(Parts([keys], key_count=300_000).build())
    yield folder / "keys.gguf"
    infos = b"".join(raw.tensor(f"{n:x}", [0]) for n in range(300_000))
    (folder / "tensors.gguf").write_bytes(Parts([], [infos], tensor_count=300_000).build())
    yield folder / "tensors.gguf"
    yield sparse(folder / "zeros.safetensors", struct.pack("<Q", 99_000_000) + b"{", 1 << 30)
    entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(600_000))
    (folder / "many.safetensors").write_bytes(safetensors_cases.build(b"{" + entries + b"}"))
    yield folder / "many.safetensors"
    lists = b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"
    (folder / "lists.safetensors").write_bytes(safetensors_cases.build(lists))
    yield folder / "lists.safetensors"


def test_floods_are_bounded(tmp_path: Path) -> None:
    """Files that would fill the memory or take minutes are refused within 256 MiB and two seconds."""
    paths = list(floods(tmp_path))
    for path, outcome in zip(paths, cage.run([["inspect", str(path)] for path in paths]), strict=True):
        hold(path.name, outcome, (3,))


def test_what_is_just_within_the_limits(tmp_path: Path) -> None:
    """Headers a few times as large as any published one are read, within the same memory and time."""
    words = raw.key("w", raw.ARRAY, raw.array(raw.STRING, 1_500_000, raw.text("word") * 1_500_000))
    keys = b"".join(raw.key(f"k{n}", raw.U32, raw.u32(n)) for n in range(20_000))
    infos = b"".join(raw.tensor(f"blk.{n}.w", [8], offset=32 * n) for n in range(40_000))
    llama = dict(absurd_values._LLAMA)
    real = [raw.key(name, kind, payload) for name, (kind, payload) in llama.items()]
    count = 20_001 + len(real)
    parts = Parts([*real, words, keys], [infos], bytes(32 * 40_000), key_count=count, tensor_count=40_000)
    (tmp_path / "m.gguf").write_bytes(parts.build())
    place = tmp_path / "model.safetensors"
    entries = {f"layer.{n}.weight": safetensors_cases.entry(offsets=[8 * n, 8 * n + 8]) for n in range(50_000)}
    config = json.dumps({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2, "rope_theta": 1e4})
    place.write_bytes(safetensors_cases.build({"__metadata__": {"config": config}, **entries}, bytes(8 * 50_000)))
    for outcome in cage.run([["inspect", str(tmp_path / "m.gguf")], ["inspect", str(place)]]):
        hold("within", outcome, (0,))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    """A chat template (CVE-2024-34359), remote code and a pickle beside the config stay what they are: bytes."""
    evil = "{% for x in ().__class__.__base__.__subclasses__() %}{{ x.__init__.__globals__['os'].system('touch run') }}"
    keys = [raw.key(name, kind, payload) for name, (kind, payload) in absurd_values._LLAMA.items()]
    keys.append(raw.key("tokenizer.chat_template", raw.STRING, raw.text(evil + "{% endfor %}")))
    model = tmp_path / "model.gguf"
    model.write_bytes(Parts(keys, [raw.tensor("token_embd.weight", [8])], bytes(32)).build())
    folder = tmp_path / "folder"
    folder.mkdir()
    config = {**absurd_values._CONFIG, "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("evil.py", "configuration_evil.py", "modeling_evil.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    commands = [
        [*command, str(ref)]
        for ref in (model, folder)
        for command in (["inspect"], ["freqs"], ["doctor"], ["apply", "--method", "yarn", "--factor", "4"])
    ]
    for command, outcome in zip(commands, cage.run(commands), strict=True):
        hold(" ".join(command), outcome, (0, 1))
    assert not list(tmp_path.rglob("run"))
    assert not (Path.cwd() / "run").exists()
    assert (tmp_path / "model-yarn-4x.gguf").exists()
    assert (tmp_path / "folder-yarn-4x" / "config.json").exists()
