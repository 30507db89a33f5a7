"""Calls that leave no trace: `eth_call` and `eth_estimateGas` on the embedded chain.

The message runs without a transaction around it, so it needs no signature, no nonce and no money
for gas. An estimate is what the run used, then raised until it suffices, because a contract that
calls another must keep a 64th of its gas back (EIP-150) and so needs more than it uses.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from eth._utils.address import generate_contract_address
from eth.abc import ComputationAPI, StateAPI
from eth.exceptions import VMError
from eth.vm.forks.prague.state import PragueTransactionExecutor
from eth.vm.message import Message
from eth_typing import Address

CALL_GAS: Final = 100_000_000
"""What a call may burn. More than a block: reading does not have to fit into one."""

CREATE: Final = Address(b"")
_TRANSACTION_GAS: Final = 21_000
_CALL_STIPEND: Final = 2_300


@dataclass(frozen=True, slots=True)
class Call:
    """What to run. No `to` means a contract creation. Amounts in wei."""

    sender: Address
    to: Address = CREATE
    data: bytes = b""
    value: int = 0
    gas: int = CALL_GAS
    gas_price_wei: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `gas_used` is without refunds: what the limit has to cover."""

    output: bytes
    gas_used: int
    error: VMError | None = None


def run(state: StateAPI, call: Call) -> Outcome:
    """Runs a call on a state, which is then used up."""
    spent = intrinsic_gas(call)
    if call.gas < spent:
        return Outcome(b"", spent, VMError("intrinsic gas too low"))
    try:
        computation = _apply(state, call, call.gas - spent)
    except VMError as error:
        return Outcome(b"", spent, error)
    used = call.gas - computation.get_gas_remaining()
    return Outcome(computation.output, used, computation.error if computation.is_error else None)


def _apply(state: StateAPI, call: Call, gas: int) -> ComputationAPI:
    context = state.get_transaction_context_class()(
        gas_price=call.gas_price_wei, origin=call.sender
    )
    state.mark_address_warm(call.sender)
    if call.to == CREATE:
        created = generate_contract_address(call.sender, state.get_nonce(call.sender))
        message = Message(
            gas=gas,
            to=CREATE,
            sender=call.sender,
            value=call.value,
            data=b"",
            code=call.data,
            create_address=created,
        )
        return state.computation_class.apply_create_message(state, message, context)
    state.mark_address_warm(call.to)
    executor = state.get_transaction_executor()
    assert isinstance(executor, PragueTransactionExecutor)
    code, delegate = executor.get_code_at_address(call.to)
    message = Message(
        gas=gas,
        to=call.to,
        sender=call.sender,
        value=call.value,
        data=call.data,
        code=code,
        is_delegation=delegate is not None,
    )
    return state.computation_class.apply_message(state, message, context)


def estimate_gas(state: Callable[[], StateAPI], call: Call) -> Outcome:
    """The outcome under the smallest gas limit found that suffices, as `gas_used`."""
    outcome = run(state(), call)
    limit = max(outcome.gas_used, floor_gas(call.data))
    while outcome.error is None and limit < call.gas:
        attempt = run(state(), replace(call, gas=limit))
        if attempt.error is None:
            return Outcome(attempt.output, limit)
        limit += limit // 63 + _CALL_STIPEND
    return replace(outcome, gas_used=call.gas)


def intrinsic_gas(call: Call) -> int:
    """What a transaction pays before it runs (EIP-2028, EIP-3860). Access lists are not counted."""
    creation = 32_000 + 2 * -(-len(call.data) // 32) if call.to == CREATE else 0
    return _TRANSACTION_GAS + 4 * _tokens(call.data) + creation


def floor_gas(data: bytes) -> int:
    """What a transaction pays at least for its data (EIP-7623)."""
    return _TRANSACTION_GAS + 10 * _tokens(data)


def _tokens(data: bytes) -> int:
    return 4 * len(data) - 3 * data.count(0)
