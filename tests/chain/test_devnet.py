"""The devnet behaves as a node does, for the libraries and tools that will talk to it."""

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eth_account import Account
from kit import USDC, Kit
from web3 import AsyncHTTPProvider, AsyncWeb3, Web3
from web3.exceptions import ContractLogicError

from paywall.chain.contract import (
    MULTICALL3_ADDRESS,
    SETTLEMENT_ADDRESS,
    encode_balance_of,
    encode_initiate_withdraw,
    encode_settle,
)
from paywall.chain.contracts import artifact
from paywall.chain.devnet import Devnet
from paywall.chain.devnet_chain import GAS_LIMIT
from paywall.protocol.errors import ConfigurationError

GWEI = 10**9
NOBODY = "0x00000000000000000000000000000000000000AA"


def post(devnet: Devnet, body: bytes) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", devnet.port, timeout=10)
    connection.request("POST", "/", body, {"Content-Type": "application/json"})
    answer = connection.getresponse().read()
    connection.close()
    return json.loads(answer) if answer else None


def signed(kit: Kit, who: Any = None, **changes: Any) -> str:
    """A transfer of one wei, as raw 0x hex, with changes."""
    sender = who or kit.stranger
    fields = {
        "chainId": kit.devnet.chain_id,
        "nonce": kit.web3.eth.get_transaction_count(sender.address, "pending"),
        "to": NOBODY,
        "value": 1,
        "gas": 50_000,
        "gasPrice": kit.web3.eth.gas_price,
    } | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    return "0x" + bytes(Account.sign_transaction(fields, sender.key).raw_transaction).hex()


def send(kit: Kit, who: Any = None, **changes: Any) -> dict[str, Any]:
    return kit.ask("eth_sendRawTransaction", signed(kit, who, **changes))


# -- Genesis and life cycle -----------------------------------------------------------------------


def test_ten_known_accounts_have_ether_and_dollars(kit: Kit) -> None:
    accounts = kit.devnet.accounts
    assert len(accounts) == 10
    assert accounts[0].address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert accounts[9].address == "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"
    assert Account.from_key(accounts[3].key).address == accounts[3].address
    assert {kit.devnet.eth_balance(a.address) for a in accounts} == {10_000 * 10**18}
    assert {kit.devnet.usdc_balance(a.address) for a in accounts} == {10**12}
    assert kit.web3.eth.accounts == [a.address for a in accounts]


def test_money_comes_out_of_thin_air(kit: Kit) -> None:
    kit.devnet.fund_usdc(NOBODY, 7)
    kit.devnet.fund_usdc(NOBODY, 5)
    kit.devnet.fund_eth(NOBODY, 3)
    kit.devnet.fund_eth(NOBODY, 4)
    assert kit.devnet.usdc_balance(NOBODY) == 12
    assert kit.devnet.eth_balance(NOBODY) == 7
    kit.ask("anvil_setBalance", NOBODY, "0x2")
    assert kit.devnet.eth_balance(NOBODY) == 2


def test_a_taken_port_says_so() -> None:
    with Devnet() as devnet:
        with pytest.raises(ConfigurationError, match=f"port {devnet.port} on 127.0.0.1 is taken"):
            Devnet(port=devnet.port)
        assert Web3(Web3.HTTPProvider(devnet.url)).is_connected()


def test_the_port_is_free_again_after_close_and_closing_twice_is_fine() -> None:
    with Devnet(chain_id=31337) as devnet:
        web3 = Web3(Web3.HTTPProvider(devnet.url))
        assert web3.eth.chain_id == 31337
        port = devnet.port
    devnet.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    with Devnet(port=port) as again:
        assert again.port == port


def test_close_hangs_up_on_idle_connections() -> None:
    devnet = Devnet()
    idle = http.client.HTTPConnection("127.0.0.1", devnet.port, timeout=5)
    idle.request("POST", "/", b'{"id": 1, "method": "eth_chainId"}')
    assert idle.getresponse().read()
    began = time.monotonic()
    devnet.close()
    assert idle.sock.recv(1) == b""
    assert time.monotonic() - began < 2
    idle.close()


