"""`paywall proxy` in a process of its own, in front of a service that knows nothing of payments."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from helpers.chain import NETWORK, new_address
from paywall.chain.devnet import Devnet
from paywall.protocol.x402 import show_address

ROOT: Final = Path(__file__).parent.parent.parent
NODE_SERVICE: Final = """
const { createServer } = require('http');
const server = createServer((request, answer) => {
  answer.setHeader('content-type', 'application/json');
  answer.end(JSON.stringify({ path: request.url, payer: request.headers['paywall-payer'] }));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""
PYTHON_SERVICE: Final = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        said = {'path': self.path, 'payer': self.headers['paywall-payer']}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def plain_service() -> Iterator[str]:
    """Node's own http server, or Python's where there is no Node."""
    node = shutil.which("node")
    command = [node, "-e", NODE_SERVICE] if node else [sys.executable, "-c", PYTHON_SERVICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@dataclass
class ProxyProcess:
    """It listens at `url`, earns for `receiver`, and logs to `logged`."""

    url: str
    receiver: str
    store: str
    process: "subprocess.Popen[str]"
    logged: Path

    def reload(self, expected: str) -> None:
        """Sends SIGHUP, and waits until the log has something to say of it."""
        self.process.send_signal(signal.SIGHUP)
        self._await(expected)

    def rss_kib(self) -> int:
        """The memory that it holds now."""
        told = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(told.stdout)

    def _await(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self.logged.read_text():
            assert self.process.poll() is None, self.logged.read_text()
            assert time.monotonic() < deadline, self.logged.read_text()
            time.sleep(0.02)


@contextmanager
def proxy_process(devnet: Devnet, folder: Path, options: Sequence[str]) -> Iterator[ProxyProcess]:
    receiver, store = show_address(new_address()), f"sqlite:///{folder}/proxy.db"
    logged = folder / "proxy.log"
    places = ["--rpc", devnet.url, "--network", NETWORK, "--store", store, "--pay-to", receiver]
    variables = {
        "PAYWALL_KEY": devnet.accounts[0].key,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    with (
        logged.open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "paywall.cli", "proxy", *places, "--port", "0", *options],
            env=os.environ | variables,
            stderr=log,
            stdout=log,
            text=True,
        ) as process,
    ):
        try:
            running = ProxyProcess("", receiver, store, process, logged)
            running._await("listening at http://127.0.0.1:")
            running.url = logged.read_text().split("listening at ")[1].split()[0]
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
