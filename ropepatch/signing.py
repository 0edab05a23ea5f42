"""Signatures of outputs in the OpenSSF Model Signing format: a Sigstore bundle over the digest of every file.

What is signed is a DSSE envelope around an in-toto statement whose predicate lists each file with its sha256
(OpenSSF Model Signing v1.0; DSSE protocol v1). ``model_signing verify key`` checks it without ropepatch. The manifest
is among the files, so that the signature vouches for what it says as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropepatch import manifest, naming, signing_keys
from ropepatch.bundle import Bundle, Progress, bundle_of
from ropepatch.containers import json_text
from ropepatch.errors import InputError
from ropepatch.hub import refs
from ropepatch.located import Located
from ropepatch.storage import files
from ropepatch.storage.digesting import Digests
from ropepatch.verify.promise import FAILED, PASSED, Check

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
PAYLOAD = "application/vnd.in-toto+json"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
#: what the statement says is not signed: what the tools of others leave out, and what may be written later
IGNORED = (
    ".cache",
    ".git",
    ".gitattributes",
    ".github",
    ".gitignore",
    "README.md",
    naming.AUDIT,
    naming.EVIDENCE,
    naming.SIGNATURE,
)


def sign(
    ref: str | Path,
    key: str | Path,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Sign an output: its files and its manifest, each by its sha256.

    Args:
        ref: the patched file (any shard of it) or folder.
        key: a private key on P-256, P-384 or P-521, PEM; its passphrase is taken from ``ROPEPATCH_KEY_PASSWORD``.
        output: the signature; default ``model.sig`` in the folder, ``model-yarn-4x.model.sig`` beside a file.
        overwrite: replace an older signature.
        progress: called with the number of bytes just hashed.

    Returns:
        The signature's path.

    Raises:
        InputError: there is no manifest, or the key cannot be read.
        UsageError: cryptography is not installed.
        WouldOverwrite: there is a signature already.
    """
    refs.refuse(ref, "signing")
    private = signing_keys.private_key(key)
    path = Path(ref)
    if not path.exists():
        from ropepatch.dialects import strangers

        raise strangers.missing(ref)
    signed = bundle_of(path)
    manifest.read(signed.manifest)
    target = Path(output) if output else signed.signature
    names = [*_present(signed), signed.manifest.name]
    with Digests(progress) as running:
        taken = {name: running.file(signed.path(name)) for name in names}
    payload = json.dumps(_statement(signed, {name: taken[name].result() for name in sorted(names)})).encode()
    files.write_bytes(target, (json.dumps(_bundle(private, payload)) + "\n").encode(), overwrite=overwrite)
    return target


def check_line(ref: str | Path, signature: Path) -> str:
    """The command by which somebody without ropepatch checks a signature."""
    signed = bundle_of(Path(ref))
    links = any(signed.path(name).is_symlink() for name in signed.names)
    words = [
        "model_signing",
        "verify",
        "key",
        str(signed.root),
        "--signature",
        str(signature),
        "--public_key",
        "KEY.pub",
    ]
    words += ["--allow_symlinks"] if links else []
    return shlex.join([*words, *(["--ignore_unsigned_files"] if signed.kind != "folder" else [])])


def _present(signed: Bundle) -> list[str]:
    found = [name for name in signed.names if signed.path(name).exists()]
    return [name for name in found if signed.kind != "folder" or not _ignored(name, IGNORED)]


def _ignored(name: str, ignored: tuple[str, ...]) -> bool:
    return any(name == entry or name.startswith(f"{entry}/") for entry in ignored)


def _statement(signed: Bundle, digests: Mapping[str, str]) -> dict[str, Any]:
    """The in-toto statement; its subject's digest is that of all the digests, in the order of the names."""
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
    links = any(signed.path(name).is_symlink() for name in digests)
    return {
        "_type": STATEMENT,
        "subject": [{"name": signed.stem, "digest": {"sha256": whole}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": links,
                "ignore_paths": list(IGNORED),
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
            ],
        },
    }  # fmt: skip