def test_two_devnets_are_two_chains() -> None:
    with Devnet() as one, Devnet(chain_id=8453) as two:
        one.fund_usdc(NOBODY, 1)
        assert (one.usdc_balance(NOBODY), two.usdc_balance(NOBODY)) == (1, 0)
        assert two.chain_id == 8453


# -- Through web3 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fees",
    [
        {"gasPrice": GWEI},
        {"gasPrice": GWEI, "type": 1, "accessList": []},
        {"gasPrice": None, "maxFeePerGas": GWEI, "maxPriorityFeePerGas": 10},
    ],
)
def test_every_type_of_transaction_is_mined_at_once(kit: Kit, fees: dict[str, Any]) -> None:
    before = kit.web3.eth.block_number
    hashed = kit.web3.eth.send_raw_transaction(signed(kit, **fees))
    receipt = kit.web3.eth.get_transaction_receipt(hashed)
    transaction = kit.web3.eth.get_transaction(hashed)
    block = kit.web3.eth.get_block(before + 1, full_transactions=True)
    price = GWEI if fees["gasPrice"] else block["baseFeePerGas"] + 10
    assert (receipt["status"], receipt["blockNumber"], receipt["gasUsed"]) == (1, before + 1, 21000)
    assert receipt["effectiveGasPrice"] == transaction["gasPrice"] == price
    assert transaction["from"] == receipt["from"] == kit.stranger.address
    assert transaction["value"] == 1
    assert block["transactions"] == [transaction]
    assert kit.web3.eth.get_block(before + 1)["transactions"] == [hashed]
    assert kit.web3.eth.get_block(block["hash"])["number"] == before + 1
    assert kit.web3.eth.get_balance(NOBODY) == 1


def test_web3_deploys_estimates_sends_and_reads_through_a_contract_object(kit: Kit) -> None:
    token = kit.web3.eth.contract(address=kit.devnet.usdc, abi=artifact("Usdc").abi)
    transfer = token.functions.transfer(NOBODY, 25)
    fields = transfer.build_transaction(
        {
            "from": kit.payer.address,
            "nonce": kit.web3.eth.get_transaction_count(kit.payer.address),
        }
    )
    raw = Account.sign_transaction(fields, kit.payer.key).raw_transaction
    receipt = kit.web3.eth.wait_for_transaction_receipt(kit.web3.eth.send_raw_transaction(raw))
    (event,) = token.events.Transfer().process_receipt(receipt)
    assert event["args"] == {"from": kit.payer.address, "to": NOBODY, "value": 25}
    assert token.functions.balanceOf(NOBODY).call() == 25
    assert receipt["gasUsed"] <= fields["gas"]


async def test_async_web3_does_the_same(kit: Kit) -> None:
    provider = AsyncHTTPProvider(kit.devnet.url)
    web3 = AsyncWeb3(provider)
    hashed = await web3.eth.send_raw_transaction(signed(kit))
    receipt = await web3.eth.wait_for_transaction_receipt(hashed)
    assert receipt["status"] == 1
    token = web3.eth.contract(address=kit.devnet.usdc, abi=artifact("Usdc").abi)
    assert await token.functions.symbol().call() == "USDC"
    await provider.disconnect()


def test_a_reason_reaches_web3(kit: Kit) -> None:
    token = kit.web3.eth.contract(address=kit.devnet.usdc, abi=artifact("Usdc").abi)
    with pytest.raises(ContractLogicError, match="transfer amount exceeds balance"):
        token.functions.transfer(NOBODY, 1).call({"from": "0x" + "22" * 20})


def test_a_contract_is_created_and_its_address_told(kit: Kit) -> None:
    receipt = kit.web3.eth.wait_for_transaction_receipt(
        kit.web3.eth.send_raw_transaction(
            signed(kit, to=None, value=0, data="0x600180600a3d393df300", gas=100_000)
        )
    )
    assert bytes(kit.web3.eth.get_code(receipt["contractAddress"])) == b"\0"
    created = kit.ask("eth_call", {"data": "0x600180600a3d393df300"}, "latest")
    assert created["result"] == "0x00"
    estimate = kit.web3.eth.estimate_gas({"data": "0x600180600a3d393df300"})
    assert receipt["gasUsed"] <= estimate <= 100_000


