"""`RedisShard` on a scripted client, and the real redis-py on tiny servers with real bytes."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import struct

import pytest
from redis import exceptions as rx
from redis.asyncio.connection import Connection

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.report import Status
from labkit.router import RangeRouter
from labkit.shards.base import Ask
from labkit.shards.redis import RedisShard, member
from labkit.shards.redis.connection import OURS
from labkit.shards.redis.layouts.bulk import LOOK
from labkit.shards.redis.layouts.sorted_set import EXACT
from tests.support.mocks import (
    HANG,
    SECRET,
    TIMEOUT,
    FakeRedis,
    closed_port,
    closing,
    in_time,
    read_alone,
    report_of,
    resp,
    seconds_for,
    serving,
    silent,
    taken,
    turn_until,
)

pytestmark = pytest.mark.usefixtures("no_task_left")

LATE = "no answer before the deadline"
ROWS = [(1, "Test 1"), (2, None), (10, "")]
MEMBERS = [member(*row) for row in ROWS]


def a_shard(fake=None, port=1):
    """A shard on `fake`, or on the server at `port`."""
    shard = RedisShard(f"redis://:{SECRET}@127.0.0.1:{port}/0" if fake else f"redis://127.0.0.1:{port}/0", "data_1")
    if fake is not None:
        shard._server._made = lambda: fake
    return shard


def ids(result):
    return result.table.column("id").to_pylist()


async def test_rows_come_from_members():
    """Each member is a row; NULL and empty names stay distinct."""
    result = await read_alone(a_shard(FakeRedis(MEMBERS)))
    assert [(row["id"], row["name"]) for row in result.table.to_pylist()] == ROWS


@pytest.mark.parametrize(
    ("row", "stored"),
    [
        ((1, "Test 1"), b'[1,"Test 1"]'),
        ((-5, None), b"[-5,null]"),
        ((2**63 - 1, 'ü"\n'), '[9223372036854775807,"ü\\"\\n"]'.encode()),
    ],
)
def test_a_member_is_the_whole_row_as_json(row, stored):
    """A member is the row as compact JSON in UTF-8, and decodes to the same row."""
    assert member(*row) == stored
    assert tuple(json.loads(stored)) == row


def test_rows_of_one_name_are_different_members():
    """Rows with the same name are different members, so none is lost."""
    assert len({member(i, "same") for i in range(5)}) == 5


@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [
        (None, None, ("-inf", "+inf", "LIMIT", 0, LOOK)),
        (3, None, (3, "+inf", "LIMIT", 0, LOOK)),
        (None, 7, ("-inf", 7, "LIMIT", 0, LOOK)),
        (3, 7, (3, 7)),
        (INT64_MIN, INT64_MAX, (INT64_MIN, INT64_MAX, "LIMIT", 0, LOOK)),
    ],
)
async def test_each_window_has_its_command(low, high, bounds):
    """A window of few IDs is one command with inclusive bounds; a larger one has a LIMIT, open ends are infinities."""
    fake = FakeRedis()
    await read_alone(a_shard(fake), low, high)
    assert fake.commands == [("ZRANGEBYSCORE", "data_1", *bounds)]


async def test_a_limit_goes_to_the_server():
    """A page's limit is sent to the server, which returns no more rows."""
    fake = FakeRedis(MEMBERS)
    shard = a_shard(fake)
    rows = await shard.read(Ask(((1, 10),), 1, None, asyncio.get_running_loop().time() + TIMEOUT, limit=2))
    assert fake.commands == [("ZRANGEBYSCORE", "data_1", 1, "+inf", "LIMIT", 0, 2)]
    assert [row[0] for row in rows] == [1, 2]


