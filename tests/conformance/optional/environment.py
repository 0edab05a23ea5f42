"""Makes the virtual environment of `make conformance`: vLLM's Python files without its compiled ones, and mlx-lm.

vLLM's wheel is built for CUDA and its requirements come to many gigabytes. Its rotary classes are plain torch: they run
on a CPU from the .py files alone, once the metadata names a version that ends in `cpu`, by which vLLM chooses its
platform. What the project's own environment has (torch, transformers, pytest) is used from there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VLLM = "0.33.0"
#: what importing vLLM's configuration and rotary classes takes
LIGHT = (
    "aiohttp", "anthropic", "blake3", "cachetools", "cbor2", "cloudpickle", "depyf", "einops", "fastapi", "ijson",
    "lark", "llguidance", "mistral_common", "msgspec", "openai", "orjson", "oss-harmony", "partial-json-parser",
    "pillow", "prometheus_client", "psutil", "py-cpuinfo", "pybase64", "python-json-logger", "pyyaml", "pyzmq",
    "regex", "requests", "setproctitle", "tiktoken", "uvloop", "watchfiles", "xgrammar",
)  # fmt: skip
MLX = ("mlx[cpu]", "mlx-lm==0.32.2")


def run(*command: str | Path) -> str:
    """Run a command to its end; its output is returned, its errors shown."""
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def site_packages(python: Path) -> Path:
    """Where an environment keeps its packages."""
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))


def add_vllm(python: Path, target: Path) -> None:
    """vLLM's .py files, and as much metadata as its own platform check reads."""
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, f"vllm=={VLLM}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            wheel.extractall(target, [name for name in wheel.namelist() if name.endswith(".py")])
    metadata = target / f"vllm-{VLLM}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n", encoding="utf-8")


def main() -> None:
    """Make the environment, or leave a finished one as it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="the environment to make")
    folder = parser.parse_args().folder
    finished = folder / "finished"
    if finished.exists():
        return
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    target = site_packages(python)
    (target / "project.pth").write_text(f"{site_packages(Path(sys.executable))}\n", encoding="utf-8")
    print(f"fetching the {VLLM} wheel of vLLM (340 MB, only its .py files are kept) ...", flush=True)
    add_vllm(python, target)
    print("installing what they import, and mlx-lm ...", flush=True)
    run(python, "-m", "pip", "install", "--quiet", *LIGHT)
    if sys.platform in ("linux", "darwin"):
        run(python, "-m", "pip", "install", "--quiet", *MLX)
    finished.touch()


if __name__ == "__main__":
    main()
