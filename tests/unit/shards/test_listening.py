"""How shards hear of changes: LISTEN on a scripted driver, keyspace notifications from tiny servers with real bytes."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from asyncpg import exceptions as pg

from labkit.report import Status
from labkit.shards.base import Ask, ShardFailure
from labkit.shards.failures import classify
from labkit.shards.postgres import PostgresShard, change_trigger
from labkit.shards.postgres.changes import listen_on, quote_identifier
from labkit.shards.redis import RedisShard
from tests.support.mocks import (
    HANG,
    SECRET,
    TIMEOUT,
    closed_port,
    eventually,
    pg_refusal,
    resp_command,
    serving,
    silent,
)

pytestmark = pytest.mark.usefixtures("no_task_left")

HOUR = 3600.0
SOON = 0.02
TELLS, SILENT, OTHER = {"oid": 7, "tells": True}, {"oid": 7, "tells": False}, {"oid": 8, "tells": True}


class Raw:
    """The part of asyncpg's connection that a listener uses; `states` answer its beats, the last one repeatedly."""

    def __init__(self, *states):
        self.states = list(states)
        self.terminated = asyncio.Event()
        self.hear = None
        self.gone = None
        self.asked = []

    def add_termination_listener(self, callback):
        self.gone = callback

    async def add_listener(self, channel, callback):
        self.channel, self.hear = channel, callback

    async def fetchrow(self, sql, *parameters):
        self.asked.append(parameters)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state is HANG:
            await self.terminated.wait()
            raise pg.ConnectionDoesNotExistError("closed in the middle of operation")
        return state

    def terminate(self):
        self.terminated.set()


@contextlib.asynccontextmanager
async def listening(raw, beat=HOUR, patience=TIMEOUT, table="data_1"):
    """Yields the listening task and a list that grows by one with each notification."""
    heard = []
    task = asyncio.create_task(listen_on(raw, table, lambda: heard.append(None), beat, patience))
    try:
        yield task, heard
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_first_news_come_when_it_listens():
    """The first notification comes once LISTEN is active, so a read made after it misses no change."""
    raw = Raw(TELLS)
    async with listening(raw) as (_, heard):
        assert heard == []
        await eventually(lambda: heard)
        assert raw.hear is not None
        assert raw.channel == "labkit_changes"


async def test_it_hears_of_its_own_table_only():
    """A notification carries the table's OID; those of other tables on the channel are ignored."""
    raw = Raw(TELLS)
    async with listening(raw) as (_, heard):
        await eventually(lambda: heard)
        raw.hear(raw, 1, raw.channel, "8")
        assert len(heard) == 1
        raw.hear(raw, 1, raw.channel, "7")
        assert len(heard) == 2


async def test_a_table_that_does_not_tell_is_news_at_every_beat():
    """Without the trigger nothing is known, so every beat counts as a change."""
    async with listening(Raw(SILENT), beat=SOON) as (_, heard):
        await eventually(lambda: len(heard) >= 4)


async def test_a_table_that_tells_is_no_news_at_a_beat():
    """With the trigger a beat only checks that the connection is alive."""
    raw = Raw(TELLS)
    async with listening(raw, beat=SOON) as (_, heard):
        await eventually(lambda: len(raw.asked) >= 4)
        assert len(heard) == 1


async def test_another_table_of_that_name_is_news():
    """A dropped, renamed or replaced table sends no notification: a beat detects it."""
    raw = Raw(TELLS, TELLS, OTHER)
    async with listening(raw, beat=SOON) as (_, heard):
        await eventually(lambda: len(heard) == 2)
        raw.hear(raw, 1, raw.channel, "8")
        assert len(heard) == 3


async def test_the_end_of_the_connection_is_the_end_of_listening():
    """A closed connection ends listening at once, not at the next beat."""
    raw = Raw(TELLS)
    async with listening(raw) as (task, heard):
        await eventually(lambda: heard)
        raw.gone(raw)
        await eventually(task.done)
        assert classify(task.exception())[0] is Status.DISCONNECTED


