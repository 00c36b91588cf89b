"""`PostgresShard` on a scripted driver under a real SQLAlchemy, and on tiny servers under a real asyncpg."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest
from asyncpg import exceptions as pg

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import RangeRouter
from labkit.shards.base import Ask
from labkit.shards.postgres import PostgresShard
from tests.support.mocks import (
    HANG,
    SECRET,
    TIMEOUT,
    closed_port,
    closing,
    eventually,
    in_time,
    pg_refusal,
    read_alone,
    report_of,
    serving,
    silent,
    turn_until,
)

pytestmark = pytest.mark.usefixtures("no_task_left")

ROWS = [(1, "Test 1"), (2, None), (10, "")]
LATE = "no answer before the deadline"


def a_shard(table="data_1", host="127.0.0.1:1", **kwargs):
    return PostgresShard(f"postgresql+asyncpg://reader:{SECRET}@{host}/lab", table, **kwargs)


async def healthy(shard, postgres):
    """Whether the shard answers again once the server does."""
    postgres.on_connect, postgres.replies = None, [ROWS]
    return (await report_of(shard)).status is Status.OK


async def test_rows_come_through_sqlalchemy(postgres):
    """The driver's rows are the rows of the result, NULL and empty names included."""
    postgres.replies = [ROWS]
    result = await read_alone(a_shard())
    assert [(row["id"], row["name"]) for row in result.table.to_pylist()] == ROWS
    assert result.complete


async def test_a_connection_is_used_again(postgres):
    """Consecutive reads share one connection, which stays open between them."""
    postgres.replies = [ROWS]
    shard = a_shard()
    for _ in range(3):
        await read_alone(shard)
    assert len(postgres.connections) == 1
    assert postgres.connections[0].terminated == 0


WINDOWS = [
    (None, None, "", ()),
    (3, None, " WHERE id >= $1::BIGINT", (3,)),
    (None, 7, " WHERE id <= $1::BIGINT", (7,)),
    (3, 7, " WHERE id >= $1::BIGINT AND id <= $2::BIGINT", (3, 7)),
]


@pytest.mark.parametrize("table", ["data_1", "lab.data_1"])
@pytest.mark.parametrize(("low", "high", "where", "parameters"), WINDOWS)
async def test_each_window_has_its_statement(postgres, table, low, high, where, parameters):
    """The server receives one SELECT, ordered by ID, with the caller's bounds as parameters."""
    await read_alone(a_shard(table, columns=["name"]), low, high)
    sql = f"SELECT id, name FROM {table}{where} ORDER BY id"
    assert postgres.asked == [(sql, parameters)]


@pytest.mark.parametrize(("low", "high", "where", "parameters"), WINDOWS)
async def test_a_limit_goes_to_the_server(postgres, low, high, where, parameters):
    """A page's limit is sent to the server as a parameter."""
    shard = a_shard(columns=["name"])
    deadline = asyncio.get_running_loop().time() + TIMEOUT
    await shard.read(Ask(((3, 7),), low, high, deadline, limit=5))
    number = f"${len(parameters) + 1}::BIGINT"
    sql = f"SELECT id, name FROM data_1{where} ORDER BY id LIMIT {number}"
    assert postgres.asked == [(sql, (*parameters, 5))]
    await shard.aclose()


async def test_columns_have_the_names_that_the_table_gives_them(postgres):
    """Unusual names of key and columns are quoted in every clause of the SQL, and are those of the result."""
    postgres.types = {"user id": 20, "full_name": 25}
    result = await read_alone(a_shard(key="user id", columns=["full_name"]), 3)
    assert postgres.asked[0][0] == (
        'SELECT record_send(row("user id", full_name)) AS record_send_1 FROM data_1 '
        'WHERE "user id" >= $1::BIGINT ORDER BY "user id"'
    )
    assert result.table.schema.names == ["user id", "full_name"]


