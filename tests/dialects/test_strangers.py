"""What is said of a ref that is no checkpoint: what it is, and what would work."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

import ropepatch
from ropepatch.errors import InputError
from tests.support.command import ropepatch as command

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
_PAGE = b"<!DOCTYPE html>\n<html><head>"
_ZIP = b"PK\x03\x04" + bytes(60)


def refused(ref: object) -> str:
    """What is said of a ref that cannot be opened or has no RoPE."""
    with pytest.raises(InputError) as caught:
        assert ropepatch.open(str(ref)).profile
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.gguf", _POINTER, "git lfs pull"),
        ("model.safetensors", _POINTER, "git lfs pull"),
        ("model.gguf", _PAGE, "/resolve/"),
        ("model.safetensors", _PAGE, "/resolve/"),
        ("model.gguf", b"lmgg" + bytes(60), "convert_hf_to_gguf.py"),
        ("ggml-model-q4_0.bin", b"tjgg" + bytes(60), "convert_hf_to_gguf.py"),
        ("model.gguf.gz", b"\x1f\x8b" + bytes(60), "unpack it"),
        ("consolidated.00.pth", _ZIP, "does not unpickle"),
        ("pytorch_model.bin", b"\x80\x02" + bytes(60), "does not unpickle"),
        ("model.onnx", bytes(64), "give a .gguf"),
        ("weights.bin", bytes(64), "give a .gguf"),
        ("model.gguf", bytes(64), "not a GGUF file"),
        ("tokenizer.json", b'{"version": "1.0", "model": {}}', "is no model's config"),
    ],
)
def test_files(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    """A file of another kind is called what it is."""
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)

    assert message.startswith(f"{tmp_path / name}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pytorch_model.bin", "holds pytorch_model.bin and no config.json"),
        ("consolidated.00.pth", "holds consolidated.00.pth and no params.json"),
        ("readme.txt", "holds no config.json, params.json, GGUF or safetensors file"),
    ],
)
def test_folders(name: str, expected: str, tmp_path: Path) -> None:
    """A folder of weights alone lacks its config."""
    (tmp_path / name).write_bytes(b"")

    assert expected in refused(tmp_path)


@pytest.mark.parametrize("named", ["", "adapter_config.json", "adapter_model.safetensors"])
def test_adapter(named: str, tmp_path: Path) -> None:
    """Of an adapter the model is named that can be patched, whichever of its files was given."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    save_file({"layers.0.q_proj.lora_A.weight": np.zeros((2, 4), np.float32)}, tmp_path / "adapter_model.safetensors")

    assert "is an adapter, which has no RoPE of its own; patch org/base" in refused(tmp_path / named)


@pytest.mark.parametrize("config", ["[" * 60_000, "[1]", "{", '{"base_model_name_or_path": "a\\u001bb"}'])
def test_odd_adapter(config: str, tmp_path: Path) -> None:
    """An adapter's config that says no base model that can be printed is no reason to fail in another way."""
    (tmp_path / "adapter_config.json").write_text(config)

    assert "patch the model that it is for" in refused(tmp_path)


def test_gguf_adapter(tmp_path: Path) -> None:
    """An adapter as GGUF, which has the architecture of its model and none of its keys, is called one."""
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((2, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    assert "is an adapter" in refused(tmp_path / "lora.gguf")


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("modle.gguf", "; did you mean model.gguf?"),
        ("entirely-different", ""),
        ("hf:/org/repo", "; on the Hub it is hf://org/repo"),
        ("llama3:8b", "; of a model in Ollama, name the file in the line FROM of: ollama show --modelfile NAME"),
    ],
)
def test_missing(ref: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not there is answered with the one that was meant, where one is near."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").touch()

    assert refused(ref) == f"{ref}: no such file or directory{hint}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe(tmp_path: Path) -> None:
    """A pipe is refused at once; nothing waits for somebody to write into it."""
    os.mkfifo(tmp_path / "model.gguf")

    assert "is no regular file" in refused(tmp_path / "model.gguf")


def test_command(tmp_path: Path) -> None:
    """The same is said by commands that look for an output and by those that patch."""
    (tmp_path / "model").mkdir()
    for arguments in (("revert", "modle"), ("apply", "--method", "yarn", "--factor", 4, "modle")):
        ended = command(*arguments, cwd=tmp_path)

        assert ended.code == 3
        assert ended.err == "ropepatch: modle: no such file or directory; did you mean model?\n"
