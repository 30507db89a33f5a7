"""The choice among a provider's offers: what the owner allows, and nothing that a stranger says."""

import pytest
from helpers.agent import ASSET, ORIGIN, PAYER, PRICE, offer, quote

from paywall.choice import Choice
from paywall.offers import Intent, Payer
from paywall.policy import Policy, policy_of
from paywall.protocol.errors import ConfigurationError, NoAcceptableOffer, OverBudget
from paywall.protocol.limits import MAX_OFFERS
from paywall.protocol.money import USDC, Asset, parse_address

POLICY = Policy(
    per_request=10_000, total=5_000_000, deposit=500_000, max_withdraw_delay_seconds=86_400
)
OURS = Asset("eip155:31337", parse_address("0x" + "aa" * 20), "USDC", 6, "Local", "9")


def choose(*offers: object, policy: Policy = POLICY, origin: str = ORIGIN) -> Intent:
    first = Choice(policy, Payer(PAYER, PAYER)).rank(origin, quote(*offers))[0]  # type: ignore[arg-type]
    assert isinstance(first, Intent)
    return first


def extra(**changes: object) -> dict[str, object]:
    return offer(extra=changes)


def test_an_offer_is_understood_as_it_was_spelled():
    intent = choose(offer(window=7, extra={"minDeposit": "12000"}))
    assert (intent.price, intent.min_deposit, intent.in_flight) == (PRICE, 12_000, 7)
    assert (intent.asset, intent.origin) == (ASSET, ORIGIN)
    assert intent.config.payer == intent.config.payer_authorizer == PAYER


def test_case_44_the_cheapest_acceptable_offer_wins_wherever_it_stands():
    cheap = offer(900, payTo="0x" + "99" * 20)
    assert choose(offer(10_000), offer(2_000), cheap, offer(950)).price == 900
    assert choose(offer(1, asset="0x" + "12" * 20), cheap).price == 900


@pytest.mark.parametrize("price", [10_001, 10**18, 2**128 - 1])
def test_case_44_an_offer_above_the_ceiling_is_refused(price):
    with pytest.raises(OverBudget):
        choose(offer(price))


def test_an_offer_at_the_ceiling_is_taken():
    assert choose(offer(10_000)).price == 10_000


@pytest.mark.parametrize(
    "strange",
    [
        offer(asset="0x" + "12" * 20),
        offer(network="eip155:999"),
        offer(network="solana:mainnet"),
        offer(scheme="upto"),
        offer(scheme="charity"),
        extra(assetTransferMethod="permit2"),
        offer(payTo="0x" + "00" * 20),
        extra(receiverAuthorizer="0x" + "00" * 20),
    ],
    ids=["token", "chain", "not-evm", "scheme", "unheard", "permit2", "receiver", "authorizer"],
)
def test_case_44_an_offer_of_another_kind_is_passed_over(strange):
    with pytest.raises(NoAcceptableOffer):
        choose(strange)
    assert choose(strange, offer(2_000)).price == 2_000


@pytest.mark.parametrize("delay", [0, -1, 899, 86_401, 2_592_001, 10**12])
def test_case_50_a_withdraw_delay_that_the_owner_cannot_bear_is_refused(delay):
    with pytest.raises(NoAcceptableOffer):
        choose(extra(withdrawDelay=delay))


@pytest.mark.parametrize("delay", [900, 86_400])
def test_a_withdraw_delay_within_bounds_is_taken(delay):
    assert choose(extra(withdrawDelay=delay)).config.withdraw_delay_seconds == delay


def test_the_contract_bounds_the_delay_whatever_the_owner_says():
    patient = Policy(10_000, 1, 1, max_withdraw_delay_seconds=10**9)
    with pytest.raises(NoAcceptableOffer):
        choose(extra(withdrawDelay=2_592_001), policy=patient)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        None,
        7,
        "text",
        [],
        offer(amount=1000),
        offer(amount="-1"),
        offer(amount="1e3"),
        offer(amount="01"),
        offer(amount=str(2**128)),
        offer(amount="9" * 5000),
        offer(asset="0x12"),
        offer(payTo="nobody"),
        offer(extra={"minDeposit": "-5"}),
        offer(extra={"withdrawDelay": "900"}),
        offer(extra={"withdrawDelay": True}),
        offer(extra={"receiverAuthorizer": None}),
        offer(extra={"inFlight": "64"}),
        offer(network="eip155:0"),
    ],
)
def test_a_malformed_offer_is_passed_over(broken):
    assert choose(broken, offer()).price == PRICE
    with pytest.raises(NoAcceptableOffer):
        choose(broken)