def test_a_reverted_transaction_has_status_zero_and_costs_gas(kit: Kit) -> None:
    call = encode_initiate_withdraw(kit.config(), 1)
    hashed = kit.web3.eth.send_raw_transaction(
        signed(
            kit,
            to=Web3.to_checksum_address(SETTLEMENT_ADDRESS),
            data="0x" + call.hex(),
            value=0,
            gas=200_000,
        )
    )
    receipt = kit.web3.eth.get_transaction_receipt(hashed)
    assert (receipt["status"], receipt["logs"]) == (0, [])
    assert 21_000 < receipt["gasUsed"] < 200_000


def test_multicall3_reads_time_chain_and_balances(kit: Kit) -> None:
    multicall = kit.web3.eth.contract(
        address=Web3.to_checksum_address(MULTICALL3_ADDRESS), abi=artifact("Multicall3").abi
    )
    functions = multicall.functions
    call = (kit.devnet.usdc, encode_balance_of(kit.payer.raw))
    balance = (10**12).to_bytes(32, "big")
    broken = (kit.devnet.usdc, b"\1\2\3\4")
    assert functions.getChainId().call() == kit.devnet.chain_id
    assert functions.getBlockNumber().call() == kit.web3.eth.block_number
    assert functions.getEthBalance(kit.payer.address).call() == 10_000 * 10**18
    assert functions.tryAggregate(False, [call, broken]).call() == [(True, balance), (False, b"")]
    assert functions.aggregate([call, call]).call()[1] == [balance, balance]
    assert functions.aggregate3([(call[0], False, call[1])]).call() == [(True, balance)]
    assert functions.tryBlockAndAggregate(False, [call]).call()[2] == [(True, balance)]
    assert functions.aggregate3([(*broken[:1], True, broken[1])] * 64).call() == [(False, b"")] * 64
    with pytest.raises(ContractLogicError, match="Multicall3: call failed"):
        functions.aggregate([broken]).call()
    with pytest.raises(ContractLogicError, match="Multicall3: call failed"):
        functions.tryAggregate(True, [broken]).call()


# -- The envelope ---------------------------------------------------------------------------------


def test_what_is_no_request_is_answered_as_json_rpc_wants(kit: Kit) -> None:
    def code(body: bytes) -> int:
        return int(post(kit.devnet, body)["error"]["code"])

    assert code(b"{") == -32700
    assert code(b"\xff\xfe") == -32700
    assert code(b"[" * 100_000) == -32700
    assert code(b"[]") == -32600
    assert code(b"3") == -32600
    assert code(b'{"id": 1}') == -32600
    assert code(b'{"id": 1, "method": "eth_mine_me"}') == -32601
    assert code(b'{"id": 1, "method": "eth_call", "params": {}}') == -32602


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", []),
        ("eth_getBalance", ["0x12", "latest"]),
        ("eth_getBalance", ["0x" + "11" * 20, "yesterday"]),
        ("eth_getBalance", ["0x" + "11" * 20, -1]),
        ("eth_call", ["nonsense"]),
        ("eth_call", [{"to": "0x" + "11" * 20, "data": "0xzz"}]),
        ("eth_call", [{"to": "0x" + "11" * 20}, "latest", {"0x" + "11" * 20: {}}]),
        ("eth_getTransactionByHash", ["0x1234"]),
        ("eth_getBlockByNumber", ["0x0", "yes"]),
        ("eth_getLogs", [{"topics": ["0x12"]}]),
        ("eth_getLogs", [{"blockHash": "0x" + "00" * 32, "fromBlock": "0x0"}]),
        ("eth_sendRawTransaction", ["hello"]),
        ("evm_setNextBlockTimestamp", [1]),
        ("evm_setAutomine", [1]),
    ],
)
def test_bad_parameters_are_bad_parameters(kit: Kit, method: str, params: list[Any]) -> None:
    assert kit.ask(method, *params)["error"]["code"] == -32602