@pytest.mark.parametrize(("low", "left"), [(EXACT - 1, [-1, 0, 1]), (EXACT + 2, [2, 3, 10]), (None, [-1, 0, 1])])
async def test_a_limit_is_exact_where_ids_share_a_score(low, left):
    """Among equal scores the server's limit may drop the wrong rows, so these are read without it."""
    fake = FakeRedis([member(EXACT + i, "x") for i in (-1, 0, 1, 10, 2, 3)])
    shard = a_shard(fake)
    ask = Ask(((1, INT64_MAX),), low, None, asyncio.get_running_loop().time() + TIMEOUT, limit=3)
    assert [row[0] - EXACT for row in await shard.read(ask)] == left
    assert [command[-1] for command in fake.commands] == [3, LOOK]


CONNECTING = {
    "refused": (rx.ConnectionError("Error 111 connecting to 127.0.0.1:1."), Status.UNREACHABLE, "connection refused"),
    "refused by the system": (ConnectionRefusedError("refused"), Status.UNREACHABLE, "refused"),
    "hang": (HANG, Status.TIMEOUT, LATE),
    "redis time-out": (rx.TimeoutError("Timeout connecting to server"), Status.TIMEOUT, LATE),
    "wrong password": (rx.AuthenticationError("invalid username-password pair"), Status.REJECTED, "invalid username"),
    "no permission": (rx.NoPermissionError("no permissions"), Status.REJECTED, "no permissions"),
    "loading": (rx.BusyLoadingError("loading the dataset in memory"), Status.UNREACHABLE, "loading"),
}
WHILE_READING = rx.ConnectionError("Error while reading from 127.0.0.1:1 : (104, 'Connection reset by peer')")
REPLYING = {
    "hang": (HANG, Status.TIMEOUT, LATE),
    "redis time-out": (rx.TimeoutError("Timeout reading from socket"), Status.TIMEOUT, LATE),
    "builtin time-out": (TimeoutError(), Status.TIMEOUT, LATE),
    "connection lost": (rx.ConnectionError("Connection closed by server."), Status.DISCONNECTED, "closed by server"),
    "reset": (ConnectionResetError("reset"), Status.DISCONNECTED, "reset"),
    "reset while reading": (WHILE_READING, Status.DISCONNECTED, "connection reset by peer"),
    "wrong type": (rx.ResponseError("WRONGTYPE wrong kind of value"), Status.REJECTED, "WRONGTYPE"),
    "no password": (rx.AuthenticationError("Authentication required."), Status.REJECTED, "Authentication required."),
    "loading": (rx.BusyLoadingError("loading the dataset in memory"), Status.UNREACHABLE, "loading"),
    "cluster down": (rx.ClusterDownError("The cluster is down"), Status.REJECTED, "cluster is down"),
    "moved": (rx.ResponseError("MOVED 1 127.0.0.1:7001"), Status.REJECTED, "MOVED"),
}


@pytest.mark.parametrize(("error", "status", "cause"), CONNECTING.values(), ids=CONNECTING.keys())
async def test_each_failure_while_connecting_has_its_status(error, status, cause):
    """A failure to connect has its own status: no query was sent, and the connection is closed."""
    fake = FakeRedis(on_connect=error)
    report = await report_of(a_shard(fake), seconds=seconds_for(status))
    assert report.status is status
    assert cause in report.error
    assert fake.commands == []
    assert (fake.opened, fake.hung_up) == (0, 1)


@pytest.mark.parametrize(("error", "status", "cause"), REPLYING.values(), ids=REPLYING.keys())
async def test_each_failure_of_a_reply_has_its_status(error, status, cause):
    """A failure after the query has its own status, and the pool slot is free again."""
    fake = FakeRedis(error)
    shard = a_shard(fake)
    report = await report_of(shard, seconds=seconds_for(status))
    assert report.status is status
    assert cause in report.error
    assert ":1" not in report.error.replace("127.0.0.1:7001", "")  # no address but one that the server named
    assert (fake.opened, taken(shard._server)) == (1, 0)


