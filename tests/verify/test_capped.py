"""Files that are larger than the address space of the process that reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="caps the address space of a process")

_HOLE = 40 << 30
_CAPPED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 30,) * 2)
from ropepatch.cli import main
sys.argv = ["ropepatch", *sys.argv[2:]]
sys.exit(main())
"""


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained fixture as a GGUF, and behind its tensors one of 40 GiB that no runtime reads: a hole in the file."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(ROOT / "fixtures" / "tiny-retriever.gguf")
    path = tmp_path_factory.mktemp("huge") / "huge.gguf"
    writer = GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.add_tensor_info("unused.weight", (_HOLE // 4096 // 4, 4096), np.dtype(np.float32), _HOLE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_padding(writer.fout[0], writer.fout[0].tell())
        writer.fout[0].write(tensor.data.tobytes())
    writer.close()
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + _HOLE)
    return path


def capped(gigabytes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process with so much address space."""
    return subprocess.run(
        [sys.executable, "-c", _CAPPED, str(gigabytes), *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("command", [("inspect",), ("freqs", "--length", "1024"), ("doctor",)])
def test_metadata_of_a_file_that_cannot_be_mapped(command: tuple[str, ...], huge: Path) -> None:
    """What reads headers maps a window of the file, not all of it."""
    ended = capped(1, command[0], huge, *command[1:], "--json")

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)


def test_forward_pass_of_a_file_that_cannot_be_mapped(huge: Path) -> None:
    """verify reads rows where they stand: 40 GiB pass in 8 GiB of address space, torch's own included."""
    pytest.importorskip("torch")
    ended = capped(8, "verify", huge, "--device", "cpu", "--no-record", "--json")

    assert ended.returncode == 0, ended.stderr or ended.stdout
    found = json.loads(ended.stdout)["predicate"]
    assert found["result"] == "PASSED"
    assert found["ropepatch_memory"]["total"] < found["ropepatch_memory"]["available"] < 8 << 30


def test_words_of_a_file_that_cannot_be_mapped(huge: Path) -> None:
    """The vocabulary, which servers of texts are asked in, is read from where it stands."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2)
import ropepatch
from ropepatch.audit.pieces import pieces_of
print(len(pieces_of(ropepatch.open({str(huge)!r}))))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)

    assert (ended.stdout.strip(), ended.stderr) == ("137", "")
