"""The keys of signatures: PEM files on the curves that the format takes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ropepatch.errors import InputError, UsageError

#: where the passphrase of a private key is taken from; a command line would be seen by others
PASSWORD = "ROPEPATCH_KEY_PASSWORD"
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_KEY_SIZE = 1 << 16


def private_key(path: str | Path) -> Any:
    """The private key in a PEM file.

    Raises:
        InputError: it is none, its curve is another, or the passphrase is missing or wrong. The message never holds
            anything of the file's content.
    """
    with _readable(path, "private key"):
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        password = os.environ.get(PASSWORD)
        data = _pem(path)
        try:
            key = load_pem_private_key(data, password.encode() if password else None)
        except TypeError:  # a passphrase without need, or a need without a passphrase
            if password:
                key = load_pem_private_key(data, None)
            else:
                raise InputError("is encrypted", where=str(path), hint=f"put its passphrase into {PASSWORD}") from None
    return _on_a_curve(key, path)


def public_key(path: str | Path) -> Any:
    """The public key in a PEM file.

    Raises:
        InputError: it is none, or its curve is another.
    """
    with _readable(path, "public key"):
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        return _on_a_curve(load_pem_public_key(_pem(path)), path)


@contextlib.contextmanager
def _readable(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise UsageError("signatures need cryptography", hint="pip install 'ropepatch[sign]'") from None
    except (InputError, OSError):
        raise
    except Exception:  # the library names many reasons, some with parts of the input
        hint = f"is the passphrase in {PASSWORD} the right one?" if os.environ.get(PASSWORD) else None
        raise InputError(f"is no {what} in PEM that can be read", where=str(path), hint=hint) from None


def _pem(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_KEY_SIZE)


def _on_a_curve(key: Any, path: str | Path) -> Any:
    if getattr(getattr(key, "curve", None), "name", None) not in _CURVES:
        hint = "openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem"
        raise InputError("is not a key on P-256, P-384 or P-521", where=str(path), hint=hint)
    return key


def hash_of(public: Any) -> Any:
    """The hash that goes with a key's curve."""
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, _CURVES[public.curve.name])()


def hint(public: Any) -> str:
    """By which a verifier knows the key: the sha256 of its PEM text."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
