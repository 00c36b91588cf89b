"""Connections to real Postgres servers: round trips, logins, loops and processes, and when they end."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from labkit import Lab, RangeRouter, ShardReader, Status
from labkit._types import INT64_MAX
from labkit.reader import ReadResult
from labkit.shards.base import Ask
from labkit.shards.postgres import PostgresShard
from tests.support.watching import admin, comes_true, sockets

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTER = RangeRouter({1: [(1, 60)]})
USERS = {"scram": "pässwörd: 100%", "md5": "plain", "clear": "in the clear", "trusted": ""}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def one() -> AsyncIterator[Lab]:
    """A lab with one server and one user per login method."""
    async with Lab("postgres", router=ROUTER, launcher="embedded") as lab:
        connection = await admin(lab, 1)
        for user, password in USERS.items():
            await connection.execute(f"SET password_encryption = '{'md5' if user == 'md5' else 'scram-sha-256'}'")
            await connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'")
            await connection.execute(f"GRANT SELECT ON data_1 TO {user}")
        hba = Path(await connection.fetchval("SHOW hba_file"))
        methods = {"scram": "scram-sha-256", "md5": "md5", "clear": "password", "trusted": "trust"}
        lines = [f"local all {user} {method}\n" for user, method in methods.items()]
        await asyncio.to_thread(lambda: hba.write_text("".join(lines) + hba.read_text()))
        await connection.execute("SELECT pg_reload_conf()")
        connection.terminate()
        yield lab


def url_of(lab: Lab, user: str = "labkit", password: str = "", port: int | None = None, options: str = "") -> str:
    where = sa.engine.make_url(lab.urls[1]).set(
        drivername="postgresql", username=user, password=password or None, query={}
    )
    where = where if port is None else where.set(port=port)
    return where.render_as_string(hide_password=False) + f"?sslmode=disable{options}"


@asynccontextmanager
async def reading(
    url: str, *, seconds: float = 5.0, **options: Any
) -> AsyncIterator[Callable[..., Awaitable[ReadResult]]]:
    """The `read` of a new reader of that server."""
    async with ShardReader(ROUTER, {1: PostgresShard(url, "data_1", **options)}, timeout=seconds) as reader:
        yield reader.read


Relay = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def relaying(lab: Lab, told: Callable[[str, int], None]) -> AsyncIterator[int]:
    """A port in front of the server: calls `told("asked" | "answered", size)` for all data that passes."""
    where = sa.engine.make_url(lab.urls[1])

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection(where.host, where.port)
        await asyncio.gather(pump(reader, questions, "asked"), pump(answers, writer, "answered"))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                told(direction, len(data))
                sink.write(data)
        sink.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Trips:
    """Counts round trips: how often data was sent first or after an answer."""

    def __init__(self) -> None:
        self.count, self._last = 0, ""

    def __call__(self, direction: str, _size: int) -> None:
        self.count += direction == "asked" != self._last
        self._last = direction

    def taken(self) -> int:
        count, self.count, self._last = self.count, 0, ""
        return count


@pytest.mark.parametrize(
    ("user", "bulk", "cold", "second", "warm"),
    [
        ("labkit", False, 4, 2, 1),
        ("trusted", False, 3, 2, 1),
        ("trusted", True, 5, 2, 2),
        ("clear", False, 4, 2, 1),
        ("md5", False, 4, 2, 1),
        ("scram", False, 4, 2, 1),
        ("scram", True, 6, 2, 2),
    ],
)
async def test_round_trips_of_a_read(one: Lab, user: str, bulk: bool, cold: int, second: int, warm: int) -> None:
    """A cold read takes one round trip each to start a session, send a password, prepare and fetch; a warm one only the
    last. SCRAM takes two, but the second also carries the prepare. The first read also learns the columns, so that the
    second prepares another statement. COPY asks for the columns afterwards, and the first time before.
    """
    trips = Trips()
    async with (
        relaying(one, trips) as port,
        reading(url_of(one, user, USERS.get(user, ""), port), bulk=bulk) as read,
    ):
        assert (await read()).complete
        assert trips.taken() == cold
        assert (await read()).complete
        assert trips.taken() == second
        for _ in range(3):
            assert (await read()).complete
            assert trips.taken() == warm


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("bulk", [True, False])
async def test_every_way_to_log_in(one: Lab, user: str, bulk: bool) -> None:
    """Reads log in with SCRAM (even with a non-ASCII password), MD5, a clear-text password and none."""
    url = sa.engine.make_url(url_of(one, user)).set(password=USERS[user]).render_as_string(hide_password=False)
    async with reading(url, bulk=bulk) as read:
        assert (await read()).raise_for_missing().table.num_rows == 60


@pytest.mark.parametrize("user", ["scram", "md5", "clear"])
async def test_a_wrong_password_is_rejected_by_the_server(one: Lab, user: str) -> None:
    """A wrong password is REJECTED with the server's message."""
    async with reading(url_of(one, user, "wrong")) as read:
        report = (await read()).reports[1]
    assert (report.status, report.error) == (Status.REJECTED, f'password authentication failed for user "{user}"')


