"""What runs outside of the program: the pre-commit hook, the GitHub Action's script, the extension of hf."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

import ropepatch
from ropepatch import hook
from tests.support import tiny
from tests.support.command import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

SPEC = tiny.ModelSpec(layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "ROPEPATCH_", "GIT_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository of a model folder, a patched GGUF, and a config.json of something else."""
    root = tmp_path / "repo"
    root.mkdir()
    tiny.write_hf(root / "model", SPEC)
    tiny.write_gguf(tmp_path / "base.gguf", SPEC)
    ropepatch.open(tmp_path / "base.gguf").patch("yarn", 4.0).write(root / "out.gguf")
    (root / "web").mkdir()
    (root / "web" / "config.json").write_text('{"theme": "dark"}')
    return root


def break_config(root: Path) -> None:
    """A scaling that transformers refuses: yarn without a factor."""
    path = root / "model" / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters", None)
    path.write_text(json.dumps({**config, "rope_scaling": {"rope_type": "yarn"}}))


def test_checkpoints_are_found(repo: Path) -> None:
    """Folders, GGUF files and what lies beside them lead to each checkpoint once; other programs' configs to none."""
    wanted = [repo / "out.gguf", repo / "model"]

    assert hook.checkpoints([repo]) == wanted
    assert hook.checkpoints([repo / "model" / "config.json", repo / "model" / "model.safetensors"]) == [repo / "model"]
    assert hook.checkpoints([repo / "out.ropepatch.json", repo / "out.gguf"]) == [repo / "out.gguf"]
    assert hook.checkpoints([repo / "web" / "config.json"]) == []
    assert hook.checkpoints([repo / "x-00002-of-00003.gguf"]) == [repo / "x-00001-of-00003.gguf"]


