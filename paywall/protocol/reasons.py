"""Why a payment is refused: its word on the wire, the HTTP status with it, a text for people.

The words are those of x402 v2 §9, of the batch-settlement EVM table, and of the official SDKs, so
that any client understands them; where none of these has one, it is ours. Several reasons may share
a word. The status says whether this payment may be good later (429, 503), another would be (402),
or neither. Who refuses raises `paywall.protocol.errors.Refused` with one of these.
"""

from enum import Enum
from typing import Final

_EVM: Final = "invalid_batch_settlement_evm_"
_EXACT: Final = "invalid_exact_evm_"


class Reason(Enum):
    """Each with its word on the wire, its HTTP status, and its text for people."""

    MALFORMED_PAYMENT = ("invalid_payload", 400, "The payment header cannot be read.")
    DUPLICATE_PAYMENT = ("invalid_payload", 400, "More than one payment header was sent.")
    UNSUPPORTED_VERSION = ("invalid_x402_version", 400, "Only x402 version 2 is spoken here.")
    HEADER_TOO_LARGE = ("invalid_payload", 431, "The request's headers are too large.")
    BODY_TOO_LARGE = ("request_body_too_large", 413, "The body is too large for a price by body.")
    UNPRICEABLE = ("unpriceable_request", 400, "No price can be worked out for this request.")
    MALFORMED_PATH = ("invalid_path", 400, "The request's path is malformed or ambiguous.")
    SIGN_IN_MALFORMED = ("invalid_siwx", 400, "The sign-in cannot be read.")
    SIGN_IN_ORIGIN = ("invalid_siwx_domain_mismatch", 402, "The sign-in is for another site.")
    SIGN_IN_CHAIN = ("invalid_siwx_unsupported_chain", 402, "The sign-in is for another chain.")
    SIGN_IN_EXPIRED = ("invalid_siwx_expired", 402, "The sign-in is too old, or not good yet.")
    SIGN_IN_SIGNATURE = ("invalid_siwx_signature", 402, "The sign-in is not signed by its wallet.")
    SIGN_IN_REPLAYED = ("invalid_siwx_nonce", 402, "The sign-in was used before.")
    CLOSED = ("not_found", 404, "There is nothing here.")
    PAYMENT_ID = ("invalid_payment_identifier", 400, "A payment id is 16 to 128 of A-Za-z0-9_-.")
    PAYMENT_ID_REUSED = ("payment_identifier_conflict", 409, "This id belongs to another payment.")
    ANSWER_NOT_KEPT = (
        "payment_already_answered",
        409,
        "This payment was charged and answered before, and its answer was not kept.",
    )
    PAYMENT_IN_PROGRESS = (
        "payment_in_progress",
        503,
        "This payment is being served: send it again in a moment.",
    )

    OFFER_MISMATCH = (
        "invalid_payment_requirements",
        402,
        "The payment accepts terms that are not offered here now.",
    )
    UNSUPPORTED_SCHEME = ("unsupported_scheme", 402, "This payment scheme is not offered here.")
    PAYLOAD_TYPE = (_EVM + "payload_type", 402, "The payment's type is unknown.")
    VOUCHER_PAYLOAD = (_EVM + "voucher_payload", 402, "The voucher is malformed.")
    DEPOSIT_PAYLOAD = (_EVM + "deposit_payload", 402, "The deposit is malformed.")
    REFUND_PAYLOAD = (_EVM + "refund_payload", 402, "The refund request is malformed.")
    CHANNEL_ID_MISMATCH = (
        _EVM + "channel_id_mismatch",
        402,
        "The channel id does not belong to the channel's terms.",
    )
    RECEIVER_MISMATCH = (_EVM + "receiver_mismatch", 402, "The channel pays somebody else.")
    RECEIVER_AUTHORIZER_MISMATCH = (
        _EVM + "receiver_authorizer_mismatch",
        402,
        "The channel names another receiver authorizer.",
    )
    TOKEN_MISMATCH = (_EVM + "token_mismatch", 402, "The channel holds another token.")
    WITHDRAW_DELAY_MISMATCH = (
        _EVM + "withdraw_delay_mismatch",
        402,
        "The channel has another withdraw delay.",
    )
    VOUCHER_SIGNATURE = (
        _EVM + "voucher_signature",
        402,
        "The voucher is not signed by the channel's payer authorizer.",
    )
    DEPOSIT_SIGNATURE = (
        _EVM + "receive_authorization_signature",
        402,
        "The deposit is not signed by the payer.",
    )
    DEPOSIT_NOT_YET_VALID = (
        _EVM + "payload_authorization_valid_after",
        402,
        "The deposit's authorization is not valid yet.",
    )
    DEPOSIT_EXPIRED = (
        _EVM + "payload_authorization_valid_before",
        402,
        "The deposit's authorization has expired, or is about to.",
    )
    DEPOSIT_TOO_SMALL = (_EVM + "deposit_below_min_deposit", 402, "The deposit is too small.")
    DEPOSIT_TOO_LARGE = (_EVM + "deposit_payload", 402, "The deposit is above what we accept.")
    DEPOSIT_FAILED = (
        _EVM + "deposit_transaction_failed",
        402,
        "The deposit was refused by the chain.",
    )
    DEPOSIT_UNDER_WAY = (
        "deposit_under_way",
        503,
        "The channel's deposit is not mined yet: send the same payment again in a moment.",
    )
    TOO_MANY_DEPOSITS = (
        "too_many_deposits",
        429,
        "This payer fills or empties channels too often without using them: try again later.",
    )
    TOO_MANY_CHANNELS = (
        "too_many_channels",
        429,
        "This payer has too many channels here: use one of them, or have one refunded.",
    )
    TOO_MANY_DEPOSITS_IN_ALL = (
        "too_many_deposits_in_all",
        503,
        "Too many new payers make deposits here just now: send the same payment again later.",
    )
    TOO_MANY_STRANGERS = (
        "too_many_unknown_channels",
        503,
        "Too many unknown channels are asked for: send the same payment again in a moment.",
    )
    TOO_MANY_NEW_PAYERS = (
        "too_many_unknown_payers",
        503,
        "Too many who never paid here ask at once: send the same payment again in a moment.",
    )
    PAYER_BALANCE = (_EVM + "insufficient_balance", 402, "The payer has too little of the token.")
    CHANNEL_NOT_FOUND = (_EVM + "channel_not_found", 402, "No funded channel has this id.")
    CUMULATIVE_MISMATCH = (
        _EVM + "cumulative_amount_mismatch",
        402,
        "The voucher's total does not cover what was charged plus the price, or was used before.",
    )
    EXCEEDS_BALANCE = (
        _EVM + "cumulative_exceeds_balance",
        402,
        "The voucher's total is above the channel's balance: top it up.",
    )
    BELOW_CLAIMED = (
        _EVM + "cumulative_below_claimed",
        402,
        "The voucher's total is not above what is already claimed.",
    )
    CHANNEL_BUSY = (
        _EVM + "channel_busy",
        402,
        "Too many requests of this channel are in flight: wait for one to end.",
    )
    CHANNEL_CLOSING = (
        _EVM + "channel_busy",
        402,
        "A withdrawal or refund of this channel is under way.",
    )
    REFUND_NOTHING_LEFT = (_EVM + "refund_no_balance", 402, "Nothing is left to refund.")
    REFUND_AMOUNT = (_EVM + "refund_amount_invalid", 402, "More is asked back than is left.")

    EXACT_PAYLOAD = ("invalid_payload", 402, "The payment's authorization is malformed.")
    EXACT_RECEIVER = (
        _EXACT + "payload_recipient_mismatch",
        402,
        "The authorization pays somebody else.",
    )
    EXACT_VALUE = (
        _EXACT + "payload_authorization_value_mismatch",
        402,
        "The authorization is not for the price.",
    )
    EXACT_NOT_YET_VALID = (
        _EXACT + "payload_authorization_valid_after",
        402,
        "The authorization is not valid yet.",
    )
    EXACT_EXPIRED = (
        _EXACT + "payload_authorization_valid_before",
        402,
        "The authorization has expired, or is about to.",
    )
    EXACT_TOO_LONG = (
        _EXACT + "payload_authorization_valid_before",
        402,
        "The authorization is valid for longer than is accepted here.",
    )
    EXACT_SIGNATURE = (
        _EXACT + "payload_signature",
        402,
        "The authorization is not signed by the payer.",
    )
    EXACT_TOKEN_NAME = (_EXACT + "token_name_mismatch", 402, "The token has another name.")
    EXACT_TOKEN_VERSION = (
        _EXACT + "token_version_mismatch",
        402,
        "The token has another version.",
    )
    EXACT_USED = (
        _EXACT + "nonce_already_used",
        402,
        "The authorization was used before, or cancelled.",
    )
    EXACT_BALANCE = (
        _EXACT + "insufficient_balance",
        402,
        "The payer has too little of the token.",
    )
    EXACT_SIMULATION = (
        _EXACT + "transaction_simulation_failed",
        402,
        "The token will not make this transfer.",
    )
    EXACT_NO_TRANSFER = (
        _EXACT + "transfer_event_mismatch",
        402,
        "The token did not show the transfer.",
    )
    SETTLEMENT_PENDING = (
        "settlement_pending",
        503,
        "The transfer was sent and is not mined yet: send the same payment again in a moment.",
    )

    def __init__(self, code: str, status: int, text: str) -> None:
        self.code = code
        self.status = status
        self.text = text