def test_a_batch_is_answered_in_its_order(kit: Kit) -> None:
    body = json.dumps(
        [
            {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId"},
            {"jsonrpc": "2.0", "id": 2, "method": "nothing"},
            {"jsonrpc": "2.0", "method": "eth_chainId"},
            7,
            {"jsonrpc": "2.0", "id": None, "method": "net_version", "params": []},
        ]
    )
    answers = post(kit.devnet, body.encode())
    assert [(a["id"], a.get("result")) for a in answers] == [
        ("a", "0x14a34"),
        (2, None),
        (None, None),
        (None, "84532"),
    ]
    assert post(kit.devnet, b'{"jsonrpc": "2.0", "method": "eth_chainId"}') is None


def test_one_connection_serves_many_requests(kit: Kit) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", kit.devnet.port, timeout=10)
    for number in range(20):
        connection.request("POST", "/", json.dumps({"id": number, "method": "eth_blockNumber"}))
        assert json.loads(connection.getresponse().read())["id"] == number
    connection.close()


def test_only_posts_of_a_known_length_are_read(kit: Kit) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", kit.devnet.port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 501
    connection.close()
    connection.request("POST", "/", headers={"Content-Length": str(2**40)})
    assert connection.getresponse().status == 413
    connection.close()


def test_many_clients_at_once_are_all_served(kit: Kit) -> None:
    def transfer(index: int) -> int:
        who = kit.devnet.accounts[index]
        web3 = Web3(Web3.HTTPProvider(kit.devnet.url))
        for _ in range(3):
            raw = signed(kit, who)
            web3.eth.wait_for_transaction_receipt(web3.eth.send_raw_transaction(raw))
        return int(web3.eth.get_transaction_count(who.address))

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(transfer, range(10))) == [3] * 10
    assert kit.web3.eth.get_balance(NOBODY) == 30


# -- Calls ----------------------------------------------------------------------------------------


def test_a_revert_is_reported_with_its_words_and_its_data(kit: Kit) -> None:
    token = kit.web3.eth.contract(address=kit.devnet.usdc, abi=artifact("Usdc").abi)
    data = token.encode_abi("transfer", [NOBODY, 1])
    fields = {"from": NOBODY, "to": kit.devnet.usdc, "data": data}
    for method in ("eth_call", "eth_estimateGas"):
        error = kit.ask(method, fields, "latest")["error"]
        assert error["code"] == 3
        assert error["message"] == "execution reverted: ERC20: transfer amount exceeds balance"
        assert error["data"].startswith("0x08c379a0")
    call = encode_initiate_withdraw(kit.config(), 1)
    error = kit.call(kit.stranger, call)["error"]
    assert error["message"] == "execution reverted: InvalidChannel"
    assert error["data"] == "0x" + Web3.keccak(text="InvalidChannel()")[:4].hex()


def test_a_call_needs_no_money_and_no_nonce_but_what_it_sends(kit: Kit) -> None:
    data = "0x" + encode_balance_of(kit.payer.raw).hex()
    fields = {"from": NOBODY, "to": kit.devnet.usdc, "data": data, "gasPrice": hex(GWEI)}
    assert int(kit.ask("eth_call", fields, "latest")["result"], 16) == 10**12
    assert kit.ask("eth_call", {"to": NOBODY}, "latest")["result"] == "0x"
    poor = {"from": NOBODY, "to": kit.payer.address, "value": "0x1"}
    assert kit.ask("eth_call", poor, "latest")["error"]["code"] == -32000
    hungry = {"to": kit.devnet.usdc, "data": data, "gas": "0x5300"}
    assert kit.ask("eth_call", hungry, "latest")["error"]["code"] == -32000


def test_a_call_sees_the_block_that_it_names(kit: Kit) -> None:
    before = kit.web3.eth.block_number
    kit.devnet.fund_usdc(NOBODY, 9)
    fields = {"to": kit.devnet.usdc, "data": "0x" + encode_balance_of(bytes(19) + b"\xaa").hex()}

    def at(tag: Any) -> int:
        return int(kit.ask("eth_call", fields, tag)["result"], 16)

    last = kit.web3.eth.get_block("latest")["hash"]
    assert [at(hex(before)), at(hex(before + 1)), at("latest"), at("pending")] == [0, 9, 9, 9]
    assert at({"blockHash": "0x" + bytes(last).hex()}) == 9
    assert at({"blockNumber": hex(before)}) == 0
    assert kit.ask("eth_call", fields, hex(before + 9))["error"]["message"] == "header not found"
    assert kit.ask("eth_getBalance", NOBODY, hex(before + 9))["error"]["code"] == -32000


