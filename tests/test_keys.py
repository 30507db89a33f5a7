"""Keys that sign and never show: local ones, encrypted files, and signers that are elsewhere."""

import copy
import json
import pickle
import stat
import traceback
from pathlib import Path

import httpx
import pytest
from coincurve import PrivateKey
from eth_account import Account as EthAccount
from eth_account.messages import encode_typed_data
from helpers.agent import (
    ASSET,
    KEY,
    ORIGIN,
    PAYER,
    Clock,
    FakeProvider,
    choose,
    offer,
    quote,
    read_payment,
    receipt_of,
)
from helpers.agent import channel_of as channel_name

from paywall.client import AsyncClient, Client
from paywall.keys import LocalKey, SigningRequest, canonical, local_key
from paywall.keystore import create_keystore, open_keystore
from paywall.offers import ExactIntent, Intent
from paywall.protocol import eip712
from paywall.protocol.errors import ConfigurationError, SigningFailed
from paywall.signing import deposit_request, transfer_request, voucher_request
from paywall.wallet import Wallet

SHOWN = [KEY.hex(), KEY.hex().upper(), repr(KEY), str(list(KEY)), str(int.from_bytes(KEY, "big"))]
VOUCHER_KEY = bytes([0x63]) * 32
ADDRESS = "0x" + PAYER.hex()
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = b"\x05" * 32


def shows_a_key(text: str) -> list[str]:
    return [key for key in SHOWN if key in text]


def said_by(error: BaseException) -> str:
    """An error as a tool for traces shows it, with the variables of every frame."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(told.format())


# -- Local keys ----------------------------------------------------------------------------------


def test_case_53_a_local_key_shows_its_address_only() -> None:
    key = local_key(KEY)
    assert repr(key) == str(key) == f"<LocalKey {key.address}>"
    assert key.address.lower() == ADDRESS
    assert not hasattr(key, "__dict__")
    assert not shows_a_key(repr([getattr(key, name) for name in dir(key)]))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps])
def test_case_53_a_local_key_is_not_copied(copied) -> None:
    with pytest.raises(TypeError) as refusal:
        copied(local_key(KEY))
    assert not shows_a_key(said_by(refusal.value))


@pytest.mark.parametrize("key", [KEY.hex() + "0", KEY.hex()[:-1] + "x", KEY + b"\x01"])
def test_case_53_our_frames_do_not_hold_a_key_that_cannot_be_used(key) -> None:
    """A trace with variables shows the caller's frame, which is not ours, and none of ours."""
    for place in (local_key, lambda k: Wallet(k, state=":memory:")):
        with pytest.raises(ConfigurationError) as refusal:
            place(key)
        shown = said_by(ours(refusal.value))
        assert KEY.hex()[:20] not in shown
        assert repr(KEY)[2:20] not in shown


def ours(error: BaseException) -> BaseException:
    """Without the frames of the test, which knows the key."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(trace)


# -- Encrypted files -----------------------------------------------------------------------------


def stored(folder: Path, password: str = "secret", **changes: object) -> Path:
    """A file as Ethereum's clients write it, with few rounds."""
    text = EthAccount.encrypt(KEY, password, kdf="pbkdf2", iterations=2)
    path = folder / "key.json"
    path.write_text(json.dumps(text | changes))
    return path


def test_a_keystore_is_opened_by_its_password_wherever_it_comes_from(tmp_path, monkeypatch) -> None:
    path = stored(tmp_path)
    monkeypatch.setenv("PAYWALL_PASSWORD", "secret")
    opened = [open_keystore(path, "secret"), open_keystore(path, lambda: "secret")]
    opened.append(open_keystore(str(path)))
    assert [key.account for key in opened] == [PAYER] * 3


def test_a_wallet_finds_its_keystore_in_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("PAYWALL_KEY", raising=False)
    monkeypatch.setenv("PAYWALL_KEYSTORE", str(stored(tmp_path)))
    monkeypatch.setenv("PAYWALL_PASSWORD", "secret")
    wallet = Wallet(state=":memory:")
    assert wallet.address.lower() == ADDRESS
    wallet.close()


def test_a_new_keystore_is_for_its_owner_only_and_never_overwritten(tmp_path) -> None:
    path = tmp_path / "deep" / "key.json"
    made = create_keystore(path, "päss")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_keystore(path, "päss").account == made.account
    before = path.read_bytes()
    with pytest.raises(ConfigurationError):
        create_keystore(path, "other")
    assert path.read_bytes() == before
    with pytest.raises(ConfigurationError):
        create_keystore(tmp_path / "other.json", "")


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b"\xff",
        KEY.hex().encode(),
        json.dumps(KEY.hex()).encode(),
        b'{"version": 3, "crypto": null}',
        b'{"version": 3, "crypto": {"kdf": "scrypt", "kdfparams": {"n": 3}}}',
        b'{"version": 9}',
    ],
)
def test_case_53_a_file_that_is_no_keystore_is_refused_unshown(tmp_path, contents) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(contents)
    with pytest.raises(ConfigurationError) as refusal:
        open_keystore(path, "secret")
    assert refusal.value.__context__ is None
    assert not shows_a_key(said_by(ours(refusal.value)))