async def test_a_beat_without_an_answer_is_a_timeout():
    """A frozen server keeps its connection open; the unanswered beat ends listening with a timeout."""
    raw = Raw(TELLS, HANG)
    async with listening(raw, beat=SOON) as (task, _):
        await eventually(task.done)
        assert classify(task.exception()) == (Status.TIMEOUT, "no answer before the deadline")
        assert raw.terminated.is_set()


@pytest.mark.parametrize(
    ("table", "sql"), [("data_1", '"data_1"'), ("lab.data", '"lab"."data"'), ('x"; y', '"x""; y"')]
)
async def test_names_are_quoted(table, sql):
    """Table names are quoted in the trigger's SQL and in the beat's query."""
    assert quote_identifier(table) == sql
    assert f" ON {sql}\n" in change_trigger(table)
    raw = Raw(TELLS)
    async with listening(raw, table=sql) as (_, heard):
        await eventually(lambda: heard)
    assert raw.asked[0] == (sql,)


def a_postgres(port=1):
    shard = PostgresShard(f"postgresql://reader:{SECRET}@127.0.0.1:{port}/lab?ssl=disable", "data_1")
    shard.prepare(TIMEOUT)
    return shard


async def failure_of(shard):
    with pytest.raises((ShardFailure, TimeoutError, OSError)) as caught:
        await shard.listen(lambda: None, HOUR)
    return classify(caught.value)[0]


async def test_postgres_listens_beside_the_pool(postgres):
    """Listening takes no pool slot from reads, and cancelling it closes its socket."""
    postgres.listener_states = [TELLS]
    shard = PostgresShard(f"postgresql://reader:{SECRET}@127.0.0.1:1/lab", "data_1", pool_size=1)
    heard = []
    task = asyncio.create_task(shard.listen(lambda: heard.append(None), HOUR))
    await eventually(lambda: heard)
    deadline = asyncio.get_running_loop().time() + TIMEOUT
    assert await shard.read(Ask(((1, 10),), 1, 10, deadline)) == []
    task.cancel()
    await asyncio.wait([task])
    assert [connection.terminated > 0 for connection in postgres.connections] == [True, False]
    await shard.aclose()


async def test_a_postgres_that_is_not_there_cannot_be_listened_to(postgres):
    """Connection failures have the same statuses as in a read: UNREACHABLE, TIMEOUT or REJECTED."""
    for trouble, status in (
        (ConnectionRefusedError(111, "refused"), Status.UNREACHABLE),
        (HANG, Status.TIMEOUT),
        (pg.InvalidPasswordError("no"), Status.REJECTED),
        (pg.CannotConnectNowError("starting up"), Status.UNREACHABLE),
    ):
        postgres.on_connect = trouble
        assert await failure_of(a_postgres()) is status


async def test_a_postgres_that_closes_ends_the_listening(postgres):
    """With real SQLAlchemy on a scripted driver, the driver's error for a closed connection is `disconnected`."""
    postgres.listener_states = [pg.ConnectionDoesNotExistError("connection was closed in the middle of operation")]
    assert await failure_of(a_postgres()) is Status.DISCONNECTED


async def test_a_real_driver_that_is_turned_away():
    """With the real asyncpg and real bytes, a refusal is `rejected`."""
    async with serving(pg_refusal("53300", "sorry, too many clients already")) as port:
        assert await failure_of(a_postgres(port)) is Status.REJECTED