@pytest.mark.parametrize("user", ["scram", "clear"])
@pytest.mark.parametrize(
    ("change", "database", "error"),
    [
        ("CONNECTION LIMIT 0", "postgres", 'too many connections for role "{user}"'),
        ("CONNECTION LIMIT -1", "nowhere", 'database "nowhere" does not exist'),
        ("NOLOGIN", "postgres", 'role "{user}" is not permitted to log in'),
    ],
)
async def test_who_is_not_let_in_hears_why(one: Lab, user: str, change: str, database: str, error: str) -> None:
    """A refused login gives the server's reason, even if the first query was sent with the password's proof."""
    connection = await admin(one, 1)
    await connection.execute(f"ALTER ROLE {user} {change}")
    try:
        url = sa.engine.make_url(url_of(one, user, USERS[user])).set(database=database)
        async with reading(url.render_as_string(hide_password=False)) as read:
            report = (await read()).reports[1]
        assert (report.status, report.error) == (Status.REJECTED, error.format(user=user))
    finally:
        await connection.execute(f"ALTER ROLE {user} LOGIN CONNECTION LIMIT -1")
        connection.terminate()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of db.example, with its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    assert openssl, "no openssl on PATH: it makes the certificate of this test"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    name = ["-subj", "/CN=db.example", "-addext", "subjectAltName=DNS:db.example"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *name]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem"


@asynccontextmanager
async def encrypting(lab: Lab, certificate: Path, names: list[str | None]) -> AsyncIterator[int]:
    """A port in front of the server that speaks TLS; the server names that clients request are added to `names`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    where = sa.engine.make_url(lab.urls[1])

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            assert await reader.readexactly(8) == (8).to_bytes(4) + (80877103).to_bytes(4)
            writer.write(b"S")
            await writer.start_tls(context)
            answers, questions = await asyncio.open_connection(where.host, where.port)
            await asyncio.gather(pump(reader, questions), pump(answers, writer))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)
        sink.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_tls_keeps_the_hosts_name(
    one: Lab, certificate: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS requests and checks the URL's host name, though labkit resolves it itself; SCRAM works inside TLS."""

    async def found(_host: str, port: int) -> list[object]:
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("labkit._resolve.resolve", found)
    monkeypatch.setenv("PGSSLROOTCERT", str(certificate))
    names: list[str | None] = []
    async with encrypting(one, certificate, names) as port:
        for host, right in (("db.example", True), ("other.example", mode != "verify-full")):
            url = sa.engine.make_url(url_of(one, "scram", USERS["scram"], port)).set(host=host, query={"sslmode": mode})
            before = sockets()
            async with reading(url.render_as_string(hide_password=False)) as read:
                report = (await read()).reports[1]
            assert (report.status is Status.OK) is right, report
            assert right or "certificate verify failed" in (report.error or "")
            assert names[-1] == host
            assert await comes_true(lambda before=before: sockets() <= before)


async def past_the_proxy(lab: Lab, user: str = "labkit") -> str:
    """The URL of the server's unix socket with the lab's password, whether or not it is this user's."""
    connection = await admin(lab, 1)
    folder = (await connection.fetchval("SHOW unix_socket_directories")).split(",")[0].strip('"')
    port = await connection.fetchval("SHOW port")
    connection.terminate()
    password = sa.engine.make_url(lab.urls[1]).password
    return f"postgresql://{user}:{password}@/postgres?host={folder}&port={port}"


async def test_a_unix_socket_and_several_hosts(one: Lab) -> None:
    """A shard's URL may name a unix socket or several hosts; the first host that accepts a connection is read."""
    where = sa.engine.make_url(one.urls[1])
    port = where.port
    several = f"postgresql://labkit:{where.password}@/postgres?host=127.0.0.1:1&host=127.0.0.1:{port}&sslmode=disable"
    for url in (await past_the_proxy(one), several):
        async with reading(url) as read:
            assert (await read()).raise_for_missing().table.num_rows == 60