@pytest.mark.parametrize("reply", [MEMBERS, [b"no row"], rx.ConnectionError("lost"), HANG], ids=repr)
async def test_the_connection_is_given_back_in_every_case(reply):
    """An answer, a bad answer, a lost connection and a hang all release the one connection taken."""
    fake = FakeRedis(reply)
    shard = a_shard(fake)
    await read_alone(shard, seconds=TIMEOUT)
    assert (fake.opened, taken(shard._server)) == (1, 0)


async def test_the_callers_cancellation_gives_the_connection_back():
    """A cancelled read does not keep a pool slot."""
    fake = FakeRedis(HANG)
    shard = a_shard(fake)
    reader = ShardReader(RangeRouter({1: [(1, 10)]}), {1: shard}, timeout=60)
    task = asyncio.create_task(reader.read())
    await turn_until(lambda: fake.commands)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await in_time(task, within=0)
    await turn_until(lambda: fake.hung_up)
    assert (fake.opened, taken(shard._server)) == (1, 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"Test 1",
        b"",
        b"5",
        b"null",
        b"[]",
        b"[1]",
        b'[1,"a",2]',
        b'{"id":1}',
        b'[1,"a"',
        b"\xff\xfe\xff",
        b"[" * 100_000,
        b"1" * 5000,
        None,
        7,
    ],
    ids=lambda raw: repr(raw)[:12],
)
async def test_a_member_that_is_no_row_is_invalid(raw):
    """One member that is not a JSON pair makes the whole answer invalid; the error stays short."""
    report = await report_of(a_shard(FakeRedis([MEMBERS[0], raw])))
    assert report.status is Status.INVALID
    assert "is not a row" in report.error
    assert len(report.error) < 1000


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ([b'["1","a"]'], "id '1' is not an integer"),
        ([b'[1.0,"a"]'], "id 1.0 is not an integer"),
        ([b'[true,"a"]'], "id True is not an integer"),
        ([b'[null,"a"]'], "NULL"),
        ([b"[1,7]"], "name 7 is not text"),
        ([b"[1,[]]"], "name [] is not text"),
        ([b'[1,"\\ud800"]'], "Unicode"),
        ([b'[1,"a"]', b'[1,"b"]'], "id 1 is there twice"),
        ([b'[2,"a"]', b'[1,"b"]'], "id 1 comes after 2"),
        ([b'[11,"a"]'], "id 11 is outside"),
        ([b'[99999999999999999999,"a"]'], "64 bits"),
    ],
)
async def test_a_row_that_breaks_the_contract_is_invalid(members, cause):
    """The reader checks types, order and ownership of the rows."""
    report = await report_of(a_shard(FakeRedis(members)))
    assert report.status is Status.INVALID
    assert cause in report.error


@pytest.mark.parametrize("odd", [b'[null,"x"]', b'["7","x"]', b'[[],"x"]'])
@pytest.mark.parametrize(("low", "high"), [(None, None), (1, None)])
async def test_an_odd_id_among_large_ones_is_invalid(odd, low, high):
    """IDs beyond 2**53 are sorted by the client; one that is not an integer is INVALID there too, not a crash."""
    fake = FakeRedis([member(EXACT + 1, "a"), odd])
    assert (await report_of(a_shard(fake), low, high, owned=(1, INT64_MAX))).status is Status.INVALID


async def test_large_ids_that_share_a_score_come_out_in_order():
    """The server orders equal scores by text; the answer is in ID order all the same."""
    large = [EXACT + i for i in (0, 1, 10, 2, 3, -1)]
    result = await read_alone(a_shard(FakeRedis([member(i, "x") for i in large])), owned=(1, INT64_MAX))
    assert result.complete
    assert ids(result) == sorted(large)


async def test_large_negative_ids_are_settled_as_well():
    """IDs below -2**53, which share scores too, are returned in order."""
    large = [-EXACT - i for i in (1, 10, 2, 3)]
    result = await read_alone(a_shard(FakeRedis([member(i, "x") for i in large])), owned=(INT64_MIN, 0))
    assert ids(result) == sorted(large)


