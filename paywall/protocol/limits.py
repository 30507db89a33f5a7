"""Every bound of the system in one place, and how the bounds relate.

A bound that is not written here does not exist. Units stand last in each name, and what a bound is
for stands under it: `paywall limits` prints this file as a table. The assertions at the end are the
sentences that must stay true when somebody changes a number.
"""

from typing import Final

# -- Amounts -------------------------------------------------------------------------------------
UINT128_MAX: Final = 2**128 - 1
"""The largest amount of a channel or a voucher."""
UINT256_MAX: Final = 2**256 - 1
"""The largest amount of a token."""
MAX_AMOUNT_DIGITS: Final = 39
"""Digits of 2^128 - 1; a longer amount is refused before it becomes an integer."""

# -- What a stranger may send to a provider ------------------------------------------------------
MAX_PAYMENT_HEADER_BYTES: Final = 16 * 1024
"""A payment header longer than this is refused before it is decoded."""
MAX_HEADERS: Final = 200
"""A request with more headers than this is refused on a priced route."""
MAX_PRICED_BODY_BYTES: Final = 1024 * 1024
"""How much of a body is read for a price that depends on the body."""
MAX_PATH_BYTES: Final = 8 * 1024
"""A longer path is refused."""
MAX_PATH_DECODINGS: Final = 4
"""How many layers of percent-encoding are taken off a path before it counts as malformed."""
MAX_PATH_FORMS: Final = 64
"""A path that can be read in more ways than this is refused; honest ones have a handful."""
MAX_CONFIG_BYTES: Final = 1024
"""A channel config on the wire; parsed ones are kept by their bytes, so these must be few."""
MAX_JSON_CONTAINERS: Final = 1024
"""Objects and lists in one message, and so also its depth, whatever the recursion limit is."""
MAX_TEXT_BYTES: Final = 2048
"""A description or an error text on the wire."""
MAX_WORD_CHARS: Final = 200
"""How much of a stranger's words is shown."""
MIN_PAYMENT_ID_CHARS: Final = 16
"""A shorter payment id could be guessed."""
MAX_PAYMENT_ID_CHARS: Final = 128
"""A longer payment id is refused."""
STRANGER_READS_PER_SECOND: Final = 20
"""Readings of the chain for channels that nobody knows and for a payer's first transfers: to sign
costs nothing."""
STRANGER_READS_AT_ONCE: Final = 100
"""How many of these readings may come at once, after a pause."""
STRANGER_SECONDS: Final = 5
"""How long a channel that is not there is not looked for again."""
MAX_STRANGERS: Final = 4096
"""Channels that are not there, remembered not to be looked for again."""

# -- What a provider may send to an agent --------------------------------------------------------
MAX_QUOTE_HEADER_BYTES: Final = 64 * 1024
"""A quote or a receipt longer than this is refused before it is decoded."""
MAX_OFFERS: Final = 32
"""Offers of one quote that are looked at."""
MAX_DISCARDED_BYTES: Final = 64 * 1024
"""How much of a 402's body is read to keep its connection; a longer one is closed."""
MAX_DISCARD_SECONDS: Final = 1.0
"""How long it is read; a body that drips is closed after the drop that comes later."""
MAX_QUOTE_SECONDS: Final = 10.0
"""How long a body that may hold a quote of x402 v1 may take, which its caller may not want."""
MAX_EVIDENCE_BYTES: Final = 4096
"""How much of a receipt that breaks the agreement is kept as evidence."""

# -- A channel -----------------------------------------------------------------------------------
MIN_WITHDRAW_DELAY_SECONDS: Final = 900
"""The shortest delay of a withdrawal, from the batch-settlement contract: 15 minutes."""
MAX_WITHDRAW_DELAY_SECONDS: Final = 2_592_000
"""The longest, from the same contract: 30 days."""
WINDOW_VOUCHERS: Final = 128
"""How many recent voucher amounts a channel remembers against replay."""
MAX_HOLDS: Final = 64
"""How many requests one channel may have in flight."""
REMEMBERED_CHARGES: Final = MAX_HOLDS
"""Requests charged last, remembered to recognise a charge that is repeated for a lost answer."""
TURN_SECONDS: Final = 0.5
"""How long the next refused payment of a channel waits for the one before it to come corrected."""
HOLD_SECONDS: Final = 60
"""A hold that nobody renews is dropped after this long.

It outlives the fail-over of a store, in which nobody can renew: shorter, and requests that run on
would not be charged. A dead worker's hold takes its price from the channel for so long, no more.
"""
HOLD_RENEW_SECONDS: Final = 20
"""How often a worker renews the holds of the requests that it still works on."""
REQUEST_DELAY_SHARE: Final = 6
"""A request lives for a sixth of its channel's withdraw delay at most, however often its hold is
renewed: see `paywall.running`."""
REFUND_HOLD_SECONDS: Final = 300
"""How long a refund is left to the worker that sends it.

Its part of the balance is kept until the contract has counted its nonce, however long that takes.
After this long it is sent again, by whoever comes first.
"""

