"""Shards whose columns differ: those that most have hold, and the odd one is named, however few shards a read asks."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

from labkit import CLASSIC, ShardReader, Status
from labkit.errors import ShardUnavailable, UsageError
from labkit.shards import MemoryShard
from tests.support.mocks import in_time

NEW = "its columns differ from the other shards': n is missing, nn is extra"


def table(first, **columns):
    """Ten rows from an ID on."""
    values = {name: pa.array([value] * 10) for name, value in columns.items()}
    return pa.table({"id": list(range(first, first + 10)), **values})


class Described(MemoryShard):
    """Counts how often it is asked for its columns; `hangs` until cancelled."""

    def __init__(self, *args, hangs=False, **options):
        super().__init__(*args, **options)
        self.described, self.hangs = 0, hangs

    async def describe(self, deadline):
        self.described += 1
        if self.hangs:
            await asyncio.Event().wait()
        return await super().describe(deadline)


def reader_of(one, two, three, **options):
    return ShardReader(CLASSIC, {1: one, 2: two, 3: three}, **options)


def drifted(**options):
    """The second shard has renamed its column."""
    return reader_of(Described(table(1, n=7)), Described(table(11, nn=7)), Described(table(21, n=7)), **options)


async def test_the_odd_shard_is_named_also_when_it_is_asked_alone():
    """A bounded read, a page, a single row and a watch of a reader that knows nothing yet."""
    ways = (
        lambda reader: reader.read(11, 15),
        lambda reader: reader.page(3, after=10, high=15),
        lambda reader: anext(reader.watch(11, 15)),
    )
    for way in ways:
        async with drifted() as reader:
            result = await way(reader)
            assert (result.reports[2].status, result.reports[2].error) == (Status.INVALID, NEW)
            assert result.missing == ((11, 15),)
            assert result.table.num_rows == 0
    async with drifted() as reader:
        with pytest.raises(ShardUnavailable, match="nn is extra"):
            await reader.get(12)


async def test_only_columns_that_are_asked_for_must_agree():
    """The column that was renamed need not be read."""
    shards = [Described(table(first, n=7, kept="a")) for first in (1, 21)]
    other = Described(table(11, nn=7, kept="a"))
    async with reader_of(shards[0], other, shards[1]) as reader:
        assert (await reader.read(columns=["kept"])).complete
        assert await reader.get(12, columns=["kept"]) == {"id": 12, "kept": "a"}
        assert (await reader.read(columns=["n"])).missing == ((11, 20), (41, 50))


async def test_of_equally_many_the_first_shards_columns_hold():
    """In the router's order; the others are invalid."""
    async with reader_of(
        MemoryShard(table(1, n=7)), MemoryShard(table(11, n="7")), MemoryShard(table(21, n=7.0))
    ) as reader:
        result = await reader.read()
    assert result.table.schema.names == ["id", "n"]
    assert [report.error for report in result.reports.values()] == [
        None,
        "its columns differ from the other shards': n is string, not int64",
        "its columns differ from the other shards': n is double, not int64",
    ]


async def test_columns_in_another_order_agree():
    """A migration that adds a column at another place changes no meaning."""
    one, two = table(1, a=1, b=2), table(11, a=1, b=2).select(["id", "b", "a"])
    async with reader_of(MemoryShard(one), MemoryShard(two), MemoryShard(table(21, a=1, b=2))) as reader:
        result = (await reader.read()).raise_for_missing()
    assert result.table.schema.names == ["id", "a", "b"]


async def test_a_shard_is_asked_once_for_its_columns():
    """The second read of a reader knows them, as long as they agree."""
    async with reader_of(*(Described(table(first, n=7)) for first in (1, 11, 21))) as reader:
        for _ in range(3):
            await reader.read(1, 5)
        assert [shard.described for shard in reader.shards.values()] == [0, 1, 1]


async def test_a_shard_that_hangs_is_waited_for_once():
    """Pages that do not need its rows are not held up again and again, and are complete."""
    hanging = Described(table(21, n=7), hangs=True)
    async with reader_of(Described(table(1, n=7)), Described(table(11, n=7)), hanging, timeout=0.4) as reader:
        pages = [page async for page in reader.pages(2, low=1, high=20)]
    assert sum(page.raise_for_missing().table.num_rows for page in pages) == 20
    assert hanging.described == 1


async def test_a_column_that_no_shard_has_is_the_callers_mistake():
    """It is refused with those there are, whatever shards are asked."""
    async with drifted() as reader:
        with pytest.raises(UsageError, match="unknown column 'm'; expected one of id, nn, n"):
            await reader.read(1, 5, columns=["m"])


async def test_errors_of_ids_name_the_key():
    """A table has its own name for them."""
    twice = pa.table({"order_id": [11, 11]})
    foreign = pa.table({"order_id": [25]})
    for rows, said in ((twice, "order_id 11 is there twice"), (foreign, "order_id 25 is outside the ranges asked")):
        async with reader_of(*(MemoryShard(rows if shard == 2 else rows.slice(0, 0)) for shard in (1, 2, 3))) as reader:
            assert said in (await reader.read()).reports[2].error


class Hanging(Described):
    """Answers neither for rows nor for its columns, and heeds no deadline."""

    async def read(self, ask):
        await asyncio.Event().wait()


async def test_a_read_that_nobody_answers_is_not_held_up_by_columns_and_filters():
    """What would have to be asked for, to say whether they fit, is not asked for once the time is over."""
    reader = reader_of(*(Hanging(table(first, n=7), hangs=True) for first in (1, 11, 21)), timeout=0.3)
    async with reader:
        result = await in_time(reader.read(columns=["m"], filters=[("n", ">", 3)]), 0.3)
    assert result.missing == ((1, 60),)
    assert [shard.described for shard in reader.shards.values()] == [0, 0, 0]
