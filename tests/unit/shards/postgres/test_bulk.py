"""The bulk path of `PostgresShard`: when it is taken. Failures, deadlines and cancellation are as on the small path."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import sqlalchemy as sa
from asyncpg import exceptions as pg

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import UsageError
from labkit.report import Status
from labkit.shards.base import Ask
from labkit.shards.postgres import BULK, PostgresShard
from tests.support.mocks import HANG, TIMEOUT, copy_binary, eventually, in_time, read_alone, report_of

pytestmark = pytest.mark.usefixtures("no_task_left")

ROWS = [(1, "Test 1"), (2, None), (10, "")]
URL = "postgresql://reader@127.0.0.1:1/lab"


def a_shard(table="data_1", **kwargs):
    return PostgresShard(URL, table, **kwargs)


def asked_by_copy(postgres):
    """For each query, whether it was a COPY."""
    return [sql.startswith("COPY") for sql, _ in postgres.asked]


@pytest.mark.parametrize(
    ("bulk", "owned", "by_copy"),
    [
        (None, (1, BULK - 1), False),
        (None, (1, BULK), True),
        (None, (INT64_MIN, INT64_MAX), True),
        (True, (1, 10), True),
        (False, (1, INT64_MAX), False),
    ],
)
async def test_the_path_is_chosen_by_size_or_asked_for(postgres, bulk, owned, by_copy):
    """COPY is used for windows with enough IDs, or always, or never; the rows are the same."""
    postgres.replies = [ROWS]
    result = await read_alone(a_shard(bulk=bulk), owned=owned)
    assert asked_by_copy(postgres) == [by_copy]
    assert [tuple(row.values()) for row in result.table.to_pylist()] == ROWS


@pytest.mark.parametrize(("limit", "by_copy"), [(BULK - 1, False), (BULK, True)])
async def test_a_page_is_as_large_as_its_limit(postgres, limit, by_copy):
    """A page of a wide range counts by its limit: a small one is a small read."""
    shard = a_shard()
    deadline = asyncio.get_running_loop().time() + TIMEOUT
    await shard.read(Ask(((1, INT64_MAX),), 1, INT64_MAX, deadline, limit=limit))
    assert asked_by_copy(postgres) == [by_copy]
    await shard.aclose()


@pytest.mark.parametrize("bulk", ["yes", 1.5, 2])
def test_another_choice_is_refused(bulk):
    """Any other value is a clear error that names it."""
    with pytest.raises(UsageError, match=r"bulk must be True, False or None .*, not " + repr(bulk)):
        a_shard(bulk=bulk)


async def test_bounds_are_written_into_the_copy(postgres):
    """COPY takes no parameters, so bounds are written as quoted and cast numbers."""
    await read_alone(a_shard(bulk=True), INT64_MIN, 7, owned=(INT64_MIN, 7))
    sql, parameters = postgres.asked[0]
    assert sql == (
        "COPY (SELECT id, name FROM data_1 "
        "WHERE id >= '-9223372036854775808'::BIGINT AND id <= '7'::BIGINT ORDER BY id) binary"
    )
    assert parameters == ()


ODD = [
    ('x"; drop table y; --', 'FROM "x""; drop table y; --" '),
    ("100%d", 'FROM "100%d" '),
    ("%(low)s", 'FROM "%(low)s" WHERE id '),
    (":low", 'FROM ":low" '),
    ("$1", 'FROM "$1" '),
    ("a.b", "FROM a.b "),
    ("Größe", 'FROM "Größe" '),
    (sa.Table("a.b", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("name", sa.Text)), 'FROM "a.b" '),
]


@pytest.mark.parametrize(("table", "quoted"), ODD)
async def test_an_odd_name_is_quoted_in_the_copy_as_well(postgres, table, quoted):
    """An unusual table name is quoted, so it cannot become SQL, and nothing in it is taken for a parameter."""
    for bulk in (True, False):
        await read_alone(a_shard(table, bulk=bulk), 1, 10)
    assert [quoted in sql for sql, _ in postgres.asked] == [True, True]


@pytest.mark.parametrize("bulk", [True, False])
async def test_columns_with_odd_names(postgres, bulk):
    """Unusual column names are quoted too, and nothing in them is taken for a parameter."""
    postgres.types = {"%(low)s": 23, ":high $1": 25}
    await read_alone(a_shard(bulk=bulk, key="%(low)s"), 1, 10)
    sql = postgres.asked[0][0]
    assert '"%(low)s", ":high $1"' in sql
    assert 'FROM data_1 WHERE "%(low)s" >= ' in sql


@pytest.mark.parametrize("bulk", [True, False])
async def test_bounds_of_numpy_and_of_others_are_sent_as_pythons(postgres, bulk):
    """Anything with `__index__` is accepted as a bound and sent as a Python int."""

    class Five:
        def __index__(self):
            return 5

    shard = a_shard(bulk=bulk)
    for low in (np.int64(5), np.uint8(5), Five()):
        await shard.read(Ask(((5, 9),), low, 9, asyncio.get_running_loop().time() + TIMEOUT))
    await shard.aclose()
    for sql, parameters in postgres.asked:
        assert "'5'::BIGINT" in sql if bulk else (parameters == (5, 9) and type(parameters[0]) is int)


@pytest.mark.parametrize("bulk", [True, False])
async def test_a_table_of_sqlalchemy_says_what_its_columns_are_called(postgres, bulk):
    """Schema, table and column names are taken from a SQLAlchemy table, but not its types."""
    people = sa.Table("people", sa.MetaData(), sa.Column("nr", sa.SmallInteger), sa.Column("full name", sa.String(80)),
                      sa.Column("more", sa.Date), schema="town")  # fmt: skip
    postgres.types = {"nr": 21, "full name": 25, "more": 1082}
    shard = a_shard(people, key="nr", columns=["full name"], bulk=bulk)
    assert shard.table == "town.people"
    await read_alone(shard, 3, 7)
    sql = postgres.asked[0][0]
    assert 'nr, "full name"' in sql
    assert "FROM town.people WHERE nr >= " in sql
    assert "::BIGINT" in sql, "a bound may exceed a smallint"


def test_a_column_that_the_table_does_not_have():
    """An unknown column is a clear error that names the column, the table and its columns."""
    people = sa.Table("people", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("nick", sa.Text))
    with pytest.raises(UsageError, match="table 'people' has no column 'name': it has id, nick"):
        a_shard(people, columns=["name"])


@pytest.mark.parametrize("width", [21, 23, 20])
async def test_ids_of_every_width(postgres, width):
    """IDs of type smallint, integer and bigint are decoded."""
    postgres.types["id"] = width
    postgres.replies = [ROWS]
    assert (await read_alone(a_shard(bulk=True))).table.num_rows == len(ROWS)


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (pg.UndefinedTableError('relation "data_1" does not exist'), Status.REJECTED),
        (pg.AdminShutdownError("terminating connection"), Status.DISCONNECTED),
        (pg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), Status.DISCONNECTED),
        (pg.QueryCanceledError("canceling statement due to statement timeout"), Status.TIMEOUT),
        (ConnectionResetError(104, "reset"), Status.DISCONNECTED),
    ],
)
async def test_failures_are_the_same_on_both_paths(postgres, bulk, error, status):
    """Status and error text do not depend on the path; the connection is not reused."""
    postgres.replies = [error, ROWS]
    shard = a_shard(bulk=bulk)
    report = await report_of(shard)
    assert report.status is status
    assert report.error == ("connection reset by peer" if isinstance(error, OSError) else str(error))
    assert postgres.connections[0].terminated
    assert (await report_of(shard)).status is Status.OK
    assert len(postgres.connections) == 2


async def test_a_copy_that_never_comes_is_cut_at_the_deadline(postgres):
    """As on the small path, a hanging COPY is cut at the deadline, and the next read has a new connection."""
    postgres.replies = [HANG, ROWS]
    shard = a_shard(bulk=True)
    report = await report_of(shard, seconds=TIMEOUT)
    assert (report.status, report.error) == (Status.TIMEOUT, "no answer before the deadline")
    await eventually(lambda: postgres.connections[0].terminated > 0)
    assert (await report_of(shard)).status is Status.OK


async def test_a_caller_who_leaves_cuts_the_copy(postgres):
    """A cancelled read cuts its connection, on which rows would still arrive."""
    postgres.replies = [HANG]
    reading = asyncio.create_task(read_alone(a_shard(bulk=True), seconds=5.0))
    await eventually(lambda: bool(postgres.asked))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await in_time(reading)
    await eventually(lambda: postgres.connections[0].terminated > 0)


@pytest.mark.parametrize(
    "stream", [b"", b"no rows at all, but longer than the header", b"".join(copy_binary(ROWS))[:-9]]
)
async def test_a_stream_that_is_none_is_invalid(postgres, stream):
    """A malformed stream is INVALID, and the connection is not reused."""
    postgres.replies = [stream, ROWS]
    shard = a_shard(bulk=True)
    assert (await report_of(shard)).status is Status.INVALID
    assert postgres.connections[0].terminated
    assert (await report_of(shard)).status is Status.OK


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([(2, "b"), (1, "a")], "id 1 comes after 2"),
        ([(1, "a"), (1, "b")], "id 1 is there twice"),
        ([(1, "a"), (11, "b")], "id 11 is outside the ranges asked of this shard"),
    ],
)
async def test_what_a_server_may_not_send_is_found_out_on_both_paths(postgres, rows, cause):
    """A bulk answer is checked in the same way as one of the small path."""
    for bulk in (True, False):
        postgres.replies = [rows]
        report = await report_of(a_shard(bulk=bulk))
        assert (report.status, report.error) == (Status.INVALID, cause)