def test_an_estimate_suffices_and_is_not_far_off(kit: Kit) -> None:
    config = kit.config()
    call = kit.deposit_call(config, 1000)
    fields = {
        "from": kit.relayer.address,
        "to": Web3.to_checksum_address(SETTLEMENT_ADDRESS),
        "data": "0x" + call.hex(),
    }
    estimate = kit.web3.eth.estimate_gas(fields)
    sent = kit.send(kit.relayer, call, gas=estimate)
    assert sent.gas <= estimate < sent.gas * 1.2
    plain = {"from": kit.payer.address, "to": NOBODY, "value": "0x1"}
    assert kit.web3.eth.estimate_gas(plain) == 21_000


def test_a_call_that_calls_itself_ends(kit: Kit) -> None:
    runtime = bytes.fromhex("5f5f5f5f5f305af1" + "00")
    creation = bytes([0x60, len(runtime), 0x80, 0x60, 0x0A, 0x3D, 0x39, 0x3D, 0xF3, 0x00])
    data = "0x" + (creation + runtime).hex()
    hashed = kit.web3.eth.send_raw_transaction(signed(kit, to=None, value=0, data=data, gas=10**5))
    receipt = kit.web3.eth.wait_for_transaction_receipt(hashed)
    fields = {"to": receipt["contractAddress"]}
    assert kit.ask("eth_call", fields, "latest")["result"] == "0x"


def test_storage_is_readable(kit: Kit) -> None:
    slot = artifact("Usdc").storage["totalSupply"]
    assert int(kit.ask("eth_getStorageAt", kit.devnet.usdc, hex(slot), "latest")["result"], 16) == (
        10 * 10**12
    )


# -- What the pool refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": 10**30}, "insufficient funds for gas * price + value"),
        ({"gas": 20_000}, "intrinsic gas too low: have 20000, want 21000"),
        ({"data": "0x" + "ff" * 100, "gas": 24_000}, "insufficient gas for floor data gas cost"),
        ({"gas": GAS_LIMIT + 1}, "exceeds block gas limit"),
        ({"gasPrice": 1}, "max fee per gas less than block base fee"),
        ({"chainId": 1}, "invalid chain id for signer: have 1 want 84532"),
        (
            {"gasPrice": None, "maxFeePerGas": GWEI, "maxPriorityFeePerGas": 2 * GWEI},
            "max priority fee per gas higher than max fee per gas",
        ),
    ],
)
def test_a_transaction_that_cannot_be_mined_is_refused(
    kit: Kit, changes: dict[str, Any], words: str
) -> None:
    error = send(kit, **changes)["error"]
    assert error["code"] == -32000
    assert error["message"].startswith(words)


def test_nonces_are_used_once_and_in_order(kit: Kit) -> None:
    raw = signed(kit)
    assert "result" in kit.ask("eth_sendRawTransaction", raw)
    assert kit.ask("eth_sendRawTransaction", raw)["error"]["message"] == "already known"
    low = send(kit, nonce=0, value=2)["error"]["message"]
    assert low == "nonce too low: next nonce 1, tx nonce 0"
    early = send(kit, nonce=2)["result"]
    assert kit.ask("eth_getTransactionReceipt", early)["result"] is None
    assert kit.web3.eth.get_transaction_count(kit.stranger.address, "pending") == 1
    send(kit, nonce=1)
    assert kit.ask("eth_getTransactionReceipt", early)["result"]["status"] == "0x1"


def test_garbage_is_no_transaction(kit: Kit) -> None:
    for raw in ("0x", "0x00", "0x02ff", "0x03" + "00" * 40, "0x" + "ff" * 100):
        error = kit.ask("eth_sendRawTransaction", raw)["error"]
        assert error["code"] == -32000


# -- Mining by hand -------------------------------------------------------------------------------