@pytest.mark.parametrize(
    ("low", "high", "left"),
    [
        (EXACT + 2, EXACT + 2, [2]),
        (EXACT + 2, None, [2, 3, 4]),
        (None, EXACT + 2, [0, 1, 2]),
        (EXACT + 1, EXACT + 3, [1, 2, 3]),
    ],
)
async def test_a_window_beyond_2_to_53_is_exact(low, high, left):
    """The server's bounds are doubles and may match neighbouring IDs, which are filtered out."""
    fake = FakeRedis([member(EXACT + i, "x") for i in range(5)])
    result = await read_alone(a_shard(fake), low, high, owned=(1, INT64_MAX))
    assert result.complete
    assert ids(result) == [EXACT + i for i in left]


@pytest.mark.parametrize("sign", [1, -1])
async def test_the_window_next_to_2_to_53_is_exact(sign):
    """2**53 + 1 and 2**53 share a score; a read of the former does not return the latter."""
    wanted = sign * (EXACT + 1)
    fake = FakeRedis([member(sign * EXACT, "x")])
    result = await read_alone(a_shard(fake), wanted, wanted, owned=(INT64_MIN, INT64_MAX))
    assert result.complete
    assert ids(result) == []


async def test_small_ids_out_of_order_are_not_put_right():
    """Up to 2**53 the server's order is exact: rows out of order are invalid and are not sorted."""
    fake = FakeRedis([member(2, "a"), member(1, "b")])
    assert (await report_of(a_shard(fake))).status is Status.INVALID


async def test_a_foreign_row_beyond_2_to_53_is_still_found():
    """Filtering uses the caller's window only, so another shard's row is still detected."""
    fake = FakeRedis([member(EXACT + 50, "x")])
    assert (await report_of(a_shard(fake), owned=(1, EXACT + 10))).status is Status.INVALID


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h:1/0", "unix:///tmp/redis.sock"])
@pytest.mark.parametrize("query", ["", "?protocol=3&socket_timeout=99&retry_on_timeout=yes&max_connections=1"])
def test_connections_do_not_retry_and_have_no_timeouts_of_their_own(url, query):
    """RESP2, no retries, and only the deadline bounds a step: redis-py's timeouts can swallow a cancellation."""
    connection = RedisShard(url + query, "data_1")._server._made()
    assert connection.retry.get_retries() == 0
    assert connection.retry._backoff.compute(5) == 0
    assert connection.protocol == 2
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (None, None)
    assert not connection.retry_on_error


async def test_a_connection_is_kept_for_the_next_read():
    """Consecutive reads share one connection."""
    fake = FakeRedis(MEMBERS)
    shard = a_shard(fake)
    await read_alone(shard)
    await read_alone(shard)
    assert (fake.opened, fake.hung_up, len(fake.commands)) == (1, 0, 2)


async def test_aclose_closes_connections_and_keeps_none_that_is_made_later():
    """Closing twice closes a connection once; a read after that keeps no connection."""
    fake = FakeRedis(MEMBERS)
    shard = a_shard(fake)
    await read_alone(shard)
    await shard.aclose()
    await shard.aclose()
    assert fake.hung_up == 1
    await read_alone(shard)
    assert fake.hung_up == 2


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{SECRET}@h",
        f"postgresql://u:{SECRET}@h/db",
        f"http://h?password={SECRET}",
        f"htp//:{SECRET}@h",
        "localhost:6379",
        "",
        None,
        5,
        f"redis://:{SECRET}@[::1/0",
        f"redis://:{SECRET}@h:port/0",
        f"redis://:{SECRET}@h:99999/0",
        f"redis:{SECRET}@h",
        f"unix:{SECRET}@h/d",
        f" redis://:{SECRET}@h",
        "redis://h:1/two",
    ],
)
def test_a_url_of_another_kind_is_refused_without_its_password(url):
    """A wrong URL is a `UsageError` when the shard is made, and never shows a password."""
    with pytest.raises(UsageError, match="redis://") as caught:
        RedisShard(url, "data_1")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h:1/0",
        f"redis://u:{SECRET}@h:1/0",
        f"rediss://u:{SECRET}%40@h/0",
        f"redis://u:a@{SECRET}@h/0",
        f"redis://h:1/0?password={SECRET}",
        f"unix://u:{SECRET}@/tmp/sock",
    ],
)
def test_repr_hides_the_password(url):
    """The repr shows address and key, but never the password, wherever it is in the URL."""
    shown = repr(RedisShard(url, "data_1"))
    assert SECRET not in shown
    assert "data_1" in shown


