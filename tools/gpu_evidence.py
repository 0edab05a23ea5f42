"""Runs the tests that need a CUDA device, and `verify --device cuda` on the fixtures, and keeps what came out.

    python tools/gpu_evidence.py --name h200        # writes docs/evidence/h200.json and docs/evidence/h200.txt
    python tools/gpu_evidence.py --rehearse --into rehearsal         # the same steps on the CPU: is everything there?

The JSON holds the card, the versions, each test by name with its outcome, and the statement of each verification; the
text is what a terminal showed. The package need not be installed, only what it needs, in whatever Python runs this: its
torch is used as it is. Takes a few minutes. Exit code 0: everything passed; 1: something failed; 2: there is no CUDA
device here, no torch that sees it, or a package is missing, and nothing is written.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ("tiny-retriever", "tiny-retriever.gguf", "tiny-retriever-Q8_0.gguf")
#: engine, dtype
WAYS = (("torch", "float32"), ("torch", "bfloat16"), ("transformers", "float32"), ("transformers", "bfloat16"))
#: module -> what pip calls it
NEEDED = {
    "click": "click", "gguf": "gguf", "huggingface_hub": "huggingface-hub", "hypothesis": "hypothesis",
    "jsonschema": "jsonschema", "numpy": "numpy", "pytest": "pytest", "rich": "rich", "safetensors": "safetensors",
    "torch": "torch", "transformers": "transformers", "yaml": "pyyaml",
}  # fmt: skip
#: seconds for one command
PATIENCE = 300


def missing(device: str) -> str | None:
    """What this machine lacks, None when it lacks nothing."""
    if lacks := [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]:
        return f"{sys.executable} lacks packages: pip install {' '.join(lacks)}"
    import torch

    if device == "cpu":
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a build with it (pytorch.org says which)"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device: is there a card, and is its driver loaded (nvidia-smi)?"
    return None


def surroundings(device: str) -> dict[str, Any]:
    """The card, its driver and the versions."""
    import torch

    from ropepatch.verify import surroundings as found

    if device == "cpu":
        return {"device": found.device_name(device), **found.libraries()}
    card = torch.cuda.get_device_properties(0)
    driver = None
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")[0] or None
    return {
        "device": card.name,
        "memory_gib": round(card.total_memory / (1 << 30), 1),
        "capability": f"{card.major}.{card.minor}",
        "driver": driver,
        **found.libraries(),
    }


def child(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python with the repository's package; what takes too long ends with 124."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *map(str, arguments)]
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "NO_COLOR": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"ended after {PATIENCE} seconds\n")


def marked() -> list[str]:
    """The files that have tests for a device: collecting all others would need all that they need."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "@pytest.mark.gpu" in path.read_text("utf-8")
    )


def tests() -> tuple[list[dict[str, Any]], str]:
    """Outcome of every test marked `gpu`, and pytest's own words."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "tests.xml")
        done = child("-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", f"--junitxml={record}", *marked())
        cases = ElementTree.parse(record).getroot().iter("testcase") if record.exists() else []
        found = [
            {
                "test": f"{case.get('classname')}::{case.get('name')}",
                "outcome": next((kind.tag for kind in case if kind.tag in ("failure", "error", "skipped")), "passed"),
            }
            for case in cases
        ]
    return found, done.stdout + done.stderr


def verifications(device: str) -> tuple[list[dict[str, Any]], str]:
    """YaRN x4 of each fixture, verified on the card in each way that its format allows."""
    found, shown = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in FIXTURES:
            source = ROOT / "fixtures" / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
            made = child("-m", "ropepatch", "apply", "--method", "yarn", "--factor", 4, name, "-q", folder=folder)
            output = made.stdout.strip()
            for engine, dtype in WAYS:
                if engine == "transformers" and not source.is_dir():
                    continue
                command = ["verify", output, "--device", device, "--engine", engine, "--dtype", dtype, "--no-record"]
                told = child("-m", "ropepatch", *command, folder=folder)
                shown.append(
                    f"$ ropepatch {' '.join(command)}\n{told.stderr}{told.stdout}exit code {told.returncode}\n"
                )
                statement = child("-m", "ropepatch", *command, "--json", folder=folder)
                document = json.loads(statement.stdout) if statement.stdout else None
                found.append({"command": command, "exit_code": told.returncode, "statement": document})
    return found, "\n".join(shown)


def main() -> int:
    """Run, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="of the two files; default: the card's")
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "evidence")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, where the tests are skipped; needs --into")
    options = parser.parse_args()
    if options.rehearse and options.into == parser.get_default("into"):
        parser.error("--rehearse writes no evidence: give --into another folder")
    sys.path.insert(0, str(ROOT))
    device = "cpu" if options.rehearse else "cuda"
    if (lack := missing(device)) is not None:
        print(f"gpu_evidence: nothing was run and nothing is written: {lack}", file=sys.stderr)
        return 2
    machine = surroundings(device)
    outcomes, words = tests()
    checked, shown = verifications(device)
    good = ("passed", "skipped") if options.rehearse else ("passed",)
    bad = [item["test"] for item in outcomes if item["outcome"] not in good]
    bad += [" ".join(item["command"]) for item in checked if item["exit_code"] != 0 or item["statement"] is None]
    if not outcomes:
        bad.append("no test is marked gpu")
    name = options.name or "-".join(machine["device"].lower().split())
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    options.into.mkdir(parents=True, exist_ok=True)
    document = {"date": date, **machine, "failed": bad, "tests": outcomes, "verifications": checked}
    (options.into / f"{name}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    head = "\n".join(f"{key}: {value}" for key, value in {"date": date, **machine}.items())
    text = f"{head}\n\n$ pytest -m gpu -v\n{words}\n{shown}".replace(sys.executable, "python").replace(str(ROOT), ".")
    (options.into / f"{name}.txt").write_text(text, "utf-8")
    print(f"{len(outcomes)} tests and {len(checked)} verifications on {machine['device']}, {len(bad)} failed")
    for item in bad:
        print(f"failed: {item}")
    print(f"written: {options.into / name}.json and .txt")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