def test_without_automine_a_transaction_waits(kit: Kit) -> None:
    kit.ask("evm_setAutomine", False)
    hashed = send(kit)["result"]
    waiting = kit.ask("eth_getTransactionByHash", hashed)["result"]
    assert (waiting["blockNumber"], waiting["from"]) == (None, kit.stranger.address)
    assert kit.ask("eth_getTransactionReceipt", hashed)["result"] is None
    assert kit.web3.eth.get_transaction_count(kit.stranger.address, "latest") == 0
    assert kit.web3.eth.get_transaction_count(kit.stranger.address, "pending") == 1
    pending = kit.ask("eth_getBlockByNumber", "pending", False)["result"]
    assert (pending["transactions"], pending["hash"]) == ([hashed], None)
    assert int(kit.ask("eth_getBalance", NOBODY, "pending")["result"], 16) == 1
    assert kit.devnet.eth_balance(NOBODY) == 0
    kit.ask("evm_mine")
    assert kit.ask("eth_getTransactionReceipt", hashed)["result"]["status"] == "0x1"
    assert kit.devnet.eth_balance(NOBODY) == 1
    kit.ask("evm_setAutomine", True)


def test_money_can_be_given_while_others_wait(kit: Kit) -> None:
    kit.ask("evm_setAutomine", False)
    hashed = send(kit)["result"]
    kit.devnet.fund_usdc(NOBODY, 4)
    kit.devnet.fund_eth(NOBODY, 4)
    assert (kit.devnet.usdc_balance(NOBODY), kit.devnet.eth_balance(NOBODY)) == (4, 4)
    assert kit.ask("eth_getTransactionReceipt", hashed)["result"] is None
    kit.ask("evm_setAutomine", True)
    assert kit.ask("eth_getTransactionReceipt", hashed)["result"]["status"] == "0x1"


