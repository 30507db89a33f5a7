"""A Node process that plays the official TypeScript packages: JSON lines in, JSON lines out.

The packages are those of tests/interop/node/package.json, which `make interop` installs. Answers
are matched to questions by their number, so many may be open, from any thread or event loop.
"""

import asyncio
import itertools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent.parent / "interop" / "node"
ANSWER_SECONDS: Final = 60
MISSING: Final = "the tests with Node need Node 20 and npm packages: run `make interop`"


class PeerError(Exception):
    """What the TypeScript side threw; the whole text of it."""


class Peer:
    """One such process. Questions block (`ask`) or are awaited (`wait`)."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._open: dict[int, Future[Any]] = {0: Future()}
        self._hello = self._open[0]
        threading.Thread(target=self._read, name="node peer", daemon=True).start()

    def started(self) -> str:
        """Waits until the packages are loaded; the version of Node."""
        return str(self._hello.result(ANSWER_SECONDS))

    def ask(self, verb: str, **words: Any) -> Any:
        return self._send(verb, words).result(ANSWER_SECONDS)

    async def wait(self, verb: str, **words: Any) -> Any:
        return await asyncio.wait_for(asyncio.wrap_future(self._send(verb, words)), ANSWER_SECONDS)

    def _send(self, verb: str, words: dict[str, Any]) -> "Future[Any]":
        number = next(self._numbers)
        answer: Future[Any] = Future()
        self._open[number] = answer
        assert self._process.stdin is not None
        line = {"id": number, "verb": verb} | words
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            answer = self._open.pop(message["id"])
            if "error" in message:
                answer.set_exception(PeerError(message["error"]))
            else:
                answer.set_result(message["value"])
        for answer in self._open.values():
            answer.set_exception(PeerError("the Node process has ended"))


@contextmanager
def node_peer() -> Iterator[Peer]:
    """Starts the process, and ends it by closing its input."""
    node = shutil.which("node")
    assert node is not None, MISSING
    assert (FOLDER / "node_modules" / ".package-lock.json").exists(), MISSING
    process = subprocess.Popen(
        [node, str(FOLDER / "peer" / "main.mjs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        peer = Peer(process)
        peer.started()
        yield peer
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(ANSWER_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
