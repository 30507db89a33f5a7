"""A chain to try things out on: an embedded EVM behind JSON-RPC on loopback.

No node, no faucet, no network. web3, viem, cast and the official x402 SDKs talk to it as to any
other node. The settlement contract, its collector, a USDC and Multicall3 stand at their real
addresses, and ten accounts with well-known keys have money. A transaction is a block at once, the
clock can be moved, and the past can be taken back.

    with Devnet() as devnet:
        Web3(Web3.HTTPProvider(devnet.url)).eth.get_balance(devnet.accounts[0].address)

Never put it anywhere that others can reach: its keys are known to the whole world.
"""

import errno
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from types import TracebackType
from typing import Final, Self

from eth_account import Account
from eth_utils.address import to_checksum_address

from paywall.chain.contract import decode_balance_of, encode_balance_of, encode_mint
from paywall.chain.devnet_chain import TIP_WEI, EmbeddedChain
from paywall.chain.devnet_genesis import USDC_ADDRESS, DevAccount, dev_accounts
from paywall.chain.devnet_rpc import Rpc
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.money import parse_address

HOST: Final = "127.0.0.1"
DEFAULT_CHAIN_ID: Final = 84532
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
CLOSE_SECONDS: Final = 5
_MINT_GAS: Final = 200_000


class Devnet:
    """A running devnet; `close` or the end of the `with` stops it."""

    def __init__(self, port: int = 0, chain_id: int = DEFAULT_CHAIN_ID) -> None:
        *accounts, self._minter = dev_accounts()
        self.accounts: Final[tuple[DevAccount, ...]] = tuple(accounts)
        self.chain_id: Final = chain_id
        self.usdc: Final = to_checksum_address(USDC_ADDRESS)
        # The port first: whether it is free is known at once, and the chain takes a moment.
        self._server = _listen(port)
        self._chain = EmbeddedChain(chain_id)
        self._rpc = self._server.rpc = Rpc(self._chain, tuple(a.address for a in accounts))
        self._thread = Thread(target=self._server.serve_forever, name="devnet", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def travel(self, seconds: int) -> None:
        """Moves the chain's clock forward, and mines a block that shows it."""
        with self._rpc.lock:
            self._chain.travel(seconds)
            self._chain.mine()

    def mine(self, blocks: int = 1) -> None:
        with self._rpc.lock:
            for _ in range(blocks):
                self._chain.mine()

    def eth_balance(self, address: str) -> int:
        """In wei."""
        return int(self._ask("eth_getBalance", address, "latest"), 16)

    def usdc_balance(self, address: str) -> int:
        """In atomic units: a millionth of a dollar."""
        question = "0x" + encode_balance_of(parse_address(address)).hex()
        answer = self._ask("eth_call", {"to": self.usdc, "data": question}, "latest")
        return decode_balance_of(bytes.fromhex(answer[2:]))

    def fund_eth(self, address: str, wei: int) -> None:
        """Adds to an account, out of thin air, in a block of its own."""
        with self._rpc.lock:
            self._ask("anvil_setBalance", address, self.eth_balance(address) + wei)

    def fund_usdc(self, address: str, atomic_amount: int) -> None:
        """Mints to an account, by a transaction in a block of its own."""
        to = parse_address(address)
        with self._rpc.lock:
            nonce = int(self._ask("eth_getTransactionCount", self._minter.address), 16)
            signed = Account.sign_transaction(
                {
                    "chainId": self.chain_id,
                    "nonce": nonce,
                    "to": self.usdc,
                    "data": "0x" + encode_mint(to, atomic_amount).hex(),
                    "value": 0,
                    "gas": _MINT_GAS,
                    "maxPriorityFeePerGas": TIP_WEI,
                    "maxFeePerGas": 2 * self._chain.next_base_fee_wei() + TIP_WEI,
                },
                self._minter.key,
            )
            self._chain.mine_only(bytes(signed.raw_transaction))

    def _ask(self, method: str, *params: object) -> str:
        answer = self._rpc.call(method, list(params))
        return str(answer)

    def close(self) -> None:
        """Stops serving and closes every connection. Safe to repeat."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(CLOSE_SECONDS)
            self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection: POST and nothing else."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            missing = HTTPStatus.LENGTH_REQUIRED
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE if length else missing)
            return
        answer = self.server.rpc.handle(self.rfile.read(int(length))) or b""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: a request a line would bury the tests that use it."""


class _Server(ThreadingHTTPServer):
    """A thread per connection. Connections are kept alive, so closing has to hang up on them."""

    daemon_threads = True
    request_queue_size = 128
    rpc: Rpc

    def __init__(self, port: int) -> None:
        self._connections: set[socket.socket] = set()
        self._idle = Condition()
        super().__init__((HOST, port), _Handler)

    def process_request_thread(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with self._idle:
            self._connections.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._idle:
                self._connections.discard(request)
                self._idle.notify_all()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error of ours; anything else was answered as one."""

    def server_close(self) -> None:
        super().server_close()
        with self._idle:
            for connection in self._connections:
                _hang_up(connection)
            self._idle.wait_for(lambda: not self._connections, CLOSE_SECONDS)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EBADF):
            raise


def _listen(port: int) -> _Server:
    try:
        return _Server(port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigurationError(f"port {port} on {HOST} is taken") from error
