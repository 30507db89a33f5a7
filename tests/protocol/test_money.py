"""Prices become exact atomic units, and wire amounts have one spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from x402.mechanisms.evm.default_assets import DEFAULT_ASSETS

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.limits import UINT128_MAX, UINT256_MAX
from paywall.protocol.money import (
    KNOWN_ASSETS,
    USDC,
    Asset,
    chain_id_of,
    parse_address,
    parse_amount,
)

ETHER_LIKE = Asset("eip155:1", USDC.base.address, "WETH", 18, "Wrapped Ether", "1")


@pytest.mark.parametrize(
    ("price", "units"),
    [
        ("$0.001", 1000),
        ("0.001", 1000),
        ("0.001 USDC", 1000),
        ("$0.000001", 1),
        ("$1", 1_000_000),
        ("$1.50", 1_500_000),
        ("$1.5000000000", 1_500_000),
        ("0000.10", 100_000),
        ("$123456789", 123_456_789_000_000),
    ],
)
def test_a_human_price_is_exact_units(price: str, units: int) -> None:
    assert USDC.base.units(price) == units


@pytest.mark.parametrize(
    "price",
    [
        *("", "$", "free", "-1", "+1", "1e3", "1,000", "1.", ".5", " 1", "1 ", "1\n", "0x10"),
        *("１", "1_000", "$$1", "1 USD", "1 EUR", "NaN", "inf", "9" * 40),
    ],
)
def test_anything_else_is_not_a_price(price: str) -> None:
    with pytest.raises(ConfigurationError):
        USDC.base.units(price)


@pytest.mark.parametrize("price", ["$0.0000001", "$0.0010001", "$0", "$0.000000", "0 USDC"])
def test_case_29_a_price_under_one_atomic_unit_is_a_configuration_error(price: str) -> None:
    with pytest.raises(ConfigurationError):
        USDC.base.units(price)


def test_a_price_above_uint128_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        ETHER_LIKE.units("9" * 39)


@given(st.integers(1, UINT128_MAX))
def test_what_is_shown_reads_back_as_the_same_units(units: int) -> None:
    shown = ETHER_LIKE.show(units)
    assert ETHER_LIKE.units(shown) == units


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (1_500_000, "$1.50"),
        (-2500, "-$0.0025"),
        (10**12, "$1,000,000.00"),
    ],
)
def test_dollars_are_shown_exactly(units: int, text: str) -> None:
    assert USDC.base.show(units) == text


def test_other_tokens_are_shown_without_a_dollar() -> None:
    assert ETHER_LIKE.show(10**15) == "0.001"


@pytest.mark.parametrize("units", [0, 1, 10, 10**38, UINT128_MAX])
def test_a_wire_amount_is_its_digits(units: int) -> None:
    assert parse_amount(str(units)) == units


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-1",
            "+5",
            "1e3",
            " 5",
            "5 ",
            "5\n",
            "4_0",
            "0x10",
            "00",
            "01",
            "1.0",
            "５",
            "٥",
            "²",
        ),
        *("null", "\x00", "1\x00", str(2**128), "1" + "0" * 10_000, "9" * 79),
    ],
)
def test_case_29_every_other_spelling_of_an_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_amount(text)


def test_a_larger_maximum_admits_a_whole_uint256_and_no_more() -> None:
    assert parse_amount(str(UINT256_MAX), UINT256_MAX) == UINT256_MAX
    with pytest.raises(ValueError, match="out of range"):
        parse_amount(str(UINT256_MAX + 1), UINT256_MAX)


@given(st.text(max_size=50))
def test_a_text_is_an_amount_only_if_it_is_how_the_number_is_written(text: str) -> None:
    try:
        units = parse_amount(text)
    except ValueError:
        return
    assert str(units) == text


@pytest.mark.parametrize("spell", [str.lower, str.upper, str])
def test_an_address_is_the_same_in_any_case(spell: type[str]) -> None:
    text = "833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
    assert parse_address("0x" + spell(text)) == USDC.base.address


@pytest.mark.parametrize(
    "text", ["", "0x", "0x12", "8335" * 10, "0x" + "g" * 40, "0x" + "1" * 41, "0x" + "１" * 40]
)
def test_anything_else_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_address(text)


@pytest.mark.parametrize("network", ["eip155:8453", "eip155:1", "eip155:999999999999999999"])
def test_a_network_names_its_chain_id(network: str) -> None:
    assert chain_id_of(network) == int(network.removeprefix("eip155:"))


@pytest.mark.parametrize(
    "network",
    ["", "base", "eip155:", "eip155:0", "eip155:01", "eip155:-1", "solana:mainnet", "eip155:1\n"],
)
def test_other_networks_are_a_configuration_error(network: str) -> None:
    with pytest.raises(ConfigurationError):
        chain_id_of(network)


def test_known_assets_are_found_by_network_and_address() -> None:
    assert KNOWN_ASSETS["eip155:8453", USDC.base.address] is USDC.base
    assert {asset.decimals for asset in KNOWN_ASSETS.values()} == {6}


def test_every_usdc_that_x402_lists_is_known_with_its_own_domain() -> None:
    """The official SDK's own table, less what EIP-3009 cannot move."""
    listed = {
        (network, parse_address(entry["asset"])): entry
        for network, entries in DEFAULT_ASSETS.items()
        for entry in entries
        if entry["symbol"].startswith("USDC") and "asset_transfer_method" not in entry
    }
    assert set(KNOWN_ASSETS) == set(listed)
    for place, entry in listed.items():
        ours = KNOWN_ASSETS[place]
        assert (ours.name, ours.version) == (entry["name"], entry["version"]), place
        assert (ours.symbol, ours.decimals) == (entry["symbol"], entry["decimals"]), place


def test_the_domains_of_usdc_differ_from_chain_to_chain() -> None:
    assert USDC.base.name == USDC.arbitrum.name == USDC.polygon.name == "USD Coin"
    assert USDC.base_sepolia.name == USDC.celo.name == "USDC"
    assert USDC.hpp.name == "Bridged USDC"
    assert USDC.adi.units("0.5 USDC.e") == 500_000
