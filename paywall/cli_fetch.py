"""`paywall fetch`: a curl that pays, and its dry run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import httpx
import typer

import paywall
from paywall.choice import Choice
from paywall.cli_keys import (
    Deposit,
    PerDay,
    Total,
    WalletState,
    limits_of,
    open_wallet,
)
from paywall.confirmations import Receipt
from paywall.console import Json, err, print_json, print_rows
from paywall.events import Event, Paid
from paywall.offers import AnyIntent, Intent, Payer
from paywall.old_providers import heard
from paywall.places import origin_of, quote_of
from paywall.policy import Limits, policy_of
from paywall.protocol.errors import AgentError, ConfigurationError
from paywall.protocol.money import KNOWN_ASSETS, ZERO_ADDRESS, parse_address
from paywall.protocol.schemes import exact
from paywall.protocol.x402 import (
    Malformed,
    PaymentRequired,
    decode_requirements,
    printable,
)

FETCH_SECONDS: Final = 120.0
"""How long an answer may take; the first one waits for a deposit to be mined."""


def fetch(
    url: Annotated[
        str, typer.Argument(help="What to get, and to pay for when it costs something.")
    ],
    method: Annotated[
        str | None,
        typer.Option("-X", "--request", help="The method. GET, or POST when there is data."),
    ] = None,
    headers: Annotated[
        list[str] | None, typer.Option("-H", "--header", help='A header, "Name: value". Repeat it.')
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "-d", "--data", help="A body; @FILE reads it from a file, @- or - from stdin."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the body to a file.")
    ] = None,
    include: Annotated[
        bool, typer.Option("-i", "--include", help="Print the answer's status and headers too.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the price and what would be paid; pay nothing."),
    ] = False,
    maximum: Annotated[
        str, typer.Option("--max", envvar="PAYWALL_MAX", help="The most this request may cost.")
    ] = "$0.01",
    total: Total = "$5",
    per_day: PerDay = None,
    deposit: Deposit = "$0.50",
    state: WalletState = None,
    as_json: Json = False,
) -> None:
    """Gets a URL and pays for it: curl with a wallet.

    The key is in PAYWALL_KEY, or in the file that PAYWALL_KEYSTORE names. The body goes to standard
    output, what was paid to standard error. The first payment to a provider opens a channel with a
    deposit; the next ones cost a signature, and `paywall close URL` brings back what is left.

    Exit status: 0 for an answer below 400; 1 for another one, or when it was not paid and why.
    """
    limits = limits_of(maximum, total, per_day, deposit)
    ask = _Ask(_method(method, data), url, _headers(headers), _body(data))
    if dry_run:
        return _show_quote(ask, limits, as_json)
    events: list[Event] = []
    wallet = open_wallet(state, limits, events.append)
    try:
        with paywall.Client(wallet=wallet, follow_redirects=True, timeout=FETCH_SECONDS) as client:
            answer = client.send(ask.request(client), stream=True)
            try:
                receipt = paywall.receipt(answer)
                charged, transaction = _cost(receipt, events)
                if as_json:
                    _print(answer, charged, transaction)
                else:
                    _deliver(answer, output, include)
            finally:
                answer.close()
    finally:
        wallet.close()
    if receipt and charged is not None and not as_json:
        err.print(f"[dim]paid {charged} atomic units[/]")
    if answer.is_error:
        raise AgentError(f"{url} answered {answer.status_code}")


@dataclass(frozen=True)
class _Ask:
    """A request as it was told on the command line."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes | None

    def request(self, client: httpx.Client) -> httpx.Request:
        return client.build_request(self.method, self.url, headers=self.headers, content=self.body)


def _method(method: str | None, data: str | None) -> str:
    return (method or ("GET" if data is None else "POST")).upper()


def _headers(given: list[str] | None) -> list[tuple[str, str]]:
    pairs = [header.partition(":") for header in given or ()]
    for name, colon, _ in pairs:
        if not colon or not name.strip():
            raise ConfigurationError(f"a header is written Name: value, not {name!r}")
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data in ("-", "@-"):
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{data[1:]}: {error.strerror}") from error
    return data.encode()


def _cost(receipt: Receipt | None, events: list[Event]) -> tuple[int | None, str]:
    """What an answer cost, and in which transaction, if it took one.

    A channel's receipt says what was charged. A single transfer costs what was signed.
    """
    if receipt is None:
        return 0, ""
    if receipt.charged is not None:
        return receipt.charged, receipt.transaction
    transfers = [e for e in events if isinstance(e, Paid) and e.scheme == exact.SCHEME]
    return transfers[-1].amount if transfers else None, receipt.transaction


def _print(answer: httpx.Response, charged: int | None, transaction: str) -> None:
    """The answer as JSON."""
    answer.read()
    told = {"status": answer.status_code, "charged": charged, "transaction": transaction}
    print_json({**told, "headers": dict(answer.headers), "body": answer.text})


def _deliver(answer: httpx.Response, output: Path | None, include: bool) -> None:
    """The body to where it is wanted, as it comes."""
    with _opened(output) as file:
        if include:
            file.write(f"{answer.http_version} {answer.status_code}\r\n".encode())
            file.writelines(name + b": " + value + b"\r\n" for name, value in answer.headers.raw)
            file.write(b"\r\n")
        for chunk in answer.iter_bytes():
            file.write(chunk)
            file.flush()


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    try:
        with output.open("wb") as file:
            yield file
    except OSError as error:
        raise ConfigurationError(f"{output}: {error.strerror}") from error


# -- The quote -------------------------------------------------------------------------------------


def _show_quote(ask: _Ask, limits: Limits, as_json: bool) -> None:
    """Sends the request unpaid, and shows what it would cost. Needs no key."""
    with httpx.Client(follow_redirects=True, timeout=FETCH_SECONDS) as client:
        answer = client.send(ask.request(client), stream=True)
        try:
            quote = quote_of(heard(answer, answer.request))
        finally:
            answer.close()
    if quote is None:
        print_rows([], as_json, f"nothing is asked: it answered {answer.status_code}")
        return
    origin = origin_of(answer.request.url)
    choice = Choice(policy_of(limits), Payer(ZERO_ADDRESS, ZERO_ADDRESS))
    try:
        ranked: list[AnyIntent] = choice.rank(origin, quote)
        refusal = None
    except AgentError as error:
        ranked, refusal = [], error
    print_rows([*_offers(quote, ranked)], as_json, "there is no offer")
    if refusal:
        raise refusal


def _offers(quote: PaymentRequired, ranked: list[AnyIntent]) -> Iterator[dict[str, object]]:
    """Each way to pay, as the provider names it; `choice` 1 is what would be paid."""
    order = {bytes(intent.accepted): number for number, intent in enumerate(ranked, 1)}
    for raw in quote.accepts:
        try:
            told = decode_requirements(raw)
        except Malformed:
            continue
        number = order.get(bytes(raw))
        intent = ranked[number - 1] if number else None
        yield {
            "choice": number,
            "scheme": printable(told.scheme),
            "network": printable(told.network),
            "token": _token(told.network, told.asset),
            "amount": printable(told.amount),
            "shown": intent.asset.show(intent.price) if intent else "",
            "min_deposit": intent.min_deposit if isinstance(intent, Intent) else None,
            "pay_to": printable(told.pay_to),
        }


def _token(network: str, text: str) -> str:
    try:
        asset = KNOWN_ASSETS.get((network, parse_address(text)))
    except ValueError:
        asset = None
    return asset.symbol if asset else printable(text)