def test_an_unknown_layout_is_refused():
    """An unknown layout is refused when the shard is made, with a list of the known ones."""
    with pytest.raises(UsageError, match="unknown layout 'list': write one of sorted-set, hash, strings"):
        RedisShard("redis://h:1/0", "data_1", layout="list")


@pytest.mark.parametrize(("layout", "command"), [("hash", "HMGET"), ("strings", "MGET")])
async def test_a_layout_is_read_with_commands_of_its_own(layout, command):
    """Each layout uses its own command on one connection, which is released; the reader checks the answer as usual."""
    fake = FakeRedis(MEMBERS)
    shard = RedisShard("redis://h:1/0", "data_1", layout=layout)
    shard._server._made = lambda: fake
    result = await read_alone(shard, 1, 3)
    assert [words[0] for words in fake.commands] == [command]
    assert result.reports[1].status is Status.INVALID  # the third value has ID 10
    assert (fake.opened, taken(shard._server)) == (1, 0)


async def test_no_error_text_shows_the_password():
    """No failure's report shows the password."""
    fakes = [FakeRedis(on_connect=error) for error, *_ in CONNECTING.values()]
    fakes += [FakeRedis(error) for error, *_ in REPLYING.values() if error is not HANG]
    reports = [await report_of(a_shard(fake), seconds=TIMEOUT) for fake in fakes]
    reports.append(await report_of(RedisShard(f"redis://:{SECRET}@127.0.0.1:{await closed_port()}/0", "data_1")))
    assert all(report.failed for report in reports)
    assert SECRET not in str(reports)


def array(*members: bytes, of: int | None = None) -> bytes:
    """A RESP array that announces `of` members (by default as many as there are)."""
    count = len(members) if of is None else of
    return b"*%d\r\n" % count + b"".join(b"$%d\r\n%s\r\n" % (len(m), m) for m in members)


BYTES = {
    "an answer": ([array(*MEMBERS)], Status.OK, None),
    "no rows": ([array()], Status.OK, None),
    "silence": ([None], Status.TIMEOUT, LATE),
    "half an array": ([array(*MEMBERS, of=5)], Status.DISCONNECTED, "onnection"),
    "half a member": ([array(*MEMBERS)[:-4]], Status.DISCONNECTED, "onnection"),
    "an error": ([b"-WRONGTYPE wrong kind of value\r\n"], Status.REJECTED, "wrong kind of value"),
    "password required": ([b"-NOAUTH Authentication required.\r\n"], Status.REJECTED, "Authentication required"),
    "loading": ([b"-LOADING Redis is loading the dataset in memory\r\n"], Status.UNREACHABLE, "loading"),
    "too many clients": ([b"-ERR max number of clients reached\r\n"], Status.REJECTED, "max number of clients"),
    "an error among members": ([b"*2\r\n$1\r\nx\r\n-ERR odd\r\n"], Status.INVALID, "is not a row"),
    "no array": ([b":7\r\n"], Status.INVALID, ""),
    "a null array": ([b"*-1\r\n"], Status.INVALID, ""),
    "a text": ([b"+OK\r\n"], Status.INVALID, ""),
    "no RESP": ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], Status.DISCONNECTED, ""),
}


@pytest.mark.parametrize(("replies", "status", "cause"), BYTES.values(), ids=BYTES.keys())
async def test_real_bytes_have_their_status(replies, status, cause):
    """redis-py and hiredis on a real socket: each reply has its status, and no socket is left open."""
    async with serving(resp(*replies)) as port:
        shard = a_shard(port=port)
        report = await report_of(shard, seconds=seconds_for(status))
        await shard.aclose()
    assert report.status is status
    assert report.error is None if cause is None else cause in report.error


