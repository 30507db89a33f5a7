"""Receipts: what is put together from parts says what the plain way says."""

from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, signed_voucher
from hypothesis import given
from hypothesis import strategies as st

from paywall import receipts
from paywall.admission import Admission
from paywall.protocol.channel import ChainState, Standing, Voucher
from paywall.protocol.schemes.batch import VoucherPayment
from paywall.protocol.x402 import decode_response, show_address

uint128 = st.integers(0, 2**128 - 1)
readings = st.builds(ChainState, uint128, uint128, uint128, *[st.integers(0, 2**40)] * 4)


def admission(signed: Voucher, price: int, standing: Standing) -> Admission:
    payment = VoucherPayment(CHANNEL_ID, CONFIG, signed)
    return Admission("request", price, payment, standing, NETWORK)


@given(chain=readings, total=uint128, amount=uint128, price=uint128, serial=st.booleans())
def test_a_receipt_from_its_parts_is_the_one_that_is_written_whole(
    chain: ChainState, total: int, amount: int, price: int, serial: bool
) -> None:
    """`serial`: the client counts as we do, so that the total is named to it."""
    signed = Voucher(total + price - amount + (not serial), bytes(65))
    admitted = admission(signed, price, Standing(chain, total, 0))
    written = receipts._deposit_or_voucher(
        show_address(CONFIG.payer),
        NETWORK,
        0,
        b"",
        receipts._extra(CHANNEL_ID, chain, total, amount, serial),
    )
    for _ in range(2):
        assert receipts.paid(admitted, chain, amount, total) == written


def test_two_readings_of_one_channel_have_their_own_receipts() -> None:
    signed = signed_voucher(1000)
    texts = set()
    for balance in (10, 20):
        chain = ChainState(balance, 0, 0, 0, 0, 1, 0)
        admitted = admission(signed, 1000, Standing(chain, 1000, 0))
        receipt = decode_response(receipts.paid(admitted, chain, 1000, 1000))
        texts.add(bytes(receipt.extra))  # type: ignore[arg-type]
    assert len(texts) == 2
