"""Several worker processes that share a port and a store; they can be killed and replaced."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from helpers.file_chain import FileChain
from helpers.worker import Settings
from helpers.worker_app import Event, read_journals

_TESTS = Path(__file__).parent.parent


class Fleet:
    """A provider of `workers` processes. `bounds` are those of a worker's settings."""

    def __init__(self, folder: Path, store: str, workers: int, **bounds: Any) -> None:
        self.folder = folder
        self.store = store
        self.chain = FileChain(folder / "chain.db")
        # Never listens: it keeps the port for workers to come.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))
        port = self._place.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._settings = Settings(str(folder), store, port, **bounds)
        self._count = workers
        self._workers: dict[int, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        try:
            starting = [self._start() for _ in range(self._count)]
            for worker in starting:
                self._await(worker)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return list(self._workers)

    def add(self) -> int:
        """One more worker, and its pid, when it listens."""
        worker = self._start()
        self._await(worker)
        return worker.pid

    def kill(self, pid: int) -> None:
        """`kill -9`: whatever it was doing, it does not finish."""
        self._end(pid, signal.SIGKILL)

    def stop(self, pid: int) -> None:
        """It stands still, as on a machine that is suspended, until it may `go_on`."""
        self._workers[pid].send_signal(signal.SIGSTOP)

    def go_on(self, pid: int) -> None:
        self._workers[pid].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for pid in self.pids:
            self._end(pid, signal.SIGKILL)
        self._place.close()

    def events(self) -> list[Event]:
        return read_journals(self.folder)

    def runs(self, payment: str) -> list[Event]:
        """How often a payment's handler began, and where."""
        return [one for one in self.events() if (one.kind, one.payment) == ("run", payment)]

    def _start(self) -> subprocess.Popen[str]:
        told = msgspec.json.encode(self._settings).decode()
        path = os.pathsep.join((str(_TESTS), str(_TESTS.parent)))
        worker = subprocess.Popen(
            [sys.executable, "-m", "helpers.worker", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        self._workers[worker.pid] = worker
        return worker

    def _await(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "listening\n", "a worker did not start"

    def _end(self, pid: int, number: int) -> None:
        worker = self._workers.pop(pid)
        worker.send_signal(number)
        worker.communicate()  # waits, and closes the pipes