@pytest.mark.parametrize("garbage", [b":7\r\n", array(b"no row")], ids=["no array", "no row"])
async def test_a_connection_that_gave_garbage_is_not_used_again(garbage):
    """After an invalid answer the connection is dropped, so what follows is not taken for the next answer."""
    scripts = iter([resp(garbage, array(member(3, "left behind"))), resp(array(*MEMBERS))])
    async with serving(lambda *streams: next(scripts)(*streams)) as port:
        shard = a_shard(port=port)
        assert (await report_of(shard)).status is Status.INVALID
        assert ids(await read_alone(shard)) == [row_id for row_id, _ in ROWS]
        await shard.aclose()


async def test_a_server_that_hangs_up_after_accepting_gave_no_answer():
    """A server that accepts and closes is UNREACHABLE before the query is sent, DISCONNECTED after."""
    async with serving(closing) as port:
        shard = a_shard(port=port)
        report = await report_of(shard)
        await shard.aclose()
    assert report.status in (Status.UNREACHABLE, Status.DISCONNECTED)


async def test_a_port_without_a_server_is_unreachable():
    """A refused connection is UNREACHABLE at once, in the system's words without the address."""
    report = await report_of(a_shard(port=await closed_port()))
    assert (report.status, report.error) == (Status.UNREACHABLE, "connection refused")


async def test_a_silent_handshake_is_a_timeout():
    """The deadline covers the handshake: an AUTH without a reply is a TIMEOUT."""
    async with serving(silent) as port:
        shard = RedisShard(f"redis://:{SECRET}@127.0.0.1:{port}/0", "data_1")
        report = await report_of(shard, seconds=TIMEOUT)
        await shard.aclose()
    assert (report.status, report.error) == (Status.TIMEOUT, LATE)


async def test_a_wrong_password_is_rejected_by_the_server():
    """A wrong password is REJECTED in the server's own words."""
    async with serving(resp(b"-WRONGPASS invalid username-password pair\r\n")) as port:
        shard = RedisShard(f"redis://:{SECRET}@127.0.0.1:{port}/0", "data_1")
        report = await report_of(shard)
        await shard.aclose()
    assert (report.status, report.error) == (Status.REJECTED, "invalid username-password pair")


async def test_a_late_reply_never_answers_a_later_read():
    """After a timeout the socket is closed, so a late reply cannot answer the next read."""
    stale, fresh = [None], [array(*MEMBERS)]
    scripts = iter([resp(*stale), resp(*fresh)])

    async def one_after_the_other(reader, writer):
        await next(scripts)(reader, writer)

    async with serving(one_after_the_other) as port:
        shard = a_shard(port=port)
        assert (await report_of(shard, seconds=TIMEOUT)).status is Status.TIMEOUT
        result = await read_alone(shard)
        await shard.aclose()
    assert ids(result) == [1, 2, 10]


async def test_the_reader_is_on_time_when_all_of_three_hang():
    """With three silent servers the read ends at its deadline and leaves no socket open."""
    async with serving(silent) as port:
        router = RangeRouter({s: [(s * 10, s * 10 + 9)] for s in (1, 2, 3)})
        async with ShardReader(router, {s: a_shard(port=port) for s in router.shards}, timeout=TIMEOUT) as reader:
            result = await in_time(reader.read())
    assert result.missing == ((10, 39),)


async def test_a_reset_that_a_question_meets_has_the_systems_words() -> None:
    """A reset between two queries is reported as the system's error, not as asyncio's "Connection lost"."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = OURS[Connection](host="127.0.0.1", port=listening.getsockname()[1])
        await connection.open()
        peer, _ = listening.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(ConnectionResetError) as caught:
        await connection.send_command("PING")
    assert caught.value.errno == errno.ECONNRESET
