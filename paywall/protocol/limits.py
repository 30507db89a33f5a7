"""Every bound of the system in one place, and how the bounds relate.

A bound that is not written here does not exist. Units stand last in each name. The assertions at
the end are the sentences that must stay true when somebody changes a number.
"""

from typing import Final

UINT128_MAX: Final = 2**128 - 1
UINT256_MAX: Final = 2**256 - 1

# -- What a stranger may send us -----------------------------------------------------------------
MAX_PAYMENT_HEADER_BYTES: Final = 16 * 1024
"""A payment header longer than this is refused before it is decoded."""
MAX_HEADERS: Final = 200
"""A request with more headers than this is refused on a priced route."""
MAX_PRICED_BODY_BYTES: Final = 1024 * 1024
"""How much of a body is read for a price that depends on the body."""
MAX_PATH_BYTES: Final = 8 * 1024
MAX_PATH_DECODINGS: Final = 4
"""How many layers of percent-encoding are taken off a path before it counts as malformed."""
MAX_AMOUNT_DIGITS: Final = 39
"""Digits of 2^128 - 1; a longer amount is refused before it becomes an integer."""
MAX_CONFIG_BYTES: Final = 1024
"""A channel config on the wire; parsed ones are kept by their bytes, so these must be few."""
MAX_JSON_CONTAINERS: Final = 1024
"""Objects and lists in one message, and so also its depth, whatever the recursion limit is."""
MAX_TEXT_BYTES: Final = 2048
"""A description or an error text on the wire."""
MIN_PAYMENT_ID_CHARS: Final = 16
MAX_PAYMENT_ID_CHARS: Final = 128

# -- What a provider may send to an agent --------------------------------------------------------
MAX_QUOTE_HEADER_BYTES: Final = 64 * 1024
MAX_OFFERS: Final = 32

# -- A channel -----------------------------------------------------------------------------------
MIN_WITHDRAW_DELAY_SECONDS: Final = 900
MAX_WITHDRAW_DELAY_SECONDS: Final = 2_592_000
"""Both from the batch-settlement contract: 15 minutes to 30 days."""
WINDOW_VOUCHERS: Final = 128
"""How many recent voucher amounts a channel remembers against replay."""
MAX_HOLDS: Final = 64
"""How many requests one channel may have in flight."""
REMEMBERED_CHARGES: Final = MAX_HOLDS
"""Requests charged last, remembered to recognise a charge that is repeated for a lost answer."""
TURN_SECONDS: Final = 0.5
"""How long the next refused payment of a channel waits for the one before it to come corrected."""
HOLD_SECONDS: Final = 60
"""A hold that nobody renews is dropped after this long."""
HOLD_RENEW_SECONDS: Final = 20
REQUEST_DELAY_SHARE: Final = 6
"""A request lives for a sixth of its channel's withdraw delay at most, however often its hold is
renewed: see `paywall.running`."""
REFUND_HOLD_SECONDS: Final = 300
"""How long a refund that is on its way to the chain keeps its part of the balance."""

# -- Time ----------------------------------------------------------------------------------------
MAX_CLOCK_SKEW_SECONDS: Final = 30
MIN_AUTHORIZATION_LEFT_SECONDS: Final = 6
"""A token authorization that expires sooner than this could not be mined in time."""
DEFAULT_TIMEOUT_SECONDS: Final = 300
"""`maxTimeoutSeconds` of our offers."""
MAX_AUTHORIZATION_SECONDS: Final = 24 * 3600
"""The longest life of a token authorization that an agent signs."""
RETRY_AFTER_SECONDS: Final = 2
CHAIN_TIMEOUT_SECONDS: Final = 60
STORE_BUSY_SECONDS: Final = 10

# -- Deposits ------------------------------------------------------------------------------------
TURN_WAIT_SECONDS: Final = 10
"""How long a request waits for another worker's deposit into the same channel."""
BET_LOOK_SECONDS: Final = 180
"""After how long others look after a request that was served before its deposit was mined."""
STRANGER_READS_PER_SECOND: Final = 20
"""Readings of the chain for channels that nobody knows: a signature under one costs nothing."""
STRANGER_READS_AT_ONCE: Final = 100
STRANGER_SECONDS: Final = 5
"""How long a channel that is not there is not looked for again."""
MAX_STRANGERS: Final = 4096
PAYER_SECONDS: Final = 30 * 24 * 3600
"""How long a payer's channels are counted after its last deposit."""

# -- Exactly once --------------------------------------------------------------------------------
ANSWER_SECONDS: Final = 300
"""How long the answer to a paid request is kept for a client that lost it."""
MAX_ANSWER_BYTES: Final = 16 * 1024
"""A larger answer, or a stream, is charged once all the same, but cannot be given again."""

SLIP_MARGIN_SECONDS: Final = ANSWER_SECONDS
"""How long a one-shot payment is remembered after its authorization has expired."""

# -- Passes and free requests --------------------------------------------------------------------
DAY_SECONDS: Final = 86_400
MAX_PASS_SECONDS: Final = 366 * DAY_SECONDS
"""The longest that a pass opens, or a count of free requests runs."""
REMEMBERED_TAKES: Final = 2 * MAX_HOLDS
"""Requests counted last, remembered to recognise one that is counted again for a lost answer."""
MAX_PASSES: Final = 64
"""Passes of one payer, and tokens for them, that are good at the same time."""
MAX_SIGN_IN_HEADER_BYTES: Final = 4 * 1024
SIGN_IN_SECONDS: Final = 300
"""How long a challenge may be signed, and how old a signed one may be."""
SIGN_IN_REMEMBERED_SECONDS: Final = 2 * (SIGN_IN_SECONDS + MAX_CLOCK_SKEW_SECONDS)
"""How long a challenge that was used is remembered: well beyond the time in which it is good."""

# -- Claims --------------------------------------------------------------------------------------
MAX_CLAIM_ROWS: Final = 100
"""Rows in one claim transaction; the official facilitators take no more."""

assert MAX_HOLDS < WINDOW_VOUCHERS, "every voucher in flight must fit into the window"
assert 2 * HOLD_RENEW_SECONDS < HOLD_SECONDS, "one missed renewal must not drop a hold"
assert len(str(UINT128_MAX)) == MAX_AMOUNT_DIGITS
assert REFUND_HOLD_SECONDS > 2 * CHAIN_TIMEOUT_SECONDS, "a refund must outlive its transactions"
assert MIN_WITHDRAW_DELAY_SECONDS // REQUEST_DELAY_SHARE > 2 * HOLD_SECONDS
assert 1 / 3 + 1 / REQUEST_DELAY_SHARE <= 1 / 2, (
    "what is served in the first third of a withdrawal is charged in its first half"
)
assert MIN_WITHDRAW_DELAY_SECONDS > REFUND_HOLD_SECONDS + HOLD_SECONDS
assert BET_LOOK_SECONDS > 2 * CHAIN_TIMEOUT_SECONDS, "a deposit must have had its time"
assert DEFAULT_TIMEOUT_SECONDS <= MAX_AUTHORIZATION_SECONDS
assert ANSWER_SECONDS > HOLD_SECONDS, "an entry must outlive the hold that it recognises"
assert SLIP_MARGIN_SECONDS > HOLD_SECONDS + MAX_CLOCK_SKEW_SECONDS, "nothing is forgotten in hand"