def test_case_53_a_wrong_password_shows_neither_itself_nor_the_key(tmp_path) -> None:
    path = stored(tmp_path)
    with pytest.raises(ConfigurationError, match="does not open") as refusal:
        open_keystore(path, lambda: "wr0ng-passw0rd")
    assert refusal.value.__cause__ is refusal.value.__context__ is None
    assert "wr0ng-passw0rd" not in said_by(ours(refusal.value))
    with pytest.raises(ConfigurationError, match="there"):
        open_keystore(tmp_path / "there", "x")


def test_a_keystore_without_a_password_says_where_it_is_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("PAYWALL_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match="PAYWALL_PASSWORD"):
        open_keystore(stored(tmp_path))


# -- Signatures from elsewhere -------------------------------------------------------------------


def signature(digest: bytes = DIGEST) -> bytes:
    return eip712.sign(PrivateKey(KEY), digest)


def spelled(high: bool, form: str) -> bytes:
    right = signature()
    r, s = int.from_bytes(right[:32], "big"), int.from_bytes(right[32:64], "big")
    s = N - s if high else s
    pair = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    if form == "der":
        parts = [_der(r), _der(s)]
        return b"\x30" + bytes([sum(map(len, parts))]) + b"".join(parts)
    return pair + {"64": b"", "v27": right[64:], "v0": b"\x00", "v1": b"\x01"}[form]


def _der(number: int) -> bytes:
    data = number.to_bytes(33, "big").lstrip(b"\x00")
    data = b"\x00" + data if data[0] & 0x80 else data
    return b"\x02" + bytes([len(data)]) + data


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("form", ["64", "v27", "v0", "v1", "der"])
def test_every_spelling_of_a_signature_becomes_the_canonical_one(high, form) -> None:
    assert canonical(spelled(high, form), DIGEST, PAYER) == signature()


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        bytes(65),
        b"\xff" * 65,
        b"\x30\x44" + b"\x02" * 68,
        signature(b"\x06" * 32),
        signature()[:63],
        spelled(False, "der") + b"\x00",
        spelled(False, "der")[:-1],
    ],
)
def test_what_is_no_signature_of_this_digest_by_this_address_is_refused(given) -> None:
    with pytest.raises(SigningFailed):
        canonical(given, DIGEST, PAYER)


class Kms:
    """A signer that is elsewhere: it signs typed data, as its reader understands it."""

    def __init__(self, key: bytes = KEY) -> None:
        self._account = EthAccount.from_key(key)
        self.address = ADDRESS
        self.asked: list[str] = []

    def sign(self, request: SigningRequest) -> bytes:
        self.asked.append(request.purpose)
        told = encode_typed_data(full_message=json.loads(request.typed_data))
        return bytes(self._account.sign_message(told).signature)


class SlowKms(Kms):
    async def sign(self, request: SigningRequest) -> bytes:  # type: ignore[override]
        return super().sign(request)


def want(wallet: Wallet) -> Intent:
    return choose(wallet, ORIGIN, quote(offer()))


def transfer_of(wallet: Wallet) -> ExactIntent:
    told = offer(scheme="exact", extra={"receiverAuthorizer": None, "withdrawDelay": None})
    (intent,) = wallet.rank(ORIGIN, quote(told))
    assert isinstance(intent, ExactIntent)
    return intent


def test_the_typed_data_of_a_request_has_its_digest() -> None:
    """Another's reading of the typed data comes to the digest that we sign."""
    wallet, key = Wallet(KEY, state=":memory:", clock=Clock()), local_key(KEY)
    promise = wallet.books.begin_any(transfer_of(wallet))
    requests = [
        deposit_request(ASSET, promise.authorization),
        transfer_request(ASSET, promise.authorization),
        voucher_request(ASSET.chain_id, b"\x09" * 32, 2**128 - 1),
    ]
    kms = Kms()
    for request in requests:
        assert canonical(kms.sign(request), request.digest, PAYER) == key.sign(request)
    assert kms.asked == ["deposit", "transfer", "voucher"]
    wallet.close()


def test_a_signer_elsewhere_signs_what_a_key_would() -> None:
    kms = Kms()
    wallet = Wallet(kms, state=":memory:", clock=Clock())
    sent = read_payment(wallet.sign(wallet.books.begin(want(wallet))))
    assert (sent.kind, kms.asked) == ("deposit", ["voucher", "deposit"])
    wallet.sign(wallet.books.begin_any(transfer_of(wallet)))
    assert kms.asked[2:] == ["transfer"]
    wallet.close()