class Server:
    """A Redis server with a subscriber: it records commands, `tell` notifies, `refuses` answers SUBSCRIBE."""

    def __init__(self, refuses=b"", deaf=False):
        self.commands = []
        self.refuses, self.deaf = refuses, deaf
        self.writer = None

    async def __call__(self, reader, writer):
        self.writer = writer
        while True:
            command = await resp_command(reader)
            self.commands.append(command)
            name = command[0]
            if name == b"SELECT":
                said = b"+OK\r\n"
            elif name == b"SUBSCRIBE":
                said = self.refuses or b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (len(command[1]), command[1])
            elif self.deaf:
                continue
            else:
                subscribed = any(words[0] == b"SUBSCRIBE" for words in self.commands)
                said = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n" if subscribed else b"+PONG\r\n"
            writer.write(said)
            await writer.drain()

    def tell(self, event):
        key = b"__keyspace@2__:data_1"
        words = (b"message", key, event)
        self.writer.write(b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))


@contextlib.asynccontextmanager
async def redis_listening(server, beat=HOUR):
    async with serving(server) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/2", "data_1")
        shard.prepare(TIMEOUT)
        heard = []
        task = asyncio.create_task(shard.listen(lambda: heard.append(None), beat))
        try:
            yield SimpleNamespace(task=task, heard=heard, shard=shard)
        finally:
            task.cancel()
            await asyncio.wait([task])
            await shard.aclose()


async def test_redis_subscribes_to_its_key_in_its_database():
    """The first notification confirms the subscription; then there is one per event."""
    server = Server()
    async with redis_listening(server) as it:
        await eventually(lambda: it.heard)
        assert server.commands[-1] == [b"SUBSCRIBE", b"__keyspace@2__:data_1"]
        for number, event in enumerate((b"zadd", b"zrem", b"del"), start=2):
            server.tell(event)
            await eventually(lambda n=number: len(it.heard) == n)


async def test_who_may_not_subscribe_is_told_so():
    """A refused subscription ends listening with `rejected`, in the server's words."""
    async with redis_listening(Server(refuses=b"-NOPERM no permissions to access a channel\r\n")) as it:
        await eventually(it.task.done)
        assert classify(it.task.exception()) == (Status.REJECTED, "no permissions to access a channel")


async def test_a_beat_asks_a_quiet_redis_for_a_sign_of_life():
    """Beats ping the server; a pong is not a notification."""
    server = Server()
    async with redis_listening(server, beat=SOON) as it:
        await eventually(lambda: [words[0] for words in server.commands].count(b"PING") >= 3)
        assert len(it.heard) == 1
        server.tell(b"zadd")
        await eventually(lambda: len(it.heard) == 2)


async def test_a_redis_without_a_sign_of_life_is_a_timeout():
    """A frozen server keeps its connection open; the unanswered ping ends listening with a timeout."""
    async with redis_listening(Server(deaf=True), beat=SOON) as it:
        await eventually(it.task.done)
        assert classify(it.task.exception())[0] is Status.TIMEOUT


async def test_a_redis_that_hangs_up_ends_the_listening():
    """A closed connection ends listening at once, not at the next beat."""
    server = Server()
    async with redis_listening(server) as it:
        await eventually(lambda: it.heard)
        server.writer.close()
        await eventually(it.task.done)
        assert classify(it.task.exception())[0] is Status.DISCONNECTED


async def test_a_redis_that_is_not_there_cannot_be_listened_to():
    """A refused connection is UNREACHABLE; a connection on which nothing answers is a TIMEOUT."""
    shard = RedisShard(f"redis://127.0.0.1:{await closed_port()}/0", "data_1")
    assert await failure_of(shard) is Status.UNREACHABLE
    async with serving(silent) as port:
        shard = RedisShard(f"redis://127.0.0.1:{port}/0", "data_1")
        shard.prepare(TIMEOUT)
        assert await failure_of(shard) is Status.TIMEOUT


async def test_who_listened_leaves_a_connection_that_reads():
    """The subscribed connection does not return to the pool, so no read can take a message for its answer."""
    server = Server()
    async with redis_listening(server) as it:
        await eventually(lambda: it.heard)
        it.task.cancel()
        await asyncio.wait([it.task])
        assert not it.shard._server._pools.here()._all