def test_a_price_of_zero_is_no_lure_into_a_deposit():
    assert choose(offer(0), offer()).price == PRICE
    with pytest.raises(NoAcceptableOffer):
        choose(offer(0))


def test_an_empty_quote_has_no_acceptable_offer():
    with pytest.raises(NoAcceptableOffer):
        Choice(POLICY, Payer(PAYER, PAYER)).rank(ORIGIN, quote(accepts=[]))


def test_only_so_many_offers_are_read():
    junk = [offer(scheme=f"junk-{number}") for number in range(MAX_OFFERS)]
    with pytest.raises(NoAcceptableOffer):
        choose(*junk, offer())


def test_the_domain_that_an_offer_names_is_ignored():
    lie = extra(name="Tether", version="7")
    assert choose(lie).asset == ASSET
    assert choose(lie).channel_id == choose(offer()).channel_id


@pytest.mark.parametrize(
    ("said", "meant"), [(None, 1), (0, 1), (-5, 1), (1, 1), (64, 64), (10**9, 64)]
)
def test_how_many_may_be_in_flight_is_bounded(said, meant):
    assert choose(offer(window=said)).in_flight == meant


def test_a_token_that_the_owner_names_is_known_and_its_domain_is_the_owners():
    policy = Policy(10_000, 1, 1, 86_400, assets=(OURS,))
    ours = offer(network=OURS.network, asset="0x" + "AA" * 20)
    assert choose(ours, policy=policy).asset == OURS
    with pytest.raises(NoAcceptableOffer):
        choose(ours)


def test_one_channel_for_each_origin_receiver_token_and_delay():
    base = choose(offer())
    others = [
        choose(offer(), origin="https://other.example:443"),
        choose(offer(payTo="0x" + "34" * 20)),
        choose(extra(receiverAuthorizer="0x" + "45" * 20)),
        choose(extra(withdrawDelay=1000)),
        choose(offer(network="eip155:8453", asset="0x" + USDC.base.address.hex())),
    ]
    assert len({base.channel_id, *(other.channel_id for other in others)}) == 6
    assert choose(offer(2_000), origin=ORIGIN).channel_id == base.channel_id


def test_the_resource_that_a_quote_names_has_no_say():
    assert choose(offer()).origin == ORIGIN


# -- What the owner allows -----------------------------------------------------------------------


def allowed(origin: str = "https://api.example:443", told: object = None, **limits: object) -> bool:
    policy = policy_of(limits)  # type: ignore[arg-type]
    try:
        choose(told or offer(), policy=policy, origin=origin)
    except NoAcceptableOffer:
        return False
    return True


@pytest.mark.parametrize(
    ("pattern", "origin", "matches"),
    [
        ("api.example", "https://api.example:443", True),
        ("API.Example.", "https://api.example:443", True),
        ("api.example", "http://api.example:8080", True),
        ("api.example", "https://xapi.example:443", False),
        ("api.example", "https://api.example.evil.com:443", False),
        ("api.example", "https://sub.api.example:443", False),
        ("*.example", "https://api.example:443", True),
        ("*.example", "https://a.b.example:443", True),
        ("*.example", "https://example:443", False),
        ("*.example", "https://evilexample:443", False),
        ("https://api.example", "https://api.example:443", True),
        ("https://api.example", "http://api.example:80", False),
        ("https://api.example", "https://api.example:8443", False),
        ("https://*.example:8443", "https://api.example:8443", True),
        ("api.example:8443", "https://api.example:443", False),
        ("*", "http://anything:1", True),
        ("https://*", "http://anything:80", False),
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("[::1]", "http://[::1]:8000", True),
        ("api.example", "https://аpi.example:443", False),
    ],
)
def test_case_47_origins_are_allowed_and_denied_by_pattern(pattern, origin, matches):
    assert allowed(origin, allow_origins=[pattern]) is matches
    assert allowed(origin, deny_origins=[pattern]) is not matches