# -- Time ----------------------------------------------------------------------------------------
MAX_CLOCK_SKEW_SECONDS: Final = 30
"""How far the clocks of the two sides may be apart."""
MIN_AUTHORIZATION_LEFT_SECONDS: Final = 6
"""A token authorization that expires sooner than this could not be mined in time."""
DEFAULT_TIMEOUT_SECONDS: Final = 300
"""`maxTimeoutSeconds` of our offers."""
MAX_AUTHORIZATION_SECONDS: Final = 24 * 3600
"""The longest life of a token authorization that an agent signs."""
RETRY_AFTER_SECONDS: Final = 2
"""When to come again after a 503."""
CHAIN_TIMEOUT_SECONDS: Final = 60
"""How long a transaction is waited for before its payment is pending."""
RPC_SECONDS: Final = 10.0
"""How long one question to an endpoint may take."""
STORE_BUSY_SECONDS: Final = 10
"""How long a store that another process keeps locked, or that is away, is waited for."""

# -- Deposits ------------------------------------------------------------------------------------
DEPOSITS_PER_HOUR: Final = 100
"""Deposits and refunds of one payer that follow no use of the last one (`deposits_per_hour`)."""
ALL_DEPOSITS_PER_HOUR: Final = 1000
"""The same of all payers together (`all_deposits_per_hour`): what a crowd of new ones may cost."""
CHANNELS_PER_PAYER: Final = 64
"""Channels that one payer may have filled (`channels_per_payer`)."""
TURN_WAIT_SECONDS: Final = 10
"""How long a request waits for another worker's deposit into the same channel."""
BET_LOOK_SECONDS: Final = 180
"""After how long others look after a request that was served before its deposit was mined."""
MAX_BETS: Final = 256
"""Requests served before their deposit is mined, at once; beyond these, deposits are waited for."""
PAYER_SECONDS: Final = 30 * 24 * 3600
"""How long a payer's channels are counted after its last deposit."""

# -- Exactly once --------------------------------------------------------------------------------
ANSWER_SECONDS: Final = 300
"""How long the answer to a paid request is kept for a client that lost it."""
REFUSALS_PER_MINUTE: Final = 128
"""Refused payments of one channel that one worker remembers: to be refused costs nothing."""
MAX_ANSWER_BYTES: Final = 16 * 1024
"""A larger answer, or a stream, is charged once all the same, but cannot be given again."""
SLIP_MARGIN_SECONDS: Final = ANSWER_SECONDS
"""How long a one-shot payment is remembered after its authorization has expired."""

# -- Passes and free requests --------------------------------------------------------------------
DAY_SECONDS: Final = 86_400
"""The day of `free_first`, from a payer's first free request."""
MAX_PASS_SECONDS: Final = 366 * DAY_SECONDS
"""The longest that a pass opens, or a count of free requests runs."""
REMEMBERED_TAKES: Final = 2 * MAX_HOLDS
"""Requests counted last, remembered to recognise one that is counted again for a lost answer."""
MAX_PASSES: Final = 64
"""Passes of one payer, and tokens for them, that are good at the same time."""
MAX_SIGN_IN_HEADER_BYTES: Final = 4 * 1024
"""A sign-in header longer than this is refused before it is decoded."""
SIGN_IN_SECONDS: Final = 300
"""How long a challenge may be signed, and how old a signed one may be."""
SIGN_IN_REMEMBERED_SECONDS: Final = 2 * (SIGN_IN_SECONDS + MAX_CLOCK_SKEW_SECONDS)
"""How long a challenge that was used is remembered: well beyond the time in which it is good."""