def test_errors_of_rules_and_manifests(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sound repository passes; a broken config and a file that is not its manifest's fail, each by name."""
    assert hook.main([str(repo)]) == 0
    break_config(repo)
    (repo / "out.gguf").write_bytes((repo / "out.gguf").read_bytes()[:-1] + b"?")
    capsys.readouterr()

    assert hook.main([str(repo)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{repo / 'model'}: error: ") for line in lines)
    assert f"{repo / 'out.gguf'}: error: manifest, digests: another sha256 than the manifest's: out.gguf" in lines
    assert hook.main([str(repo / "out.gguf"), "--no-verify"]) == 0
    assert hook.main([str(repo / "nothing")]) == 2
    assert hook.main([str(repo), "--for", "vlm"]) == 2


def test_annotations_escape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A name cannot begin a second workflow command."""
    folder = tmp_path / "a,b:c%0A\n::error::x"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": ')

    assert hook.main(["--github", str(folder)]) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "a%2Cb%3Ac%250A%0A%3A%3Aerror%3A%3Ax" in out


def test_pre_commit(repo: Path, tmp_path: Path) -> None:
    """The real pre-commit runs the hook's entry on staged files, passes a sound commit and stops a broken one."""
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    (hook_of,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook_of["entry"] == "ropepatch-hook"  # a console script, which the next line stands for
    local = {**hook_of, "entry": f"{sys.executable} -m ropepatch.hook", "language": "system"}
    (repo / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": [local]}]}))
    home = environment(PRE_COMMIT_HOME=str(tmp_path / "cache"), HOME=str(tmp_path))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"]):
        subprocess.run([*git, *arguments], cwd=repo, env=home, check=True)

    def run() -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pre_commit", "run"]
        return subprocess.run(line, cwd=repo, env=home, capture_output=True, text=True, timeout=120, check=False)

    good = run()
    break_config(repo)
    subprocess.run([*git, "add", "-A"], cwd=repo, env=home, check=True)
    bad = run()

    assert (good.returncode, bad.returncode) == (0, 1), good.stdout + good.stderr
    assert "RoPE settings of models" in good.stdout
    assert "model: error: " in bad.stdout


def test_the_hook_looks_at_the_right_files() -> None:
    """The hook's pattern takes the files of models and manifests, and no others."""
    (found,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    taken = ["config.json", "a/config.json", "a/b.gguf", "a/model.safetensors", "x.ropepatch.json", "a/ropepatch.json"]

    assert all(re.search(found["files"], name) for name in taken)
    assert not any(re.search(found["files"], name) for name in ("tokenizer.json", "myconfig.json", "a.gguf.txt"))


def action(folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], str, str]:
    """Run the action's script; returns it with its summary and outputs."""
    summary, output = folder / "summary.md", folder / "output.txt"
    summary.write_text("")
    output.write_text("")
    files = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output), "ROPEPATCH_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "tools" / "action.sh")],
        cwd=folder,
        env=environment(**files, **variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, summary.read_text(), output.read_text()


def test_action_checks(repo: Path, tmp_path: Path) -> None:
    """The script passes a sound repository, and annotates, counts and summarises the errors of a broken one."""
    good, summary, outputs = action(tmp_path, ROPEPATCH_PATH=str(repo), ROPEPATCH_RUNTIMES="transformers,vllm")
    break_config(repo)
    bad, told, counted = action(tmp_path, ROPEPATCH_PATH=str(repo))

    assert (good.returncode, outputs) == (0, "errors=0\n"), good.stdout + good.stderr
    assert summary.startswith("### ropepatch\n\n0 errors, 0 warnings")
    assert bad.returncode == 1
    count = bad.stdout.count("::error file=")
    assert count >= 1
    assert counted == f"errors={count}\n"
    assert f"    error  {repo / 'model'}  " in told


def test_action_publishes_only_what_passes(repo: Path, tmp_path: Path) -> None:
    """With a target the script calls push with the job's identity in place of a token, and not after an error."""
    recorder = tmp_path / "python"
    recorder.write_text(
        f'#!/bin/sh\nif [ "$3" = push ]; then echo "$HF_OIDC_RESOURCE $@" > {tmp_path}/called; exit 0; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    recorder.chmod(0o755)
    target = {"ROPEPATCH_PATH": str(repo / "out.gguf"), "ROPEPATCH_PUSH_TO": "me/x", "ROPEPATCH_PUSH_OPTIONS": "--pr"}
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": "https://example.org", "HF_TOKEN": ""}

    def run() -> int:
        files = {"ROPEPATCH_PYTHON": str(recorder), **target, **job}
        line = ["bash", str(ROOT / "tools" / "action.sh")]
        return subprocess.run(line, env=environment(**files), capture_output=True, timeout=120, check=False).returncode

    assert run() == 0
    called = (tmp_path / "called").read_text()
    assert called == f"me/x -m ropepatch push {repo / 'out.gguf'} --to me/x --pr\n"
    (tmp_path / "called").unlink()
    (repo / "out.gguf").write_bytes(b"GGUF")
    assert run() == 1
    assert not (tmp_path / "called").exists()


def test_action_file() -> None:
    """action.yml hands every input to the script as a variable, never as text of a command."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
    steps = document["runs"]["steps"]
    used = set(re.findall(r"inputs\.([\w-]+)", json.dumps(steps)))

    assert document["runs"]["using"] == "composite"
    assert used == set(document["inputs"])
    assert all("${{" not in step.get("run", "") for step in steps)
    assert all(step["shell"] == "bash" for step in steps if "run" in step)


@pytest.mark.skipif(tomllib is None, reason="tomllib comes with Python 3.11")
def test_hf_extension(repo: Path, tmp_path: Path) -> None:
    """hf finds an extension as its own installer lays it down, and hands arguments and exit code on."""
    from huggingface_hub.cli import extensions

    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["hf-ropepatch"]
    module, function = entry.split(":")
    folder = tmp_path / extensions.EXTENSIONS_ROOT.relative_to("~") / "hf-ropepatch"
    script = folder / "venv" / "bin" / "hf-ropepatch"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    extensions.ExtensionManifest(
        owner="me",
        repo="hf-ropepatch",
        repo_id="me/hf-ropepatch",
        short_name="ropepatch",
        executable_path=str(script),
        type="python",
        installed_at=datetime.now(timezone.utc),
    ).save(folder)
    hf = shutil.which("hf", path=str(Path(sys.executable).parent)) or shutil.which("hf")
    assert hf is not None

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [hf, "ropepatch", *map(str, arguments)]
        surroundings = environment(HOME=str(tmp_path), HF_HUB_DISABLE_UPDATE_CHECK="1", HF_HUB_OFFLINE="1")
        return subprocess.run(line, env=surroundings, capture_output=True, text=True, timeout=120, check=False)

    good = run("inspect", repo / "out.gguf", "--json")
    bad = run("inspect", repo / "nothing.gguf")

    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["declared_context"] == 1024
    assert bad.returncode == 3
