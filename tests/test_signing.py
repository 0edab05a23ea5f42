"""Signatures that somebody else's verifier accepts, and refuses once anything has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ropepatch
from ropepatch import signing, signing_keys
from ropepatch.errors import InputError, UsageError, WouldOverwrite
from tests.support import tiny
from tests.support.command import Ended
from tests.support.command import ropepatch as run

pytest.importorskip("cryptography", reason="cryptography is not installed")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

SPEC = tiny.ModelSpec(layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)
CURVES = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}


def keys(folder: Path, bits: int = 256, password: str | None = None, name: str = "key") -> tuple[Path, Path]:
    """A fresh pair of keys on a curve, as PEM files: private, public."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(CURVES[bits])
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, form, lock))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(params=["hf", "gguf"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A patched tiny llama, alone with its input in a folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    if request.param == "hf":
        model, target = tiny.write_hf(tmp_path / "model", SPEC), folder / "out"
    else:
        model, target = tiny.write_gguf(tmp_path / "model.gguf", SPEC), folder / "out.gguf"
    ropepatch.open(model).patch("yarn", 4.0).write(target)
    return target


def theirs(output: Path, signature: Path, public: Path) -> Ended:
    """OpenSSF's own verifier, as :func:`ropepatch.signing.check_line` says it is called."""
    line = signing.check_line(output, signature).split()
    arguments = [str(public) if word == "KEY.pub" else word for word in line[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "model_signing", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def ours(output: Path, signature: Path, public: Path) -> str:
    check = ropepatch.verify_manifest(output, signature=signature, key=public)
    return next(f"{item.result}: {item.detail}" for item in check.checks if item.name == "signature")


def test_model_signing_accepts_it_and_refuses_a_change(output: Path, tmp_path: Path) -> None:
    """The OpenSSF command line verifies model, manifest and signature; a tampered file fails there as it does here."""
    pytest.importorskip("model_signing", reason="model-signing is not installed")
    pytest.importorskip("OpenSSL", reason="pyOpenSSL, which model-signing needs, is not installed")
    private, public = keys(tmp_path / "keys")

    signature = ropepatch.sign(output, private)
    accepted = theirs(output, signature, public)
    mine = ours(output, signature, public)
    victim = output / "config.json" if output.is_dir() else output
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    refused = theirs(output, signature, public)

    assert (accepted.code, "Verification succeeded" in accepted.out) == (0, True), accepted.err
    assert mine.startswith("PASSED")
    assert refused.code != 0
    assert "Hash mismatch" in refused.err
    assert victim.name in refused.err
    assert ours(output, signature, public) == f"FAILED: changed since it was signed: {victim.name}"


def test_model_signings_own_signature_is_read(tmp_path: Path) -> None:
    """A bundle that the OpenSSF tool made of a folder is verified here."""
    pytest.importorskip("model_signing", reason="model-signing is not installed")
    pytest.importorskip("OpenSSL", reason="pyOpenSSL, which model-signing needs, is not installed")
    private, public = keys(tmp_path / "keys")
    folder = tmp_path / "out"
    ropepatch.open(tiny.write_hf(tmp_path / "model", SPEC)).patch("yarn", 4.0).write(folder)
    signature = folder / "model.sig"
    line = [sys.executable, "-m", "model_signing", "sign", "key", str(folder), "--signature", str(signature)]
    subprocess.run([*line, "--private_key", str(private)], check=True, capture_output=True, timeout=120)

    assert ours(folder, signature, public).startswith("PASSED")


@pytest.mark.parametrize("bits", [384, 521])
def test_other_curves(output: Path, bits: int, tmp_path: Path) -> None:
    """P-384 and P-521 sign with their own hashes, and another key's signature is told."""
    private, public = keys(tmp_path / "keys", bits)
    _, stranger = keys(tmp_path / "keys", bits, name="other")

    signature = ropepatch.sign(output, private)

    assert ours(output, signature, public).startswith("PASSED")
    assert ours(output, signature, stranger) == "FAILED: was made with another key"


def test_the_manifest_is_signed_too(output: Path, tmp_path: Path) -> None:
    """A manifest that was rewritten fails the signature, whatever it says."""
    private, public = keys(tmp_path / "keys")
    signature = ropepatch.sign(output, private)
    record = output / "ropepatch.json" if output.is_dir() else output.with_name("out.ropepatch.json")
    record.write_text(record.read_text() + "\n")

    assert ours(output, signature, public) == f"FAILED: changed since it was signed: {record.name}"


def test_a_file_beside_and_a_file_gone(tmp_path: Path) -> None:
    """A file that appears in a signed folder and one that is missing both fail; a card and caches may change."""
    private, public = keys(tmp_path / "keys")
    folder = tmp_path / "out"
    ropepatch.open(tiny.write_hf(tmp_path / "model", SPEC)).patch("yarn", 4.0).write(folder)
    signature = ropepatch.sign(folder, private)
    (folder / "README.md").write_text("# card\n")
    carded = ours(folder, signature, public)
    (folder / "pickle.bin").write_bytes(b"\x80")
    strange = ours(folder, signature, public)
    (folder / "pickle.bin").unlink()
    (folder / "model.safetensors").unlink()

    assert carded.startswith("PASSED")
    assert strange == "FAILED: does not cover pickle.bin"
    assert ours(folder, signature, public) == "FAILED: covers files that are not there: model.safetensors"


@pytest.mark.parametrize("part", ["payload", "sig", "mediaType", "nothing"])
def test_a_forged_bundle(part: str, output: Path, tmp_path: Path) -> None:
    """Another payload, a bent signature, another kind of bundle and none at all are told apart."""
    private, public = keys(tmp_path / "keys")
    signature = ropepatch.sign(output, private)
    document = json.loads(signature.read_text())
    envelope = document["dsseEnvelope"]
    if part == "payload":
        envelope["payload"] = "e30="
    elif part == "sig":
        envelope["signatures"][0]["sig"] = "AAAA"
    elif part == "mediaType":
        document["mediaType"] = "application/other"
    else:
        document = {"some": "thing"}
    signature.write_text(json.dumps(document))

    words = {"payload": "does not hold", "sig": "does not hold", "mediaType": "another kind", "nothing": "no model sig"}
    assert ours(output, signature, public).startswith("FAILED")
    assert words[part] in ours(output, signature, public)


def test_keys_that_cannot_be_used(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RSA, a public key, a locked key and nonsense are one line each, in which nothing of the key stands."""
    folder = tmp_path / "keys"
    private, public = keys(folder)
    locked, _ = keys(folder, password="open sesame", name="locked")
    wrong = folder / "rsa.pem"
    wrong.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    nonsense = folder / "nonsense.pem"
    nonsense.write_text("secret-words")

    for path, said in (
        (wrong, "P-256"),
        (public, "no private key"),
        (nonsense, "no private key"),
        (locked, "encrypted"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            ropepatch.sign(output, path)
        assert "secret" not in str(caught.value)
    monkeypatch.setenv(signing_keys.PASSWORD, "not this one")
    with pytest.raises(InputError, match="passphrase"):
        ropepatch.sign(output, locked)
    with pytest.raises(InputError, match="no public key"):
        signing_keys.public_key(private)
    monkeypatch.setenv(signing_keys.PASSWORD, "open sesame")
    signature = ropepatch.sign(output, locked)
    with pytest.raises(WouldOverwrite):
        ropepatch.sign(output, private)
    ropepatch.sign(output, private, overwrite=True)
    assert ours(output, signature, public).startswith("PASSED")


def test_without_the_library(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cryptography is missing, signing says which extra brings it."""
    private, _ = keys(tmp_path / "keys")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)

    with pytest.raises(UsageError, match=r"pip install 'ropepatch\[sign\]'"):
        ropepatch.sign(output, private)


def test_commands(tmp_path: Path) -> None:
    """apply --sign and manifest sign write what manifest verify checks; the key is read before anything is written."""
    private, public = keys(tmp_path / "keys", password="pass phrase")
    model = tiny.write_gguf(tmp_path / "model.gguf", SPEC)
    arguments = ("apply", "--method", "yarn", "--factor", 4, model, "--sign", private, "--json")
    secret = {signing_keys.PASSWORD: "pass phrase"}

    locked = run(*arguments)
    written = run(*arguments, env=secret)
    again = run("manifest", "sign", tmp_path / "model-yarn-4x.gguf", "--key", private, env=secret)
    replaced = run("manifest", "sign", tmp_path / "model-yarn-4x.gguf", "--key", private, "--overwrite", env=secret)
    signature = tmp_path / "model-yarn-4x.model.sig"
    checked = run("manifest", "verify", tmp_path / "model-yarn-4x.gguf", "--signature", signature, "--key", public)

    assert (locked.code, locked.error["what"]) == (3, "is encrypted")
    assert written.document["signature"] == str(signature)
    assert (again.code, replaced.code, checked.code) == (5, 0, 0), checked.out
    assert "✓  signature" in checked.out
    assert f"model_signing verify key {tmp_path} --signature {signature}" in replaced.err
    assert all("pass phrase" not in ended.out + ended.err for ended in (locked, written, again, replaced, checked))


def test_a_signature_stays_with_its_output(tmp_path: Path) -> None:
    """Patching a signed folder again, and undoing it, do not carry the old signature along."""
    private, _ = keys(tmp_path / "keys")
    first = tmp_path / "first"
    ropepatch.open(tiny.write_hf(tmp_path / "model", SPEC)).patch("yarn", 4.0).write(first)
    ropepatch.sign(first, private)

    ropepatch.open(first).patch("yarn", 2.0, existing="replace").write(tmp_path / "second")
    ropepatch.revert(first, output=tmp_path / "back")

    assert (first / "model.sig").exists()
    assert not (tmp_path / "second" / "model.sig").exists()
    assert sorted(os.listdir(tmp_path / "back")) == sorted(os.listdir(tmp_path / "model"))


def test_a_signature_goes_when_it_becomes_false(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in place takes the signature of what was there with it, and so does undoing one; a failed change not."""
    private, public = keys(tmp_path / "keys")
    first = ropepatch.sign(output, private)

    with monkeypatch.context() as failing:
        failing.setattr("ropepatch.manifest.build", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ropepatch.open(output).patch("ntk", 2.0, existing="replace").write(in_place=True)
    kept = ours(output, first, public)
    ended = run("apply", "--method", "ntk", "--factor", 2, "--existing", "replace", "--in-place", output)

    assert kept.startswith("PASSED")
    assert ended.code == 0, ended.err
    assert not first.exists()
    ropepatch.sign(output, private)
    assert run("revert", "--in-place", output).code == 0
    assert not first.exists()
    assert not list(output.parent.rglob("*journal"))
