"""Runs the commands that the pages show, and writes what they print under them.

In the pages of `PAGES` every ```text block whose lines begin with `$ ` is a session, every
```python block is a script whose output follows below "prints", and `<!-- $ command -->` prepares without being shown.
A page runs from top to bottom in a fresh folder with the small model of fixtures/. `--check` compares instead of
writing; it exits 1 if they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import _page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/guide.md", "docs/manifest.md", "docs/publish.md")
WIDTH = 80
PIECE = re.compile(
    r"^<!-- \$ (?P<hidden>[^\n]+) -->$"
    r"|^```text\n(?P<session>\$ .*?)^```$"
    r"|^```python\n(?P<script>.*?)^```\n\nprints\n\n```text\n.*?^```$",
    re.DOTALL | re.MULTILINE,
)
#: what another environment prints otherwise
VARIES = re.compile(r"\bgguf \d+\.\d+\.\d+\b")

GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "head_dim": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 6,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "sliding_window": 512,
}


#: what a session can call, as arguments of this Python
PROGRAMS = {
    "ropepatch": "-m ropepatch ",
    "ropepatch-hook": "-m ropepatch.hook ",
    "model_signing": "-m model_signing ",
    "python": "",
}


def prepare(folder: Path) -> None:
    """What the sessions start from: model.gguf, model/, big-*.gguf, gemma3/, found.csv, KEY.pem, and programs."""
    shutil.copy(ROOT / "fixtures" / "tiny-llama.gguf", folder / "model.gguf")
    shutil.copytree(ROOT / "fixtures" / "tiny-llama", folder / "model")
    split(folder / "model.gguf", folder / "big.gguf")
    (folder / "gemma3").mkdir()
    (folder / "gemma3" / "config.json").write_text(json.dumps(GEMMA, indent=2) + "\n")
    (folder / "found.csv").write_text("".join(f"{round(1 + 3 * pair / 31, 4)}\n" for pair in range(32)))
    key_pair(folder)
    programs = folder / ".bin"
    programs.mkdir()
    for name, arguments in PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
        (programs / name).chmod(0o755)


def key_pair(folder: Path) -> None:
    """A key to sign with, and its public half."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "KEY.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "KEY.pub").write_bytes(public)


def split(source: Path, target: Path) -> None:
    """The model in shards of eight tensors, as the gguf library writes them."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama", split_max_tensors=8)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(command: str, folder: Path, extra: Mapping[str, str] | None = None) -> str:
    """What a command prints, stderr among it, without blanks at the ends of lines."""
    environment = {
        "PATH": f"{folder / '.bin'}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": str(WIDTH),
        "LC_ALL": "C.UTF-8",
        "FIXTURES": str(ROOT / "fixtures"),
        **(extra or {}),
    }
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    if "internal error" in done.stdout or "Traceback" in done.stdout:
        raise SystemExit(f"{command}\n{done.stdout}")
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().split("\n"))


def fresh(page: str, start: Callable[[Path], Mapping[str, str] | None] = prepare) -> str:
    """The page with the outputs that its commands have now.

    Args:
        page: its text.
        start: puts what the commands need into a folder; may return variables of their environment.
    """

    def piece(match: re.Match[str]) -> str:
        if match["hidden"]:
            run(match["hidden"], folder, extra)
            return match[0]
        if match["script"]:
            (folder / "script.py").write_text(match["script"], encoding="utf-8")
            return (
                f"```python\n{match['script']}```\n\nprints\n\n```text\n{run('python script.py', folder, extra)}\n```"
            )
        commands = [line[2:] for line in match["session"].split("\n") if line.startswith("$ ")]
        shown = [f"$ {command}\n{run(command, folder, extra)}".rstrip() for command in commands]
        return "```text\n" + "\n\n".join(shown) + "\n```"

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extra = start(folder)
        return PIECE.sub(piece, page)


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring the outputs shown in the pages up to date.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is stale")
    options = parser.parse_args()
    stale = []
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = fresh(before)
        if not options.check:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {name}")
        elif VARIES.sub("gguf", before) != VARIES.sub("gguf", after):
            stale.append(name)
            _page.tell_stale(name, VARIES.sub("gguf", before), VARIES.sub("gguf", after))
        else:
            print(f"{name} shows what its commands print")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
