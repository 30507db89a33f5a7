"""Where a wallet finds its keys: what was given, the environment, or an encrypted file.

A key that cannot be used is an error that is returned, and raised where no variable holds the key.
Encrypted files are opened by `paywall.keystore`, which is loaded only then.
"""

import os
from importlib import import_module
from typing import Final

from paywall.keys import LocalKey, Signer, key_from_environment, local_key
from paywall.offers import Payer
from paywall.protocol.errors import ConfigurationError, SigningFailed
from paywall.protocol.money import parse_address
from paywall.protocol.x402 import show_address
from paywall.signing import account_of

KEY_VARIABLE: Final = "PAYWALL_KEY"
KEYSTORE_VARIABLE: Final = "PAYWALL_KEYSTORE"
VOUCHER_KEY_VARIABLE: Final = "PAYWALL_VOUCHER_KEY"


def find_signer(
    key: str | bytes | Signer | None, needed: bool
) -> Signer | ConfigurationError | None:
    """Who signs for the money; an error is returned, so that it is raised where no key is seen."""
    try:
        if isinstance(key, str | bytes):
            return local_key(key)
        found = key or key_from_environment(KEY_VARIABLE) or _stored_key()
    except ConfigurationError as error:
        return ConfigurationError(str(error))
    if found is None and needed:
        return ConfigurationError(f"no key: give one, or set {KEY_VARIABLE} or {KEYSTORE_VARIABLE}")
    return found


def _stored_key() -> LocalKey | None:
    path = os.environ.get(KEYSTORE_VARIABLE)
    if not path:
        return None
    found: LocalKey = import_module("paywall.keystore").open_keystore(path)
    return found


def find_voucher_key(key: str | bytes | None) -> LocalKey | ConfigurationError | None:
    try:
        if key is not None:
            return local_key(key, "the voucher key")
        return key_from_environment(VOUCHER_KEY_VARIABLE)
    except ConfigurationError as error:
        return ConfigurationError(str(error))


def payer_of(signer: Signer | None, voucher: LocalKey | None, address: str | None) -> Payer:
    try:
        named = parse_address(address) if address is not None else None
        account = account_of(signer) if signer is not None else named
    except (ValueError, SigningFailed) as error:
        raise ConfigurationError(f"the payer's address: {error}") from error
    assert account is not None, "without a signer there is an address"
    if named not in (None, account):
        raise ConfigurationError(f"the key is of {show_address(account)}, not of {address}")
    return Payer(account, voucher.account if voucher else account)