def test_a_waiting_transaction_is_replaced_by_a_better_one_only(kit: Kit) -> None:
    kit.ask("evm_setAutomine", False)
    first = send(kit, gasPrice=GWEI)["result"]
    cheap = send(kit, gasPrice=GWEI + GWEI // 20, nonce=0)["error"]["message"]
    assert cheap == "replacement transaction underpriced"
    better = send(kit, gasPrice=GWEI + GWEI // 10, nonce=0, value=2)["result"]
    kit.ask("evm_setAutomine", True)
    assert kit.ask("eth_getTransactionByHash", first)["result"] is None
    assert kit.ask("eth_getTransactionReceipt", better)["result"]["status"] == "0x1"


def test_one_block_holds_many_transactions(kit: Kit) -> None:
    kit.ask("evm_setAutomine", False)
    hashes = [send(kit, who)["result"] for who in kit.devnet.accounts[:4] for _ in range(2)]
    kit.devnet.mine()
    receipts = [kit.ask("eth_getTransactionReceipt", h)["result"] for h in hashes]
    assert len({r["blockHash"] for r in receipts}) == 1
    assert [int(r["transactionIndex"], 16) for r in receipts] == list(range(8))
    assert [int(r["gasUsed"], 16) for r in receipts] == [21_000] * 8
    assert int(receipts[-1]["cumulativeGasUsed"], 16) == 8 * 21_000
    number = receipts[0]["blockNumber"]
    assert kit.ask("eth_getBlockReceipts", number)["result"] == receipts
    kit.ask("evm_setAutomine", True)


def test_mining_adds_empty_blocks(kit: Kit) -> None:
    before = kit.web3.eth.block_number
    kit.devnet.mine(3)
    kit.ask("anvil_mine", "0x2")
    assert kit.web3.eth.block_number == before + 5
    latest = kit.ask("eth_getBlockByNumber", "latest", False)["result"]
    for tag in ("safe", "finalized", hex(before + 5)):
        assert kit.ask("eth_getBlockByNumber", tag, False)["result"] == latest
    assert kit.ask("eth_getBlockByNumber", "earliest", False)["result"]["number"] == "0x0"
    assert kit.ask("eth_getBlockByNumber", hex(before + 6), False)["result"] is None
    assert kit.ask("eth_getBlockByHash", "0x" + "00" * 32, False)["result"] is None


# -- Time -----------------------------------------------------------------------------------------


def timestamp(kit: Kit) -> int:
    return int(kit.web3.eth.get_block("latest")["timestamp"])


def test_blocks_follow_the_wall_clock(kit: Kit) -> None:
    kit.devnet.mine()
    assert abs(timestamp(kit) - time.time()) < 120


def test_every_block_is_later_than_the_one_before(kit: Kit) -> None:
    head = kit.web3.eth.block_number
    kit.devnet.mine(5)
    times = [kit.web3.eth.get_block(n)["timestamp"] for n in range(head, head + 6)]
    assert times == sorted(set(times))


def test_time_travels(kit: Kit) -> None:
    start = timestamp(kit)
    kit.devnet.travel(86_400)
    assert 86_400 <= timestamp(kit) - start <= 86_430
    kit.ask("evm_increaseTime", 100)
    kit.ask("evm_mine")
    assert 86_500 <= timestamp(kit) - start <= 86_560
    kit.ask("evm_setNextBlockTimestamp", start + 200_000)
    kit.ask("evm_mine")
    assert timestamp(kit) == start + 200_000
    kit.ask("evm_mine", hex(start + 300_000))
    assert timestamp(kit) == start + 300_000
    kit.devnet.mine()
    assert timestamp(kit) >= start + 300_001


def test_a_call_now_sees_the_time_now(kit: Kit) -> None:
    now = Web3.keccak(text="getCurrentBlockTimestamp()")[:4]
    head = timestamp(kit)
    kit.ask("evm_increaseTime", 5000)
    assert int.from_bytes(kit.view(now, MULTICALL3_ADDRESS)) >= head + 5000
    fields = {"to": "0x" + MULTICALL3_ADDRESS.hex(), "data": "0x" + now.hex()}
    kit.ask("evm_mine")
    earlier = kit.ask("eth_call", fields, hex(kit.web3.eth.block_number - 1))["result"]
    assert int(earlier, 16) == head


# -- The past taken back --------------------------------------------------------------------------


def test_a_snapshot_takes_back_blocks_balances_and_receipts(kit: Kit) -> None:
    snapshot = kit.ask("evm_snapshot")["result"]
    height = kit.web3.eth.block_number
    hashed = send(kit)["result"]
    lost = kit.web3.eth.get_block(height + 1)["hash"]
    assert kit.ask("evm_revert", snapshot)["result"] is True
    assert kit.web3.eth.block_number == height
    assert kit.devnet.eth_balance(NOBODY) == 0
    assert kit.ask("eth_getTransactionReceipt", hashed)["result"] is None
    assert kit.ask("eth_getBlockByHash", "0x" + bytes(lost).hex(), False)["result"] is None
    assert send(kit)["result"] == hashed
    assert kit.web3.eth.get_block(height + 1)["hash"] != lost


def test_a_snapshot_is_used_up_with_all_later_ones(kit: Kit) -> None:
    first = kit.ask("evm_snapshot")["result"]
    send(kit)
    second = kit.ask("evm_snapshot")["result"]
    assert kit.ask("evm_revert", first)["result"] is True
    assert kit.ask("evm_revert", second)["result"] is False
    assert kit.ask("evm_revert", first)["result"] is False
    assert kit.ask("evm_revert", "0x999")["result"] is False


def test_a_snapshot_holds_the_pool_and_the_clock(kit: Kit) -> None:
    kit.ask("evm_setAutomine", False)
    hashed = send(kit)["result"]
    start = timestamp(kit)
    snapshot = kit.ask("evm_snapshot")["result"]
    kit.devnet.travel(10_000)
    kit.ask("evm_revert", snapshot)
    assert kit.ask("eth_getTransactionByHash", hashed)["result"]["blockNumber"] is None
    kit.devnet.mine()
    assert timestamp(kit) < start + 10_000
    assert kit.ask("eth_getTransactionReceipt", hashed)["result"]["status"] == "0x1"
    kit.ask("evm_setAutomine", True)


# -- Fees and logs --------------------------------------------------------------------------------


def test_fees_are_small_and_the_history_fits(kit: Kit) -> None:
    send(kit)
    price = kit.web3.eth.gas_price
    assert kit.web3.eth.max_priority_fee < price < GWEI
    history = kit.ask("eth_feeHistory", "0x3", "latest", [25, 75])["result"]
    head = kit.web3.eth.block_number
    oldest = int(history["oldestBlock"], 16)
    blocks = [kit.web3.eth.get_block(n) for n in range(oldest, head + 1)]
    assert [int(fee, 16) for fee in history["baseFeePerGas"][:-1]] == [
        b["baseFeePerGas"] for b in blocks
    ]
    assert history["gasUsedRatio"] == [b["gasUsed"] / b["gasLimit"] for b in blocks]
    assert [len(reward) for reward in history["reward"]] == [2] * len(blocks)
    assert len(blocks) == min(3, head + 1)
    for _ in range(60):
        kit.devnet.mine()
    assert "result" in send(kit)


def logs(kit: Kit, **wanted: Any) -> list[Any]:
    return list(kit.ask("eth_getLogs", wanted)["result"])


def test_logs_are_found_by_address_topic_and_block(kit: Kit) -> None:
    config = kit.config()
    first = kit.deposit(config, 100).block
    second = kit.deposit(config, 200, salt=2).block
    transfer = "0x" + Web3.keccak(text="Transfer(address,address,uint256)").hex()
    deposited = "0x" + Web3.keccak(text="Deposited(bytes32,address,uint128,uint128)").hex()
    payer = "0x" + (bytes(12) + kit.payer.raw).hex()
    channel = "0x" + kit.channel_id(config).hex()
    settlement, usdc = "0x" + SETTLEMENT_ADDRESS.hex(), "0x" + USDC.hex()
    both = {"fromBlock": hex(first), "toBlock": hex(second)}

    def names(**wanted: Any) -> list[str]:
        known = {transfer: "transfer", deposited: "deposited"}
        return [known.get(log["topics"][0], "other") for log in logs(kit, **wanted)]

    one = ["other", "transfer", "transfer", "other", "deposited"]
    two = ["other", "transfer", "transfer", "deposited"]
    assert names(**both) == one + two
    assert names(fromBlock=hex(second)) == two
    assert names() == two
    assert names(fromBlock="earliest", toBlock=hex(first)) == one
    assert names(fromBlock=hex(first), toBlock="0xffffff") == one + two
    assert names(fromBlock="0xfffff0", toBlock="0xffffff") == []
    assert names(**both, address=settlement) == ["other", "deposited", "deposited"]
    assert names(**both, address=[settlement, usdc]) == one + two
    assert names(**both, address=[]) == one + two
    assert names(**both, topics=[transfer]) == ["transfer"] * 4
    assert names(**both, topics=[transfer, payer]) == ["transfer"] * 2
    assert names(**both, topics=[None, channel]) == ["other", "deposited", "deposited"]
    assert (
        names(**both, topics=[[transfer, deposited], [payer, channel]])
        == [
            "transfer",
            "deposited",
        ]
        * 2
    )
    assert names(**both, topics=[None, None, None, None]) == []
    assert names(**both, topics=[]) == one + two
    by_hash = "0x" + bytes(kit.web3.eth.get_block(first)["hash"]).hex()
    assert names(blockHash=by_hash) == one
    found = logs(kit, blockHash=by_hash)
    assert [int(log["logIndex"], 16) for log in found] == list(range(5))
    assert {log["blockNumber"] for log in found} == {hex(first)}
    assert {log["removed"] for log in found} == {False}


def test_logs_of_an_impossible_range_or_block_are_an_error(kit: Kit) -> None:
    backwards = kit.ask("eth_getLogs", {"fromBlock": "0x5", "toBlock": "0x4"})
    assert backwards["error"]["message"] == "invalid block range params"
    unknown = kit.ask("eth_getLogs", {"blockHash": "0x" + "00" * 32})
    assert unknown["error"]["message"] == "unknown block"


def test_log_indexes_count_through_a_block(kit: Kit) -> None:
    kit.ask("evm_setAutomine", False)
    config = kit.config()
    for salt in (1, 2):
        fields = {
            "to": Web3.to_checksum_address(SETTLEMENT_ADDRESS),
            "data": "0x" + kit.deposit_call(config, 5, salt).hex(),
            "gas": 400_000,
            "value": 0,
        }
        send(kit, **fields)
    kit.devnet.mine()
    found = logs(kit, fromBlock="latest")
    assert [int(log["logIndex"], 16) for log in found] == list(range(9))
    assert [int(log["transactionIndex"], 16) for log in found] == [0] * 5 + [1] * 4
    kit.ask("evm_setAutomine", True)


def test_settling_nothing_is_a_transaction_without_logs(kit: Kit) -> None:
    sent = kit.send(kit.stranger, encode_settle(kit.receiver.raw, USDC))
    assert kit.ask("eth_getTransactionReceipt", sent.hash)["result"]["logs"] == []
