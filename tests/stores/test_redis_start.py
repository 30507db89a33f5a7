"""Settings that cannot work are refused at start, in one sentence that shows no password."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.redis_server import RedisServer, free_port, running, shared_cluster
from helpers.redis_store import charge_next, open_channel, store_at

from paywall.protocol.errors import ConfigurationError, PaymentError, StoreUnavailable
from paywall.stores import open_store
from paywall.stores.redis_records import SCHEMA_VERSION
from paywall.stores.redis_url import RedisUrl, parse_redis_url

SECRET = "s3cret-w0rd"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running("--requirepass", SECRET) as server:
        yield server


def with_password(server: RedisServer, password: str = SECRET, rest: str = "") -> str:
    return f"redis://:{password}@127.0.0.1:{server.port}{rest}"


async def complaint(url: str, kind: type[PaymentError]) -> str:
    """How a store fails to open; a second try fails in the same way, so nothing was left behind."""
    store = open_store(url)
    for _ in range(2):
        with pytest.raises(kind) as error:
            await store.open()
    text = str(error.value)
    assert type(error.value) is kind
    assert SECRET not in text
    assert "\n" not in text
    return text


# -- Servers -------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    text = await complaint(f"redis://:{SECRET}@127.0.0.1:{free_port()}", StoreUnavailable)
    assert "cannot be reached" in text


async def test_a_name_that_does_not_exist() -> None:
    text = await complaint("redis://no-such-host.invalid", StoreUnavailable)
    assert "redis://no-such-host.invalid:6379 cannot be reached" in text


@pytest.mark.parametrize("url", ["redis://:wrong@", "redis://", f"redis://somebody:{SECRET}@"])
async def test_a_password_that_is_wrong_or_missing(server: RedisServer, url: str) -> None:
    text = await complaint(f"{url}127.0.0.1:{server.port}", ConfigurationError)
    assert "does not accept the user or password" in text


async def test_a_user_that_may_not_run_scripts(server: RedisServer) -> None:
    with server.client(SECRET) as admin:
        admin.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@read", "+@connection")
    text = await complaint(f"redis://weak:pw@127.0.0.1:{server.port}", ConfigurationError)
    assert "permission" in text.lower()


async def test_a_database_that_does_not_exist(server: RedisServer) -> None:
    text = await complaint(with_password(server, rest="/99"), ConfigurationError)
    assert "index is out of range" in text


async def test_case_41_a_server_that_evicts_is_refused() -> None:
    with running("--maxmemory-policy", "allkeys-lru") as evicting:
        text = await complaint(evicting.url, ConfigurationError)
    assert "noeviction, it is allkeys-lru" in text


async def test_a_user_that_may_not_see_the_settings_is_warned(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client(SECRET) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "app", "on", ">pw", "~paywall:*", "+@all", "-config"
        )
    async with store_at(f"redis://app:pw@127.0.0.1:{server.port}") as store:
        assert "eviction and persistence unchecked" in caplog.text
        assert (await charge_next(store, await open_channel(store), 5)).charged == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--appendonly", "no"), "nothing is kept on disk"),
        (("--appendonly", "no", "--save", "60 1"), "only snapshots are kept"),
        (("--appendfsync", "everysec"), "one or two seconds"),
        (("--appendfsync", "no"), "half a minute"),
    ],
)
async def test_a_server_that_may_forget_is_warned_of(
    options: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(*options) as server:
        async with store_at(server.url):
            assert said in caplog.text
            assert "next payment restores it" in caplog.text


async def test_nothing_is_logged_of_a_server_that_keeps_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(fsync="always") as careful, caplog.at_level(logging.INFO, "paywall"):
        async with store_at(careful.url):
            assert caplog.text == ""


async def test_a_replica_is_refused(server: RedisServer) -> None:
    with running("--replicaof", "127.0.0.1", "1") as replica:
        assert "read-only replica" in await complaint(replica.url, ConfigurationError)


async def test_a_cluster_and_a_single_server_are_not_mistaken_for_each_other(
    server: RedisServer,
) -> None:
    node = shared_cluster().servers[0]
    assert "write redis+cluster://" in await complaint(node.url, ConfigurationError)
    url = with_password(server).replace("redis", "redis+cluster", 1)
    assert "write redis://" in await complaint(url, ConfigurationError)


async def test_sentinels_that_know_no_such_master() -> None:
    port = free_port()
    text = await complaint(f"redis+sentinel://127.0.0.1:{port}/mymaster", StoreUnavailable)
    assert "cannot be reached" in text


async def test_something_that_is_not_redis_at_all(tmp_path: Path) -> None:
    with running() as server:
        text = await complaint(f"rediss://127.0.0.1:{server.port}?timeout=2", StoreUnavailable)
    assert f"rediss://127.0.0.1:{server.port} cannot be reached" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("LPUSH", "paywall:schema", "x"), "somebody else's"),
        (("SET", "paywall:schema", "hello"), "somebody else's"),
        (("SET", "paywall:schema", "3"), "newer paywall"),
    ],
)
async def test_case_43_keys_that_are_not_ours_or_too_new(
    server: RedisServer, words: tuple[str, ...], said: str
) -> None:
    with server.client(SECRET) as admin:
        admin.flushall()
        admin.execute_command(*words)
        assert said in await complaint(with_password(server), ConfigurationError)
        async with store_at(with_password(server, rest="?prefix=other")):
            pass
        admin.flushall()


async def test_case_43_a_paywall_of_before_does_not_start_on_what_this_one_writes(
    server: RedisServer,
) -> None:
    with server.client(SECRET) as admin:
        admin.flushall()
        admin.set("paywall:schema", "1")
        async with store_at(with_password(server)):
            assert admin.get("paywall:schema") == str(SCHEMA_VERSION)
        admin.flushall()


async def test_a_server_that_is_still_loading_is_waited_for() -> None:
    with running("--key-load-delay", "20", fsync="no") as server:
        with server.client() as admin, admin.pipeline(transaction=False) as pipeline:
            for number in range(20_000):
                pipeline.set(f"key{number}", 1)
            pipeline.execute()
        server.kill()
        server.start()
        async with store_at(server.url) as store:
            assert await store.channels() == []
        with server.client() as admin:
            turned_away = admin.info("errorstats")["errorstat_LOADING"]["count"]
        assert turned_away > 1, "once is the fixture's own"


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One that is its own authority, for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls_is_spoken_and_checked(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    port = free_port()
    files = ("--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file")
    with running("--tls-port", str(port), *files, str(cert), "--tls-auth-clients", "no"):
        url = f"rediss://127.0.0.1:{port}"
        async with store_at(f"{url}?ca={cert}") as store:
            channel_id = await open_channel(store)
            assert (await charge_next(store, channel_id, 5)).charged == 1
        text = await complaint(url, StoreUnavailable)
        assert "certificate" in text.lower()


# -- URLs ----------------------------------------------------------------------------------------


def test_a_url_says_where_as_whom_and_how_patiently() -> None:
    url = parse_redis_url(
        "rediss+sentinel://me:p%40ss@a:1,[::1],b/svc/2?timeout=3&replicas=1&sentinel_password=x"
    )
    assert url == RedisUrl(
        "rediss+sentinel",
        (("a", 1), ("::1", 26379), ("b", 26379)),
        username="me",
        password="p@ss",
        service="svc",
        database=2,
        timeout_seconds=3,
        replicas=1,
        sentinel_password="x",
    )
    assert url.show() == "rediss+sentinel://a:1,[::1]:26379,b:26379"
    assert "p@ss" not in repr(url)


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "redis://:x@", "redis://a:0", "redis://a:99999", "redis://a b", "redis://a,"),
        *("redis://a,b", "redis://a/x", "redis://a/-1", "redis://a/0/1", "redis://a#b"),
        *("redis://a?timeout=0", "redis://a?timeout=nan", "redis://a?timeout=", "redis://a?x"),
        *("redis://a?db=1", "redis://a?ca=f", "redis://a?prefix=", "redis://a?prefix={a}"),
        *("redis://a?replicas=-1", "redis://a?wait_ms=0", "redis://a?sentinel_user=u"),
        *("redis+unix://", "redis+unix:///", "unix://host/path", "redis+unix:///s?database=x"),
        *("redis+sentinel://a", "redis+sentinel://a/", "redis+cluster://a/1", "redis://[::1"),
    ],
)
def test_a_url_that_cannot_work_is_refused_without_showing_it(url: str) -> None:
    secret = url.replace("://", f"://user:{SECRET}@", 1)
    for one in (url, secret):
        with pytest.raises(ConfigurationError) as error:
            open_store(one)
        assert SECRET not in str(error.value)
