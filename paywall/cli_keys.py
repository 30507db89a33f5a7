"""Where the agent's commands find their key, their wallet and their limits.

Keys come from the environment or from an encrypted file whose password comes from the environment
or is asked for on the terminal; never from an argument, which other users could read.
"""

import os
import sys
from typing import Annotated

import typer

from paywall.events import OnEvent
from paywall.keyring import KEY_VARIABLE, KEYSTORE_VARIABLE
from paywall.keys import LocalKey, local_key
from paywall.keystore import PASSWORD_VARIABLE, read_keystore
from paywall.policy import Limits
from paywall.protocol.errors import ConfigurationError
from paywall.wallet import Wallet

WalletState = Annotated[
    str | None,
    typer.Option(
        "--wallet",
        envvar="PAYWALL_WALLET",
        help="The wallet's file, or the URL of a Redis. By default one file for each key, in "
        "~/.local/share/paywall.",
    ),
]
Total = Annotated[
    str,
    typer.Option(
        envvar="PAYWALL_TOTAL",
        help="All that may ever leave the wallet, locked up deposits included.",
    ),
]
PerDay = Annotated[
    str | None, typer.Option(envvar="PAYWALL_PER_DAY", help="The most in any 24 hours.")
]
Deposit = Annotated[
    str, typer.Option(envvar="PAYWALL_DEPOSIT", help="What a new channel is filled with.")
]
Rpc = Annotated[
    str | None,
    typer.Option("--rpc", envvar="RPC_URL", help="JSON-RPC of the network."),
]


def limits_of(per_request: str, total: str, per_day: str | None, deposit: str) -> Limits:
    told = Limits(per_request=per_request, total=total, deposit=deposit)
    if per_day is not None:
        told["per_day"] = per_day
    return told


def open_wallet(
    state: str | None, limits: Limits | None = None, on_event: OnEvent | None = None
) -> Wallet:
    """The wallet of whoever runs this. Raises ConfigurationError."""
    return Wallet(signer(), state=state, on_event=on_event, **(limits or Limits()))


def signer() -> LocalKey:
    return local_key(secret())


def secret() -> bytes | str:
    """The private key. Raises ConfigurationError, which does not show it."""
    found = os.environ.get(KEY_VARIABLE)
    if found:
        return found
    path = os.environ.get(KEYSTORE_VARIABLE)
    if not path:
        raise ConfigurationError(
            f"no key: set {KEY_VARIABLE}, or {KEYSTORE_VARIABLE} to a file that"
            " `paywall wallet new` has made"
        )
    return read_keystore(path, password)


def password(confirm: bool = False) -> str:
    """From the environment, or by asking a person who is there. Raises ConfigurationError."""
    found = os.environ.get(PASSWORD_VARIABLE)
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"nobody is there to ask for the password: set {PASSWORD_VARIABLE}"
        )
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
    return asked