# -- Claims and the chain ------------------------------------------------------------------------
MAX_CLAIM_ROWS: Final = 100
"""Rows in one claim transaction; the official facilitators take no more."""
MAX_CLAIM_CHANNELS: Final = 5_000
"""How many of those who owe are looked at in one round, the largest sums first; of more than
these, as many others are looked at in turn."""
CLAIM_AGAIN_SECONDS: Final = 5
"""Doubled for each claim in a row that was mined and changed nothing; after two of them that is how
long the next one waits."""
CLAIM_AGAIN_LONGEST_SECONDS: Final = 3600
"""The longest that it waits."""
CLAIM_AGAIN_LEAVING_SECONDS: Final = 60
"""The longest that it waits with a channel in it whose payer withdraws."""
MAX_UNRESOLVED_TRANSACTIONS: Final = 1024
"""Transactions of one gas key whose fate is not known yet."""
MAX_TRANSACTION_VERSIONS: Final = 16
"""How often one transaction is replaced at a higher fee."""
MAX_GAS: Final = 60_000_000
"""An endpoint that asks for more gas than this for a transaction is not believed."""
MAX_FEE_PER_GAS_WEI: Final = 10**15
"""Nor one that names a higher price of gas."""
MAX_RPC_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""An endpoint's longer answer is not read."""
MAX_RPC_ANSWER_CONTAINERS: Final = 200_000
"""Objects and lists in one answer of an endpoint."""
MAX_RPC_ANSWER_LEVELS: Final = 32
"""How deep an endpoint's answer may be nested."""

# -- Facilitators --------------------------------------------------------------------------------
FACILITATOR_REQUESTS_PER_SECOND: Final = 50
"""Of each key or address (`paywall facilitator --rate`); twice as many at once."""
MAX_CALLERS: Final = 10_000
"""Callers whose rate is remembered; who was not seen for longest is forgotten."""
MAX_CONNECTIONS: Final = 512
"""Connections that our facilitator serves at once; the next is answered 503."""
MAX_FACILITATOR_BODY_BYTES: Final = 256 * 1024
"""What may be sent to our facilitator: a claim of a hundred rows, and some."""
FACILITATOR_BODY_SECONDS: Final = 10.0
"""How long sending it may take."""
MAX_PENDING_SETTLEMENTS: Final = 10_000
"""Settlements of unknown fate that are remembered, to be answered for when they are asked again."""
MAX_FACILITATOR_ANSWER_BYTES: Final = 64 * 1024
"""A remote facilitator's longer answer is not read."""

# -- An agent's wallet ---------------------------------------------------------------------------
MAX_LANES: Final = 64
"""Channels with one provider, at most (`lanes`)."""
MAX_HISTORY_ENTRIES: Final = 1_000_000
"""Ends of payments that may be remembered (`history`)."""
MAX_QUOTES: Final = 2048
"""How many quotes are remembered: a provider that names ever new prices cannot fill a disk."""
MAX_PATH_CHARS: Final = 512
"""How much of a request's path is written into the history."""
MAX_KEYSTORE_BYTES: Final = 64 * 1024
"""An encrypted key file is not longer."""

# -- A store's work ------------------------------------------------------------------------------
MAX_WAITING_CALLS: Final = 16_384
"""Calls to one Redis server without an answer; more mean it is far behind: 503."""
MAX_BATCH_VERBS: Final = 1024
"""Verbs in one transaction of SQLite; far below what one statement may bind."""

assert MAX_HOLDS < WINDOW_VOUCHERS, "every voucher in flight must fit into the window"
assert 2 * HOLD_RENEW_SECONDS < HOLD_SECONDS, "one missed renewal must not drop a hold"
assert len(str(UINT128_MAX)) == MAX_AMOUNT_DIGITS
assert DEPOSITS_PER_HOUR <= ALL_DEPOSITS_PER_HOUR
assert REFUND_HOLD_SECONDS > 2 * CHAIN_TIMEOUT_SECONDS, "a refund must outlive its transactions"
assert 2 * CLAIM_AGAIN_LEAVING_SECONDS < MIN_WITHDRAW_DELAY_SECONDS // 3
assert MIN_WITHDRAW_DELAY_SECONDS // REQUEST_DELAY_SHARE > 2 * HOLD_SECONDS
assert 1 / 3 + 1 / REQUEST_DELAY_SHARE <= 1 / 2, (
    "what is served in the first third of a withdrawal is charged in its first half"
)
assert MIN_WITHDRAW_DELAY_SECONDS > REFUND_HOLD_SECONDS + HOLD_SECONDS
assert BET_LOOK_SECONDS > 2 * CHAIN_TIMEOUT_SECONDS, "a deposit must have had its time"
assert DEFAULT_TIMEOUT_SECONDS <= MAX_AUTHORIZATION_SECONDS
assert ANSWER_SECONDS > HOLD_SECONDS, "an entry must outlive the hold that it recognises"
assert SLIP_MARGIN_SECONDS > HOLD_SECONDS + MAX_CLOCK_SKEW_SECONDS, "nothing is forgotten in hand"
