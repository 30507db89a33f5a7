"""Real Redis servers for tests: one, or a cluster, each with a folder of its own, and faults.

Servers that a whole run shares are started when first asked for and stopped when it ends; a test
that breaks its server has one of its own.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE_SECONDS = 20.0


def free_port() -> int:
    """A port of which the cluster's second one, 10000 above, is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if port >= 55_000:
                continue
            try:
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def until(condition: Callable[[], object]) -> None:
    """Waits, in a thread of its own where an event loop runs, for what is about to happen."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(0.02)


def _answers(client: redis.Redis) -> bool:
    try:
        client.ping()
    except (redis.AuthenticationError, redis.BusyLoadingError):
        return True
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    return True


class RedisServer:
    """One redis-server on loopback."""

    def __init__(self, *options: str, fsync: str = "always", sentinel: str = "") -> None:
        """With `sentinel`, the settings of one that watches other servers."""
        self.folder = Path(mkdtemp(prefix="paywall-redis-"))
        self.port = free_port()
        self.options = ["--save", "", "--appendonly", "yes", "--appendfsync", fsync, *options]
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> "RedisServer":
        fixed = ["--port", str(self.port), "--dir", str(self.folder), "--bind", "127.0.0.1"]
        fixed += ["--logfile", str(self.folder / "log"), "--repl-diskless-sync-delay", "0"]
        if self._sentinel:
            settings = self.folder / "sentinel.conf"
            settings.write_text(self._sentinel)
            fixed, options = [str(settings), "--sentinel", *fixed], []
        else:
            options = self.options
        self._process = subprocess.Popen(["redis-server", *fixed, *options])
        self.wait_until_it_answers()
        return self

    def wait_until_it_answers(self) -> None:
        with self.client() as client:
            until(lambda: _answers(client))

    def client(self, password: str | None = None) -> redis.Redis:
        """To look into the server, and to break it."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, password=password, decode_responses=True, retry=once)

    def command(self, *words: object) -> Any:
        with self.client() as client:
            return client.execute_command(*words)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            return client.info(section)

    @property
    def is_in_step(self) -> bool:
        """A replica that has all its master had when it came."""
        return self.info("replication").get("master_link_status", "up") == "up"

    @property
    def is_copied(self) -> bool:
        """A master whose one replica has all that it has."""
        told = self.info("replication")
        return bool(told["slave0"]["offset"] == told["master_repl_offset"])

    def has_slot(self, slot: int) -> bool:
        """Whether it is the master of this slot of its cluster, as it sees it."""
        ranges = self.command("CLUSTER", "SLOTS")
        return any(
            first <= slot <= last and master[1] == self.port for first, last, master, *_ in ranges
        )

    def kill(self) -> None:
        """As a power cut would, but for the operating system's own buffers."""
        self._end(signal.SIGKILL)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It hears nothing and says nothing, and its connections stay."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE_SECONDS)


class RedisCluster:
    """Three masters, each with a replica that takes its place."""

    def __init__(self, *options: str) -> None:
        cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        self.servers = [RedisServer(*cluster, *options) for _ in range(6)]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> "RedisCluster":
        for server in self.servers:
            server.start()
        places = [f"127.0.0.1:{server.port}" for server in self.servers]
        create = ["redis-cli", "--cluster", "create", *places]
        subprocess.run(
            [*create, "--cluster-replicas", "1", "--cluster-yes"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.wait_until_whole()
        return self

    def wait_until_whole(self) -> None:
        """Every node agrees that all slots are served, and every replica has its data."""
        until(lambda: all(self._is_well(server) for server in self._running()))

    def _is_well(self, server: RedisServer) -> bool:
        return server.is_in_step and "cluster_state:ok" in server.command("CLUSTER", "INFO")

    def masters(self) -> list[RedisServer]:
        return [one for one in self._running() if one.info("replication")["role"] == "master"]

    def master_of(self, slot: int) -> RedisServer | None:
        """The server that has a slot now; None while there is none."""
        return next((one for one in self.masters() if one.has_slot(slot)), None)

    def mend(self) -> None:
        """Whole and empty, as if nothing had happened."""
        for server in self.servers:
            if not server.is_running:
                server.start()
        self.wait_until_whole()
        for master in self.masters():
            master.command("FLUSHALL")

    def _running(self) -> list[RedisServer]:
        return [server for server in self.servers if server.is_running]

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


@cache
def shared_server() -> RedisServer:
    """For tests that leave it as it is; their stores differ by prefix."""
    server = RedisServer(fsync="no").start()
    atexit.register(server.stop)
    return server


@cache
def shared_cluster() -> RedisCluster:
    cluster = RedisCluster("--appendfsync", "no").start()
    atexit.register(cluster.stop)
    return cluster


@contextmanager
def running(*options: str, fsync: str = "always", sentinel: str = "") -> Iterator[RedisServer]:
    """A server to break."""
    server = RedisServer(*options, fsync=fsync, sentinel=sentinel)
    try:
        yield server.start()
    finally:
        server.stop()