async def server_side(lab: Lab) -> int:
    connection = await admin(lab, 1)
    number: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'labkit' AND pid <> pg_backend_pid()"
    )
    connection.terminate()
    return number


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.01, 0.03])
async def test_aclose_while_connections_are_made_leaves_none(one: Lab, delay: float) -> None:
    """aclose() at any moment leaves no connection here or on the server, and pending reads return at once."""
    before = sockets()
    shards = {1: PostgresShard(url_of(one, "scram", USERS["scram"]), "data_1", pool_size=20)}
    reader = ShardReader(ROUTER, shards, timeout=5.0)
    reads = [asyncio.create_task(reader.read()) for _ in range(20)]
    await asyncio.sleep(delay)
    await reader.aclose()
    async with asyncio.timeout(1.0):
        await asyncio.wait(reads)
    assert await comes_true(lambda: sockets() <= before)
    for _ in range(100):
        if not await server_side(one):
            break
        await asyncio.sleep(0.02)
    assert await server_side(one) == 0


def right(result: ReadResult, low: int, high: int) -> bool:
    return result.complete and result.table.column(0).to_pylist() == list(range(low, high + 1))


@pytest.mark.parametrize("bulk", [True, False])
async def test_event_loops_and_threads_have_connections_of_their_own(one: Lab, bulk: bool) -> None:
    """One reader on many loops, in threads and in turn, gets only right answers, and the end of a loop closes the
    connections it opened.
    """
    before = sockets()
    reader = ShardReader(ROUTER, {1: PostgresShard(url_of(one), "data_1", bulk=bulk)}, timeout=5.0)

    async def several(low: int) -> bool:
        results = await asyncio.gather(*(reader.read(low, low + 9) for _ in range(5)))
        return all(right(result, low, low + 9) for result in results)

    def on_a_loop(low: int) -> bool:
        return asyncio.run(several(low))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(on_a_loop, [1 + 10 * (n % 5) for n in range(60)]))
    assert await several(1)
    await reader.aclose()
    assert await comes_true(lambda: sockets() <= before)


@pytest.mark.parametrize("bulk", [True, False])
async def test_a_forked_child_leaves_its_parents_connections_alone(one: Lab, bulk: bool) -> None:
    """A forked child reads on its own connections, and the parent gets its own answers."""
    reader = ShardReader(ROUTER, {1: PostgresShard(url_of(one), "data_1", bulk=bulk)}, timeout=5.0)
    for _ in range(10):
        assert right(await reader.read(31, 40), 31, 40)
        under_way = asyncio.create_task(reader.read(1, 60))
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            try:
                result: Any = asyncio.Runner().run(reader.read(11, 15))
                done = right(result, 11, 15)
            except BaseException as error:
                result, done = error, False
            if not done:
                os.write(2, f"the child got {result!r}\n".encode())
            os._exit(not done)
        results = [await reader.read(31, 40) for _ in range(5)]
        assert all(right(result, 31, 40) for result in results)
        assert right(await under_way, 1, 60)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    await reader.aclose()


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("end", ["idle_session_timeout", "pg_terminate_backend"])
async def test_a_session_that_ended_while_idle_loses_no_read(one: Lab, bulk: bool, end: str) -> None:
    """Every read succeeds on another connection when the server or an administrator ended the idle session."""
    connection = await admin(one, 1)
    if end == "idle_session_timeout":
        await connection.execute("ALTER ROLE trusted SET idle_session_timeout = '30ms'")
    try:
        # Through the proxy the goodbye arrives a moment later, when the query may already be on its way.
        url = await past_the_proxy(one, "trusted") if end == "pg_terminate_backend" else url_of(one, "trusted")
        async with reading(url, bulk=bulk) as read:
            for pause in (0.0, 0.1) * 5:
                if end == "pg_terminate_backend":
                    await connection.execute(
                        "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = 'trusted'"
                    )
                assert (await read()).complete
                await asyncio.sleep(pause)
    finally:
        await connection.execute("ALTER ROLE trusted RESET idle_session_timeout")
        connection.terminate()


NAMES = ["%(low)s", "100%", 'with "quotes"', "with.dots", "Größe", ":name", "$1", "a\\b", "%s%d"]


