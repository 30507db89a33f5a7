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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

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


class RedisServer:
    """One redis-server on loopback."""

    def __init__(self, *options: str, fsync: str = "always") -> None:
        self.folder = Path(mkdtemp(prefix="paywall-redis-"))
        self.port = free_port()
        self.options = ["--appendonly", "yes", "--appendfsync", fsync, *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> "RedisServer":
        fixed = ["--port", str(self.port), "--dir", str(self.folder), "--bind", "127.0.0.1"]
        fixed += ["--save", "", "--logfile", str(self.folder / "log")]
        self._process = subprocess.Popen(["redis-server", *fixed, *self.options])
        self.wait_until_it_answers()
        return self

    def wait_until_it_answers(self) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except (redis.AuthenticationError, redis.BusyLoadingError):
                    return
                except (redis.ConnectionError, redis.TimeoutError):
                    assert time.monotonic() < give_up_at, "redis-server did not start"
                    time.sleep(0.02)

    def client(self, password: str | None = None) -> redis.Redis:
        """To look into the server, and to break it."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, password=password, decode_responses=True, retry=once)

    def command(self, *words: object) -> object:
        with self.client() as client:
            return client.execute_command(*words)

    def kill(self) -> None:
        """As a power cut would, but for the operating system's own buffers."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
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
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not all(self._is_well(server) for server in self.servers if server._process):
            assert time.monotonic() < give_up_at, "the cluster did not form"
            time.sleep(0.05)

    def _is_well(self, server: RedisServer) -> bool:
        with server.client() as client:
            state = client.execute_command("CLUSTER INFO")
            role = client.info("replication")
        state_ok = "cluster_state:ok" in str(state) or state.get("cluster_state") == "ok"
        return state_ok and (role["role"] == "master" or role["master_link_status"] == "up")

    def master_of(self, slot: int) -> RedisServer:
        """The server that has a slot now."""
        for server in self.servers:
            if server._process is None:
                continue
            with server.client() as client:
                for first, last, (_, port, *_), *_ in client.execute_command("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return next(one for one in self.servers if one.port == port)
        raise AssertionError("nobody has this slot")

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
def running(*options: str, fsync: str = "always") -> Iterator[RedisServer]:
    """A server to break."""
    server = RedisServer(*options, fsync=fsync)
    try:
        yield server.start()
    finally:
        server.stop()
