"""Encrypted key files, as Ethereum's clients write them (Web3 Secret Storage, version 3).

    signer = open_keystore("key.json")          the password is in PAYWALL_PASSWORD
    signer = open_keystore("key.json", getpass)  or whatever asks for it
    signer = create_keystore("key.json", password)

Loaded only where such a file is used: the decryption is somebody else's, and heavy. The key stays
in the `LocalKey` that comes back; the password is kept nowhere.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_bytes
from typing import Final

from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json

from paywall.keys import LocalKey, local_key
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import MAX_KEYSTORE_BYTES

PASSWORD_VARIABLE: Final = "PAYWALL_PASSWORD"  # noqa: S105 (its name)
MIN_PASSWORD_CHARS: Final = 1

Password = str | Callable[[], str]


def open_keystore(path: str | Path, password: Password | None = None) -> LocalKey:
    """The key in an encrypted file. Raises ConfigurationError, which shows neither of the two."""
    return local_key(read_keystore(path, password))


def read_keystore(path: str | Path, password: Password | None = None) -> bytes:
    """The private key itself, for a wallet that pays gas. Raises as `open_keystore` does."""
    try:
        with Path(path).open("rb") as file:
            found = _decrypted(file.read(MAX_KEYSTORE_BYTES), _said(password))
    except OSError as error:
        raise ConfigurationError(f"the key file {path}: {error.strerror}") from error
    password = None  # a trace that shows variables must not show this one
    if isinstance(found, str):
        raise ConfigurationError(f"the key file {path}: {found}")
    return found


def create_keystore(
    path: str | Path, password: Password | None = None, key: bytes | None = None
) -> LocalKey:
    """Writes a new key, or `key`, to a file that was not there, readable by its owner only.

    Raises ConfigurationError when the file is there already or cannot be written.
    """
    said = _said(password)
    if len(said) < MIN_PASSWORD_CHARS:
        raise ConfigurationError("an encrypted key needs a password")
    secret = key or token_bytes(32)
    made = local_key(secret)
    text = json.dumps(create_keyfile_json(secret, said.encode(), version=3, kdf="scrypt"))
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigurationError(f"the key file {path}: {error.strerror}") from error
    return made


def _said(password: Password | None) -> str:
    if password is None:
        found = os.environ.get(PASSWORD_VARIABLE)
        if found is None:
            raise ConfigurationError(
                f"the key file needs a password: give one, or set {PASSWORD_VARIABLE}"
            )
        return found
    return password if isinstance(password, str) else password()


def _decrypted(text: bytes, password: str) -> bytes | str:
    """The key, or why there is none: what strange contents lead to may quote them."""
    try:
        stored = json.loads(text)
        secret = bytes(decode_keyfile_json(stored, password.encode()))
        local_key(secret)  # raises when it is none
        return secret
    except ValueError as error:
        wrong = "MAC mismatch" in str(error)
        return "the password does not open it" if wrong else "it is not an encrypted key"
    except Exception:
        return "it is not an encrypted key"