async def test_all_columns_are_read_and_new_ones_noticed(postgres):
    """Without `columns` the key comes first, then the others in the table's order; each answer has the number of the
    table's columns, so that a new one is noticed.
    """
    postgres.types = {"name": 1043, "at": 1184, "id": 20, "tags": 600}
    result = await read_alone(a_shard())
    assert result.table.schema.names == ["id", "name", "at", "tags"]
    values = "row(id, name, at, CAST(tags AS TEXT))"
    assert postgres.asked[0][0].startswith(
        f"SELECT record_send({values}) AS record_send_1, (SELECT oid::bigint * 2048 + relnatts FROM "
    )


@pytest.mark.parametrize("columns", ["id", ("id", ""), (1, 2), ("name", "name"), 5])
def test_columns_are_different_names(columns):
    """Anything but a list of different names is a clear error that shows the value."""
    with pytest.raises(UsageError, match=re.escape(f"columns must be a list of different names, not {columns!r}")):
        a_shard(columns=columns)


@pytest.mark.parametrize("key", ["", None, 5, ["id"]])
def test_the_key_is_a_name(key):
    """A key that is no name is a clear error that shows the value."""
    with pytest.raises(UsageError, match=re.escape(f"key must be the name of a column, not {key!r}")):
        a_shard(key=key)


@pytest.mark.parametrize(
    ("types", "kwargs", "cause"),
    [
        ({"id": 20, "name": 25}, {"key": "nr"}, "no column nr for a key: the table has id, name"),
        ({"id": 20}, {"columns": ["id", "name", "at"]}, "no column name, at: the table has id"),
        ({"id": 1700}, {}, "the key id is 1700, not smallint, integer or bigint"),
    ],
)
async def test_columns_that_are_not_there_make_the_shard_invalid(postgres, types, kwargs, cause):
    """A key or column that the table does not have, and a key of another type, are named; the rows are not read."""
    postgres.types = types
    report = await report_of(a_shard(**kwargs))
    assert (report.status, report.error) == (Status.INVALID, cause)
    assert postgres.asked == []


async def test_a_table_with_an_odd_name_is_quoted(postgres):
    """An unusual table name is quoted, so it cannot become SQL."""
    await read_alone(a_shard('x"; drop table y; --'))
    assert 'FROM "x""; drop table y; --" ORDER BY' in postgres.asked[0][0]


async def test_bounds_at_both_ends_of_int64_are_sent_as_they_are(postgres):
    """The extremes of int64 reach the driver unchanged."""
    await read_alone(a_shard(bulk=False), INT64_MIN, INT64_MAX, owned=(INT64_MIN, INT64_MAX))
    assert postgres.asked[0][1] == (INT64_MIN, INT64_MAX)


async def test_the_longest_timeout_of_the_readers_is_the_servers_too(postgres):
    """An abandoned query ends on the server too: `statement_timeout` is the longest reader timeout, in milliseconds."""
    shard = a_shard()
    for timeout in (0.05, 1.5, 0.5):
        shard.prepare(timeout)
    await read_alone(shard, seconds=TIMEOUT)
    assert postgres.settings[0]["server_settings"] == {"application_name": "labkit", "statement_timeout": "1500"}


async def test_the_shortest_timeout_is_a_millisecond(postgres):
    """A timeout below a millisecond is not sent as 0, which would mean no timeout."""
    shard = a_shard()
    shard.prepare(0.0001)
    deadline = asyncio.get_running_loop().time() + TIMEOUT
    await shard.read(Ask(((1, 10),), 1, 10, deadline))
    assert postgres.settings[0]["server_settings"]["statement_timeout"] == "1"
    await shard.aclose()


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "refused"), socket.gaierror(-2, "unknown"), ConnectionResetError(104, "reset")],
)
async def test_no_connection_is_unreachable(postgres, error):
    """Refused, an unknown host, or reset while connecting: UNREACHABLE, and no query was sent."""
    postgres.on_connect = error
    shard = a_shard()
    report = await report_of(shard)
    assert report.status is Status.UNREACHABLE
    assert report.error
    assert await healthy(shard, postgres)


async def test_a_connect_that_hangs_is_a_timeout(postgres):
    """The deadline covers connecting, and the pool slot is free again afterwards."""
    postgres.on_connect = HANG
    shard = a_shard(pool_size=1)
    report = await report_of(shard, seconds=TIMEOUT)
    assert (report.status, report.error) == (Status.TIMEOUT, LATE)
    assert await healthy(shard, postgres)


