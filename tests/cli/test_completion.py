"""Shell completion, through the protocol that the shells' scripts speak and through bash itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ropepatch.cli._completion import SHELLS
from ropepatch.doctor import rules
from ropepatch.methods import REGISTRY
from ropepatch.runtimes import names
from tests.support.command import ROOT, ropepatch


def offered(*words: str, env: dict[str, str] | None = None) -> list[str]:
    """What bash is told after these words; the last is the one that is completed."""
    line = {"_ROPEPATCH_COMPLETE": "bash_complete", "COMP_WORDS": "\n".join(("ropepatch", *words))}
    ended = ropepatch(env={**line, "COMP_CWORD": str(len(words)), **(env or {})})
    assert ended.err == ""
    return ended.out.splitlines()


def test_methods_rules_and_runtimes() -> None:
    """Each is offered where it belongs, also behind a comma, and nothing else is."""
    applicable = [f"plain,{name}" for name, method in REGISTRY.items() if method.applicable]
    assert offered("apply", "--method", "") == applicable
    assert offered("apply", "--method", "yarn+r") == ["plain,yarn+resonance"]
    assert offered("explain", "RP20") == [f"plain,{rule.code}" for rule in rules() if rule.code.startswith("RP20")]
    assert offered("doctor", "x", "--for", "vllm,ll") == ["plain,vllm,llama.cpp"]
    assert offered("freqs", "x", "--runtime", "") == [f"plain,{name}" for name in names()]
    assert all(item.startswith("plain,vllm@") for item in offered("freqs", "x", "--runtime", "vllm@"))


def test_refs(tmp_path: Path) -> None:
    """A ref is a file for the shell to list; behind hf:// it is a model of the cache, however bash splits the word."""
    for name in ("models--org--one", "models--org--two", "datasets--org--three"):
        (tmp_path / name).mkdir()
    cache = {"HF_HUB_CACHE": str(tmp_path)}

    assert offered("inspect", "mod") == ["file,mod"]
    assert offered("manifest", "verify", "") == ["file,"]
    assert offered("inspect", "hf", ":", "//org/o", env=cache) == ["plain,//org/one"]
    assert offered("diff", "a", "hf", ":", "//", env=cache) == ["plain,//org/one", "plain,//org/two"]
    assert offered("inspect", "hf://", env={"HF_HUB_CACHE": str(tmp_path / "none")}) == [""]


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts(shell: str) -> None:
    """Each shell's script is printed alone on stdout, and the shell, where it is there, finds no fault in it."""
    ended = ropepatch("completion", shell)

    assert ended.code == 0
    assert f"_ROPEPATCH_COMPLETE={shell}_complete" in ended.out
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=ended.out, text=True, check=True)


def test_bash_completes(tmp_path: Path) -> None:
    """bash itself, with the script loaded, completes a method."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "ropepatch"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m ropepatch "$@"\n')
    program.chmod(0o755)
    script = (
        f'PATH="{tmp_path}:$PATH"; source <(ropepatch completion bash -q); compopt() {{ :; }}\n'
        "COMP_WORDS=(ropepatch apply --method ya); COMP_CWORD=3; _ropepatch_completion ropepatch; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )

    done = subprocess.run([bash, "--norc", "-c", script], capture_output=True, text=True, timeout=120, check=False)

    assert done.stdout.split() == ["yarn"], done.stderr


def test_unknown_shells_are_refused() -> None:
    """Another shell is a usage error that names those that there are."""
    ended = ropepatch("completion", "tcsh")

    assert ended.code == 2
    assert "fish" in ended.err