@pytest.mark.parametrize("name", NAMES)
async def test_tables_and_columns_with_odd_names(one: Lab, name: str) -> None:
    """Windows, pages and watches work with odd table and column names, by SELECT and COPY."""
    columns = (name, f"{name} too")
    table = sa.Table(name, sa.MetaData(), sa.Column(columns[0], sa.Integer), sa.Column(columns[1], sa.Text))
    quoted = ['"' + plain.replace('"', '""') + '"' for plain in (name, *columns)]
    connection = await admin(one, 1)
    await connection.execute("CREATE TABLE {} AS SELECT id AS {}, name AS {} FROM data_1".format(*quoted))
    connection.terminate()
    for bulk in (True, False):
        shard = PostgresShard(url_of(one), table, key=name, columns=columns[1:], bulk=bulk)
        async with ShardReader(ROUTER, {1: shard}, timeout=5.0) as reader:
            assert right(await reader.read(3, 7), 3, 7)
            assert (await reader.page(5)).table.num_rows == 5
            async for result in reader.watch(interval=5.0):
                assert right(result, 1, 60)
                break


@pytest.mark.parametrize("bulk", [True, False])
async def test_the_memory_of_an_answer_is_bounded(one: Lab, bulk: bool) -> None:
    """An answer above the byte limit is discarded as a whole, and the next read gets a connection again."""
    connection = await admin(one, 1)
    await connection.execute(
        "CREATE VIEW endless AS SELECT g AS id, repeat('x', 1000) AS name FROM generate_series(1, 100000) g"
    )
    connection.terminate()
    shard = PostgresShard(url_of(one), "endless", bulk=bulk, answer_limit=1 << 22)
    router = RangeRouter({1: [(1, INT64_MAX)]})
    async with ShardReader(router, {1: shard}, timeout=60.0) as reader:
        report = (await reader.read(1, 100_000)).reports[1]
        assert (report.status, report.error) == (Status.INVALID, "an answer of more than 4194304 bytes, the limit")
        assert (await reader.read(1, 10)).reports[1].error != report.error
    connection = await admin(one, 1)
    await connection.execute("DROP VIEW endless")
    connection.terminate()


async def test_who_listens_is_not_counted_as_one_who_logs_in(one: Lab) -> None:
    """The limit on login data does not apply to listeners: after megabytes of notifications, changes still arrive."""
    connection = await admin(one, 1)
    shard = PostgresShard(url_of(one), "data_1")
    heard: list[None] = []
    listening = asyncio.create_task(shard.listen(lambda: heard.append(None), 3600.0))
    assert await comes_true(lambda: bool(heard))
    for _ in range(5):
        await connection.execute(
            "SELECT pg_notify('labkit_changes', repeat(n::text, 1900)) FROM generate_series(1000, 1099) n"
        )
    before = len(heard)
    await one.put(7, "Test 7")
    assert await comes_true(lambda: len(heard) > before)
    listening.cancel()
    await asyncio.wait([listening])
    await shard.aclose()
    connection.terminate()


async def test_a_changed_type_is_heeded_on_a_warm_connection(one: Lab) -> None:
    """A statement prepared for other column types is prepared again before it is executed."""
    connection = await admin(one, 1)
    await connection.execute("CREATE TABLE changing AS SELECT id::int AS id, name FROM data_1")
    shard = PostgresShard(url_of(one), "changing", bulk=False)
    try:
        async with ShardReader(ROUTER, {1: shard}, timeout=5.0) as reader:
            for kind in ("int", "bigint", "smallint", "int"):
                await connection.execute(f"ALTER TABLE changing ALTER id TYPE {kind}")
                for _ in range(2):
                    assert right(await reader.read(), 1, 60)
    finally:
        await connection.execute("DROP TABLE changing")
        connection.terminate()


async def test_a_reader_that_waits_for_a_lock_gives_up_in_time(one: Lab) -> None:
    """A read that waits for a lock times out, and its backend ends too."""
    connection = await admin(one, 1)
    async with connection.transaction():
        await connection.execute("LOCK TABLE data_1")
        async with reading(url_of(one), seconds=0.3) as read:
            assert (await read()).reports[1].status is Status.TIMEOUT
    connection.terminate()
    deadline = asyncio.get_running_loop().time() + 5
    shard = PostgresShard(url_of(one), "data_1")
    assert (await shard.read(Ask(((1, 60),), 1, 60, deadline))).num_rows == 60
    await shard.aclose()