def _bundle(private: Any, payload: bytes) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec

    public = private.public_key()
    signature = private.sign(_authenticated(payload), ec.ECDSA(signing_keys.hash_of(public)))
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": signing_keys.hint(public)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


def _authenticated(payload: bytes) -> bytes:
    """What is signed in DSSE: type and payload with their lengths (PAE, protocol v1)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def check(located: Located, signature: Path, key: Path, progress: Progress | None = None) -> Check:
    """Whether ``key`` signed the files that are there, the manifest among them.

    Raises:
        InputError: the signature or the key cannot be read.
    """
    output, public = located.files, signing_keys.public_key(key)
    statement = _signed_statement(signature, public)
    if isinstance(statement, str):
        return Check("signature", FAILED, statement)
    named, ignored = statement
    wanted = {*(name for name in output.names if located.there(name)), output.manifest.name}
    if output.kind == "folder":
        uncovered = [name for name in sorted(wanted - set(named)) if not _ignored(name, ignored)]
    else:
        uncovered = sorted(wanted - set(named))
    if uncovered:
        return Check("signature", FAILED, f"does not cover {', '.join(uncovered[:8])}")
    missing = [name for name in named if not located.there(name)]
    if missing:
        return Check("signature", FAILED, f"covers files that are not there: {', '.join(missing[:8])}")
    taken = located.digests(named, progress)
    changed = [name for name, digest in named.items() if taken[name] != digest]
    if changed:
        return Check("signature", FAILED, f"changed since it was signed: {', '.join(changed[:8])}")
    return Check("signature", PASSED, f"this key signed these {len(named)} files as they are", {"files": len(named)})


def _signed_statement(signature: Path, public: Any) -> tuple[dict[str, str], tuple[str, ...]] | str:
    """The files that were signed with their digests, and the paths left out; or what is wrong with the signature."""
    _, document = json_text.read(signature)
    try:
        envelope = document["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        raw = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        hint = document["verificationMaterial"]["publicKey"]["hint"]
        kinds = (document["mediaType"], envelope["payloadType"])
    except (KeyError, TypeError, IndexError, binascii.Error, ValueError):
        raise InputError("is no model signature", where=str(signature)) from None
    if kinds != (MEDIA_TYPE, PAYLOAD):
        return f"is of another kind: {kinds[0]!r}, {kinds[1]!r}"
    if hint != signing_keys.hint(public):
        return "was made with another key"
    if not _holds(public, raw, payload):
        return "does not hold: the signed statement is another one"
    return _listed(json_text.parse(payload.decode("utf-8", "replace"), str(signature)))


def _holds(public: Any, raw: bytes, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        public.verify(raw, _authenticated(payload), ec.ECDSA(signing_keys.hash_of(public)))
    except InvalidSignature:
        return False
    return True


def _listed(statement: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]] | str:
    try:
        how = statement["predicate"]["serialization"]
        resources = statement["predicate"]["resources"]
        named = {str(item["name"]): str(item["digest"]) for item in resources}
        kinds = (statement["_type"], statement["predicateType"], how["method"], how["hash_type"])
        whole = hashlib.sha256(b"".join(bytes.fromhex(str(item["digest"])) for item in resources)).hexdigest()
        subject = statement["subject"][0]["digest"]["sha256"]
        ignored = tuple(map(str, how.get("ignore_paths", ())))
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        return "signs something else than a model"
    if kinds != (STATEMENT, PREDICATE, "files", "sha256") or len(named) != len(resources):
        return f"signs something that cannot be checked here: {kinds[1]!r}, {kinds[2]!r}, {kinds[3]!r}"
    if subject != whole:
        return "contradicts itself: the digest of its subject is not that of its files"
    if any(os.path.isabs(name) or ".." in Path(name).parts for name in named):
        return "speaks of files outside"
    return named, ignored
