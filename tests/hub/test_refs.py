"""What names a place on the Hub, and what does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ropepatch.errors import UsageError
from ropepatch.hub import refs
from tests.support.command import ROOT

PLACES = [
    ("hf://org/repo", "org/repo", None, None),
    ("hf://org/repo/", "org/repo", None, None),
    ("hf://org/repo@main", "org/repo", "main", None),
    ("hf://org/repo/a/b.gguf", "org/repo", None, "a/b.gguf"),
    ("hf://org/repo@v1.0/b.gguf", "org/repo", "v1.0", "b.gguf"),
    ("hf://org/repo@refs/pr/3", "org/repo", "refs/pr/3", None),
    ("hf://org/repo@refs/pr/3/config.json", "org/repo", "refs/pr/3", "config.json"),
    ("hf://org/repo@refs%2Fpr%2F3/config.json", "org/repo", "refs/pr/3", "config.json"),
    ("hf://models/org/repo@v1", "org/repo", "v1", None),
    ("org/repo", "org/repo", None, None),
    ("org/repo@yarn-128k", "org/repo", "yarn-128k", None),
    ("https://huggingface.co/org/repo", "org/repo", None, None),
    ("https://huggingface.co/org/repo/", "org/repo", None, None),
    ("https://huggingface.co/org/repo?library=transformers", "org/repo", None, None),
    ("https://huggingface.co/org/repo/tree/main", "org/repo", "main", None),
    ("https://huggingface.co/org/repo/blob/v1.0/a/b.gguf", "org/repo", "v1.0", "a/b.gguf"),
    ("https://huggingface.co/org/repo/resolve/main/b.gguf?download=true", "org/repo", "main", "b.gguf"),
    ("https://huggingface.co/org/repo/blob/refs%2Fpr%2F3/config.json", "org/repo", "refs/pr/3", "config.json"),
    ("hf.co/org/repo", "org/repo", None, None),
]


@pytest.mark.parametrize(("text", "repo", "revision", "file"), PLACES)
def test_parts(text: str, repo: str, revision: str | None, file: str | None) -> None:
    """A ref is taken apart into repository, revision and file, and its text names the same place again."""
    found = refs.parse(text)

    assert (found.repo, found.revision, found.file) == (repo, revision, file)
    assert refs.is_remote(text)
    assert refs.parse(str(found)).repo == repo
    assert refs.parse(str(found)).file == file


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://org", "hf://org/", "hf://org/repo@", "hf://org/../x", "hf://org/repo/../../etc", "hf://a b/c",
     "hf://datasets/org/data", "hf://org/repo@a\\b", "https://huggingface.co/org", "https://huggingface.co/org/repo/discussions/3",
     "https://huggingface.co/datasets/org/data", "https://huggingface.co/org/repo/tree",
     "hf://org/repo@refs/pr/1/../x", "hf://org/repo/a//b"],
)  # fmt: skip
def test_refused(text: str) -> None:
    """What names nothing, or leaves its repository, is a usage error."""
    with pytest.raises(UsageError):
        refs.parse(text)


def test_paths_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists here, ends like a file, or lies in a folder that exists is a path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "there").mkdir(parents=True)

    for path in ("models/there", "models/missing", "org/model.gguf", "a/b/c", "model", "./org/repo", "/org/repo"):
        assert not refs.is_remote(path), path


def test_one_room_talks_to_the_hub() -> None:
    """huggingface_hub and hf_xet are imported in ropepatch/hub and nowhere else."""
    statement = re.compile(r"^\s*(?:from|import) (?:huggingface_hub|hf_xet)\b", re.MULTILINE)
    package = ROOT / "ropepatch"
    users = [path for path in package.rglob("*.py") if statement.search(path.read_text(encoding="utf-8"))]

    assert {path.relative_to(package).parts[0] for path in users} == {"hub"}