def test_a_voucher_key_pays_all_day_and_the_money_key_only_fills_the_channel() -> None:
    kms = Kms()
    wallet = Wallet(kms, voucher_key=VOUCHER_KEY, state=":memory:", clock=Clock())
    intent = want(wallet)
    assert intent.config.payer == PAYER
    assert intent.config.payer_authorizer == local_key(VOUCHER_KEY).account
    first = wallet.books.begin(intent)
    wallet.sign(first)
    wallet.books.settle(first, receipt_of(intent.price, intent.price, channel_name(intent)))
    for _ in range(3):
        wallet.sign(wallet.books.begin(intent))
    assert kms.asked == ["deposit"]
    wallet.close()


def test_a_wallet_without_the_money_key_pays_from_a_channel_that_is_filled(tmp_path, monkeypatch):
    monkeypatch.delenv("PAYWALL_KEY", raising=False)
    path, clock = tmp_path / "w.db", Clock()
    rich = Wallet(KEY, voucher_key=VOUCHER_KEY, state=path, clock=clock)
    hot = Wallet(address=ADDRESS, voucher_key=VOUCHER_KEY, state=path, clock=clock)
    intent = want(hot)
    with pytest.raises(SigningFailed, match="deposit"):
        hot.books.begin(intent)
    with pytest.raises(SigningFailed, match="money key"):
        hot.sign(hot.books.begin_any(transfer_of(hot)))
    assert (hot.spent(), hot.file.totals().outlay) == (0, 0)
    first = rich.books.begin(want(rich))
    rich.books.settle(first, receipt_of(intent.price, intent.price, channel_name(intent)))
    assert hot.sign(hot.books.begin(intent))
    hot.close()
    rich.close()


def test_a_signer_that_signs_as_somebody_else_costs_nothing() -> None:
    wallet = Wallet(Kms(VOUCHER_KEY), state=":memory:", clock=Clock())
    promise = wallet.books.begin(want(wallet))
    with pytest.raises(SigningFailed, match="no signature by"):
        wallet.sign(promise)
    assert (wallet.spent(), wallet.file.totals().outlay) == (0, 0)
    wallet.close()


async def test_a_refund_is_signed_by_a_signer_that_is_awaited() -> None:
    kms, provider = SlowKms(), FakeProvider()
    wallet = Wallet(kms, state=":memory:", clock=Clock())
    transport = httpx.MockTransport(provider.later)
    async with AsyncClient(wallet=wallet, transport=transport) as client:
        url = f"{ORIGIN}/a"
        await client.get(url)
        back = await client.refund(url)
    assert back.success
    assert kms.asked == ["voucher", "deposit", "voucher"]
    with (
        Client(wallet=wallet, transport=httpx.MockTransport(provider)) as client,
        pytest.raises(SigningFailed, match="AsyncClient"),
    ):
        client.refund(url)
    wallet.close()


async def test_a_signer_that_is_awaited_needs_a_client_that_waits() -> None:
    wallet = Wallet(SlowKms(), state=":memory:", clock=Clock())
    with pytest.raises(SigningFailed, match="AsyncClient"):
        wallet.sign(wallet.books.begin(want(wallet)))
    assert wallet.spent() == 0
    talk = wallet.signing(wallet.books.begin(want(wallet)))
    voucher = next(talk)
    await voucher.make_later()
    deposit = talk.send(None)
    await deposit.make_later()
    with pytest.raises(StopIteration) as done:
        talk.send(None)
    assert read_payment(done.value.value).kind == "deposit"
    wallet.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"address": "0x12", "voucher_key": VOUCHER_KEY},
        {"key": KEY, "address": "0x" + "12" * 20},
        {"address": ADDRESS},
        {"voucher_key": VOUCHER_KEY},
        {"key": KEY, "voucher_key": b"short"},
    ],
)
def test_keys_that_do_not_fit_together_are_refused(settings, monkeypatch) -> None:
    monkeypatch.delenv("PAYWALL_KEY", raising=False)
    with pytest.raises(ConfigurationError) as refusal:
        Wallet(**settings, state=":memory:")
    assert not shows_a_key(str(refusal.value))


def test_case_53_a_wallet_with_a_signer_and_a_voucher_key_shows_neither() -> None:
    wallet = Wallet(LocalKey(PrivateKey(KEY)), voucher_key=KEY, state=":memory:")
    said = repr(vars(wallet)) + repr(vars(wallet.books)) + repr(wallet.payer)
    assert not shows_a_key(said)
    with pytest.raises(TypeError):
        pickle.dumps(wallet)
    wallet.close()