async def test_a_query_that_hangs_is_cut_at_the_deadline(postgres):
    """The socket is terminated rather than closed gracefully, and the next read has a new connection."""
    postgres.replies = [HANG]
    shard = a_shard(pool_size=1)
    report = await report_of(shard, seconds=TIMEOUT)
    assert (report.status, report.error) == (Status.TIMEOUT, LATE)
    assert postgres.connections[0].terminated > 0
    assert postgres.connections[0].asked
    assert await healthy(shard, postgres)
    assert len(postgres.connections) == 2


async def test_waiting_for_a_place_in_the_pool_is_under_the_deadline(postgres):
    """Two hanging reads on a pool of one both end in time, and the shard recovers."""
    postgres.replies = [HANG]
    shard = a_shard(pool_size=1)
    reports = await asyncio.gather(report_of(shard, seconds=TIMEOUT), report_of(shard, seconds=TIMEOUT))
    assert {report.status for report in reports} == {Status.TIMEOUT}
    assert await healthy(shard, postgres)


async def test_a_connection_lost_mid_read_is_disconnected(postgres):
    """A connection lost during a read is DISCONNECTED and is not reused."""
    postgres.replies = [HANG]
    shard = a_shard()
    task = asyncio.create_task(report_of(shard))
    await turn_until(lambda: postgres.connections and postgres.connections[0].hanging)
    postgres.connections[0].terminate()
    report = await task
    assert report.status is Status.DISCONNECTED
    assert report.error == "connection was closed in the middle of operation"
    assert await healthy(shard, postgres)
    assert len(postgres.connections) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (pg.QueryCanceledError("canceling statement due to statement timeout"), Status.TIMEOUT),
        (pg.AdminShutdownError("terminating connection"), Status.DISCONNECTED),
        (pg.CrashShutdownError("crash of another server process"), Status.DISCONNECTED),
        (pg.ConnectionFailureError("connection failure"), Status.DISCONNECTED),
        (ConnectionResetError(104, "reset"), Status.DISCONNECTED),
        (pg.UndefinedTableError('relation "data_1" does not exist'), Status.REJECTED),
        (pg.UndefinedColumnError('column "name" does not exist'), Status.REJECTED),
        (pg.InsufficientPrivilegeError("permission denied"), Status.REJECTED),
        (pg.LockNotAvailableError("lock timeout"), Status.REJECTED),
        (pg.DiskFullError("No space left on device"), Status.REJECTED),
        (pg.DataCorruptedError("invalid page"), Status.REJECTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
async def test_each_class_of_error_in_a_query_has_its_status(postgres, error, status):
    """The SQLSTATE decides the status; the error is the server's, not SQLAlchemy's; the connection is not reused."""
    postgres.replies = [error]
    shard = a_shard()
    report = await report_of(shard)
    assert report.status is status
    if not isinstance(error, OSError) and status is not Status.TIMEOUT:
        assert report.error == str(error)
    assert "sqlalche" not in report.error
    assert postgres.connections[0].terminated > 0
    assert await healthy(shard, postgres)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (pg.InvalidPasswordError('password authentication failed for user "reader"'), Status.REJECTED),
        (pg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry"), Status.REJECTED),
        (pg.InvalidCatalogNameError('database "lab" does not exist'), Status.REJECTED),
        (pg.TooManyConnectionsError("sorry, too many clients already"), Status.REJECTED),
        (pg.CannotConnectNowError("the database system is starting up"), Status.UNREACHABLE),
        (pg.ConnectionDoesNotExistError("connection was closed"), Status.UNREACHABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
async def test_each_class_of_error_while_connecting_has_its_status(postgres, error, status):
    """A server that refuses is REJECTED; one that is starting or hangs up is UNREACHABLE."""
    postgres.on_connect = error
    shard = a_shard()
    report = await report_of(shard)
    assert (report.status, report.error) == (status, str(error))
    assert await healthy(shard, postgres)


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([(1, "a"), (1, "a")], "id 1 is there twice"),
        ([(2, "a"), (1, "a")], "id 1 comes after 2"),
        ([(11, "a")], "id 11 is outside"),
        ([(None, "a")], "NULL"),
        ([(1, 5)], "name 5 is not text"),
    ],
)
async def test_bad_rows_are_invalid(postgres, rows, cause):
    """The reader detects rows that a server can store but no shard should return; the connection is reused."""
    postgres.replies = [rows]
    report = await report_of(a_shard())
    assert report.status is Status.INVALID
    assert cause in report.error
    assert postgres.connections[0].terminated == 0


async def test_the_callers_cancellation_cuts_the_connection(postgres):
    """A cancelled read leaves no connection in the pool that still waits for an answer."""
    postgres.replies = [HANG]
    shard = a_shard(pool_size=1)
    reader = ShardReader(RangeRouter({1: [(1, 10)]}), {1: shard}, timeout=60)
    task = asyncio.create_task(reader.read())
    await turn_until(lambda: postgres.connections and postgres.connections[0].hanging)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await in_time(task, within=0)
    await turn_until(lambda: postgres.connections[0].terminated > 0)
    assert postgres.connections[0].terminated > 0
    assert await healthy(shard, postgres)
    assert len(postgres.connections) == 2


async def test_an_idle_connection_the_server_closed_is_replaced(postgres):
    """A server restart between two reads costs no read: a dead pooled connection is noticed before use."""
    postgres.replies = [ROWS]
    shard = a_shard()
    await read_alone(shard)
    postgres.connections[0].hang_up()
    assert (await report_of(shard)).status is Status.OK
    assert len(postgres.connections) == 2
    assert postgres.connections[0].is_closed()


FAREWELL = pg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
"""asyncpg's error for a query on a connection on which it has read the server's farewell but not yet the end."""


async def test_an_idle_connection_whose_end_is_on_its_way_is_replaced(postgres):
    """A connection that the server is closing costs no read either: the driver has sent nothing on it."""
    postgres.replies = [ROWS, FAREWELL, ROWS]
    shard = a_shard()
    assert [(await report_of(shard)).status for _ in range(2)] == [Status.OK, Status.OK]
    assert len(postgres.connections) == 2
    assert postgres.connections[0].is_closed()


async def test_connections_that_all_have_ended_are_a_lost_connection(postgres):
    """At most as many dead connections are tried as the pool may hold; the cause is then stated in labkit's words."""
    postgres.replies = [FAREWELL]
    report = await report_of(a_shard(pool_size=3))
    assert (report.status, report.error) == (Status.DISCONNECTED, "the server closed this idle connection")
    assert len(postgres.connections) == 3


async def test_no_transaction_is_opened(postgres):
    """Reads use AUTOCOMMIT, so each is one round trip; the fake has no transactions and would fail."""
    postgres.replies = [ROWS]
    await read_alone(a_shard())
    assert not hasattr(postgres.connections[0], "transaction")
    assert [sql.split()[0] for sql, _ in postgres.asked] == ["SELECT"]


async def test_aclose_cuts_every_connection(postgres):
    """Idle and busy connections are terminated, and later ones are not kept."""
    postgres.replies = [ROWS, HANG]
    shard = a_shard()
    await read_alone(shard)
    busy = asyncio.create_task(report_of(shard))
    await turn_until(lambda: postgres.connections[0].hanging)
    await in_time(shard.aclose(), within=0)
    assert (await busy).error == "the shard was closed"
    assert all(connection.is_closed() for connection in postgres.connections)
    assert await healthy(shard, postgres)
    assert postgres.connections[-1].is_closed()


async def test_aclose_before_any_read_is_fine(postgres):
    """A shard that was never read can be closed, even twice."""
    shard = a_shard()
    await shard.aclose()
    await shard.aclose()
    assert postgres.connections == []


async def test_a_server_that_says_nothing_is_a_timeout():
    """Real driver, real socket: a server that accepts but never answers is a TIMEOUT, and the socket is closed."""
    async with serving(silent) as port:
        report = await report_of(a_shard(host=f"127.0.0.1:{port}"), seconds=TIMEOUT)
    assert (report.status, report.error) == (Status.TIMEOUT, LATE)


async def test_a_server_that_hangs_up_while_connecting_is_unreachable():
    """Real driver: a server that accepts and closes is UNREACHABLE."""
    async with serving(closing) as port:
        report = await report_of(a_shard(host=f"127.0.0.1:{port}"))
    assert report.status is Status.UNREACHABLE


async def test_a_port_without_a_server_is_unreachable():
    """Real driver: a refused connection is UNREACHABLE, in the system's words without the address."""
    report = await report_of(a_shard(host=f"127.0.0.1:{await closed_port()}"))
    assert (report.status, report.error) == (Status.UNREACHABLE, "connection refused")


@pytest.mark.parametrize(
    ("sqlstate", "message", "status"),
    [
        ("28P01", 'password authentication failed for user "reader"', Status.REJECTED),
        ("53300", "sorry, too many clients already", Status.REJECTED),
        ("3D000", 'database "lab" does not exist', Status.REJECTED),
        ("57P03", "the database system is starting up", Status.UNREACHABLE),
    ],
)
async def test_a_servers_refusal_comes_through_the_real_driver(sqlstate, message, status):
    """Real asyncpg, real bytes: the SQLSTATE decides the status, and the message is kept."""
    async with serving(pg_refusal(sqlstate, message)) as port:
        report = await report_of(a_shard(host=f"127.0.0.1:{port}"))
    assert (report.status, report.error) == (status, message)


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql", "postgres"])
def test_all_names_of_postgres_mean_asyncpg(scheme):
    """Every Postgres scheme selects asyncpg."""
    assert PostgresShard(f"{scheme}://h/db", "t").url.drivername == "postgresql+asyncpg"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/db",
        f"postgresql+psycopg://u:{SECRET}@h/db",
        f"redis://:{SECRET}@h/0",
        f"garbage {SECRET}",
        f"://{SECRET}",
        f"postgresql+asyncpg:/u:{SECRET}@h/db",
        f"postgresql://u:{SECRET}@h:port/db",
        f"postgresql://u:{SECRET}@[::1/db",
        f"postgresql://u:odd@x:{SECRET}@h/db",
        "",
        None,
        5,
    ],
)
def test_a_url_of_another_kind_is_refused_without_its_password(url):
    """A wrong URL is a `UsageError` that says what to write and never shows a password."""
    with pytest.raises(UsageError, match="postgresql\\+asyncpg://") as caught:
        PostgresShard(url, "t")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h/db",
        f"postgresql://u:{SECRET}%40x@h:5432/db",
        f"postgresql://h/db?user=u&password={SECRET}",
    ],
)
def test_repr_hides_the_password(url):
    """The repr shows host and table, but never the password, wherever it is in the URL."""
    shown = repr(PostgresShard(url, "data_1"))
    assert SECRET not in shown
    assert "data_1" in shown
    assert "h" in shown


async def test_no_error_text_shows_the_password(postgres):
    """No failure's report shows the password."""
    reports = []
    for error in (ConnectionRefusedError(111, "refused"), pg.InvalidPasswordError("no"), OSError("odd")):
        postgres.on_connect = error
        reports.append(await report_of(a_shard()))
    postgres.on_connect, postgres.replies = None, [pg.UndefinedTableError("no table")]
    reports.append(await report_of(a_shard()))
    assert all(report.failed for report in reports)
    assert SECRET not in str(reports)


async def test_the_reader_is_on_time_when_all_of_three_hang(postgres):
    """With three hanging queries the read ends at its deadline, and every socket is cut."""
    postgres.replies = [HANG]
    router = RangeRouter({s: [(s * 10, s * 10 + 9)] for s in (1, 2, 3)})
    async with ShardReader(router, {s: a_shard(f"data_{s}") for s in router.shards}, timeout=TIMEOUT) as reader:
        result = await in_time(reader.read())
    assert result.missing == ((10, 39),)
    await eventually(lambda: all(connection.is_closed() for connection in postgres.connections))
    assert len(postgres.connections) == 3