def test_what_is_denied_is_denied_whatever_is_allowed():
    lists = {"allow_origins": ["*.example"], "deny_origins": ["bad.example"]}
    assert allowed("https://good.example:443", **lists)
    assert not allowed("https://bad.example:443", **lists)


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        ({"allow_networks": [ASSET.network]}, True),
        ({"allow_networks": ["eip155:8453"]}, False),
        ({"deny_networks": [ASSET.network]}, False),
        ({"deny_networks": ["eip155:8453"]}, True),
        ({"allow_assets": [ASSET]}, True),
        ({"allow_assets": [USDC.base]}, False),
        ({"deny_assets": [ASSET]}, False),
        ({"allow_receivers": ["0x" + "33" * 20]}, True),
        ({"allow_receivers": ["0x" + "34" * 20]}, False),
        ({"deny_receivers": ["0x" + "33" * 20]}, False),
    ],
)
def test_case_44_networks_assets_and_receivers_are_allowed_and_denied(limits, fits):
    assert allowed(**limits) is fits
    told = offer(scheme="exact", extra={"receiverAuthorizer": None, "withdrawDelay": None})
    policy = policy_of(limits)
    if fits:
        assert Choice(policy, Payer(PAYER, PAYER)).rank(ORIGIN, quote(told))
    else:
        with pytest.raises(NoAcceptableOffer):
            Choice(policy, Payer(PAYER, PAYER)).rank(ORIGIN, quote(told))


def test_an_asset_that_is_allowed_by_name_is_known():
    ours = offer(network=OURS.network, asset="0x" + "AA" * 20)
    assert allowed(told=ours, allow_assets=[OURS])
    assert not allowed(allow_assets=[OURS])


@pytest.mark.parametrize(
    "limits",
    [
        {"allow_origins": "api.example"},
        {"allow_origins": ["api.*.example"]},
        {"allow_origins": ["ftp://api.example"]},
        {"deny_origins": ["https://api.example/path"]},
        {"allow_origins": ["user@api.example"]},
        {"allow_origins": [""]},
        {"allow_networks": ["base"]},
        {"allow_receivers": ["0x12"]},
        {"lanes": 0},
        {"lanes": 65},
        {"top_up_percent": 101},
        {"max_authorization_seconds": 1},
        {"max_authorization_seconds": 10**6},
        {"history": 0},
        {"per_day": "-$1"},
    ],
)
def test_limits_that_cannot_work_are_refused(limits):
    with pytest.raises(ConfigurationError):
        policy_of(limits)


def test_the_limits_that_nobody_has_set_are_small():
    policy = policy_of({})
    assert (policy.per_request, policy.total, policy.deposit) == (10_000, 5_000_000, 500_000)
    assert (policy.lanes, policy.most_per_deposit) == (1, 500_000)


def test_a_voucher_key_makes_a_channel_of_its_own():
    keys = (PAYER, parse_address("0x" + "12" * 20))
    ours, theirs = (Choice(POLICY, Payer(PAYER, key)) for key in keys)
    intents = [one.channels(ORIGIN, quote(offer()))[0] for one in (ours, theirs)]
    assert [one.config.payer for one in intents] == [PAYER, PAYER]
    assert intents[0].channel_id != intents[1].channel_id


def test_lanes_are_other_channels_with_the_same_provider():
    base = choose(offer())
    lanes = [base.lane(number) for number in range(4)]
    assert lanes[0] is base
    assert len({lane.channel_id for lane in lanes}) == 4
    assert {lane.config.receiver for lane in lanes} == {base.config.receiver}
    assert lanes[2].channel_id == lanes[2].config.channel_id(base.asset.network)


def test_an_offer_that_comes_again_is_understood_as_before():
    choice = Choice(POLICY, Payer(PAYER, PAYER))
    (first,) = choice.rank(ORIGIN, quote(offer()))
    assert choice.rank(ORIGIN, quote(offer())) == [first]
    (again,) = choice.rank(ORIGIN, quote(offer(), extensions={"x": {}}))
    assert (again.channel_id, bytes(again.extensions["x"])) == (first.channel_id, b"{}")
    assert choice.rank(ORIGIN, quote(offer()))[0].extensions is None
