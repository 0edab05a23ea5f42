"""The gguf library's reader, loaded without the rest of its package."""

from __future__ import annotations

import subprocess
import sys

from tests.support.command import ROOT

FILE = ROOT / "fixtures" / "tiny-retriever.gguf"


def run(program: str) -> list[str]:
    """What a program prints in a process of its own, word by word."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_reader_comes_without_its_package() -> None:
    """After the reader was used neither its package nor YAML is loaded, and the package imported then is whole."""
    program = f"""
import sys
from pathlib import Path
from ropepatch.verify import skeleton
seen = skeleton.read_with_gguf(Path({str(FILE)!r}))
loaded = [name for name in sys.modules if name.partition(".")[0] in ("gguf", "yaml")]
print(seen.keys["general.architecture"], seen.tensor_count, loaded)
import gguf
print(len(gguf.GGUFReader({str(FILE)!r}).tensors), gguf.GGUFWriter.__name__, gguf.metadata.yaml.__name__)
"""
    architecture, count, *loaded, again, writer, yaml = run(program)
    assert (architecture, loaded, writer, yaml) == ("llama", ["[]"], "GGUFWriter", "yaml")
    assert int(count) == int(again) > 0


def test_reader_of_a_loaded_package_is_taken() -> None:
    """Where somebody has imported gguf already, its reader is used and stays as it is."""
    program = "import gguf; from ropepatch.verify import skeleton; print(skeleton.library() is gguf.gguf_reader)"
    assert run(program) == ["True"]
