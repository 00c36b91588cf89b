"""Tables of any columns on Postgres: every way of reading gives what psycopg reads, filters and aggregates included."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from labkit import CLASSIC, Lab, ShardReader, faults
from labkit._filters import as_filters, fitted, kept
from labkit.aggregates import Aggregate, avg, count, max_, min_, partial_of, sum_, top
from labkit.lab.backends.tables import SYSTEM
from labkit.shards import PostgresShard
from labkit.tables import NUMBER, are_same, is_number, to_json
from tests.server.test_bulk import awkward, texts

SETTINGS = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
PARTS = """CASE WHEN {0} IS NOT NULL THEN ARRAY[
    extract(year from {0}) * 12 + extract(month from {0}), extract(day from {0}),
    extract(hour from {0}) * 3600 + extract(minute from {0}) * 60 + extract(second from {0})]::int[] END"""
"""Months, days and seconds of an interval: psycopg makes 30 days of a month."""
TABLE = 'Or "ders" %s'
UTC = pa.timestamp("us", "UTC")
INTERVAL = pa.month_day_nano_interval()
text = texts | awkward.filter(lambda value: value is not None)
moments = st.datetimes().map(str) | st.sampled_from(["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"])
spans = st.tuples(*[st.integers(-99, 99)] * 3).map(lambda parts: "{} months {} days {} s".format(*parts))
zones = st.sampled_from(["+00", "-11:30", "+14", "+05:45"])


@dataclass(frozen=True)
class Kind:
    """A type of Postgres: values as the server reads them, the Arrow type, and how psycopg is asked for it."""

    sql: str
    values: st.SearchStrategy[Any]
    type: pa.DataType
    cast: str = ""
    """The type that psycopg reads, where it does not know this one."""
    field: Any = None


def array_of(element: Kind) -> Kind:
    """An array of one dimension, given as a list."""
    values = st.lists(st.none() | element.values, max_size=3)
    return Kind(f"{element.sql}[]", values, pa.list_(element.type), "text[]" if element.type == TEXT else "")


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    return (st.integers(low, high) | st.sampled_from([low, -1, 0, 1, high])).map(str)


TEXT = pa.large_string()
SMALLINT, INTEGER, BIGINT = (
    Kind(name, numbers(-(2**bits), 2**bits - 1), kind)
    for name, bits, kind in (("smallint", 15, pa.int16()), ("integer", 31, pa.int32()), ("bigint", 63, pa.int64()))
)
REAL = Kind("real", st.floats(width=32).map(repr), pa.float32())
DOUBLE = Kind("double precision", st.floats().map(repr), pa.float64())
PRICE = Kind("numeric(12,2)", st.decimals(-(10**10) + 1, 10**10 - 1, places=2).map(str), pa.decimal128(12, 2))
WIDE = Kind("numeric(38,10)", st.decimals(-(10**28) + 1, 10**28 - 1, places=10).map(str), pa.decimal128(38, 10))
EXACT = Kind(
    "numeric",
    (st.decimals(-(10**30), 10**30, places=20) | st.integers(-9, 9)).map(str) | st.just("NaN"),
    TEXT,
    cast="text",
    field=NUMBER,
)
BOOLEAN = Kind("boolean", st.booleans().map(str), pa.bool_())
STRING = Kind("text", text, TEXT)
VARCHAR = Kind("varchar(40)", text, TEXT)
BYTEA = Kind("bytea", st.binary(max_size=5).map(lambda raw: f"\\x{raw.hex()}"), pa.large_binary())
DATE = Kind("date", st.dates().map(str), pa.date32())
TIME = Kind("time", st.times().map(str), pa.time64("us"))
TIMESTAMP = Kind("timestamp", moments, pa.timestamp("us"))
TIMESTAMPTZ = Kind(
    "timestamptz",
    st.tuples(moments.filter(lambda at: not at.startswith(("0001", "9999"))), zones).map("".join),
    UTC,
)
UUID = Kind("uuid", st.uuids().map(str), TEXT, cast="text")
MOOD = Kind("mood", st.sampled_from(["sad", "ok", "happy \U0001f600", "it's"]), TEXT)
KINDS = [
    SMALLINT, INTEGER, BIGINT, REAL, DOUBLE, PRICE, WIDE, EXACT, BOOLEAN, STRING, VARCHAR, BYTEA, DATE, TIME, TIMESTAMP,
    TIMESTAMPTZ, UUID, MOOD,
    Kind("char(5)", st.text("ab \u00e9", max_size=5), TEXT),
    Kind("name", texts.map(lambda value: value[:15]), TEXT),
    Kind("price", PRICE.values, pa.decimal128(12, 2)),
    Kind("interval", spans, INTERVAL),
    Kind("json", texts.map(json.dumps), TEXT, "text"),
    Kind("jsonb", st.integers().map(lambda value: f'{{"a": [{value}]}}'), TEXT, "text"),
    Kind("int4range", st.integers(0, 99).map(lambda value: f"[{value},{value + 5})"), TEXT, "text"),
    *map(array_of, (INTEGER, STRING, PRICE, TIMESTAMPTZ, BOOLEAN, DOUBLE, MOOD)),
]  # fmt: skip
ORDERED = [kind for kind in KINDS if not pa.types.is_nested(kind.type) and kind.type != INTERVAL]
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in SYSTEM
)


@dataclass(frozen=True)
class Drawn:
    """A table: its columns by name, the key first, and its rows as the server reads them."""

    columns: dict[str, Kind]
    rows: list[tuple[Any, ...]]


@st.composite
def tables(draw: st.DrawFn, kinds: list[Kind] = KINDS, most: int = 30) -> Drawn:
    """1 to 30 columns of random types with names that need quoting; NULLs anywhere but in the key."""
    called = draw(st.lists(names, min_size=1, max_size=most, unique=True))
    key = draw(st.sampled_from([SMALLINT, INTEGER, BIGINT]))
    columns = {name: draw(st.sampled_from(kinds)) if place else key for place, name in enumerate(called)}
    ids = draw(st.lists(st.integers(1, 60), max_size=8, unique=True))
    others = list(columns.values())[1:]
    return Drawn(columns, [(i, *(draw(st.none() | kind.values) for kind in others)) for i in ids])


def created(connection: psycopg.Connection[Any], drawn: Drawn, shard: int) -> None:
    """Creates the table and the rows of one shard."""
    table = sql.Identifier(TABLE)
    kinds = [sql.SQL(kind.sql) for kind in drawn.columns.values()]  # type: ignore[arg-type]
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(name), kind) for name, kind in zip(drawn.columns, kinds, strict=True)
    ]
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
    connection.execute(
        sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
            table, sql.SQL(", ").join(columns), sql.Identifier(next(iter(drawn.columns)))
        )
    )
    for row in drawn.rows:
        if CLASSIC.locate(row[0]) == shard:
            values = [
                sql.SQL("{}::text[]::{}" if isinstance(value, list) else "{}::text::{}").format(
                    sql.Literal(value if isinstance(value, list | None) else str(value)), kind
                )
                for value, kind in zip(row, kinds, strict=True)
            ]
            connection.execute(sql.SQL("INSERT INTO {} VALUES ({})").format(table, sql.SQL(", ").join(values)))


def truth_of(connections: list[psycopg.Connection[Any]], drawn: Drawn) -> pa.Table:
    """All rows as psycopg reads them, in the Arrow types that labkit promises."""
    wanted = [
        sql.SQL(PARTS if kind.type == INTERVAL else f"{{0}}::{kind.cast}" if kind.cast else "{0}").format(
            sql.Identifier(name)
        )
        for name, kind in drawn.columns.items()
    ]
    select = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(wanted), sql.Identifier(TABLE))
    rows = sorted((row for one in connections for row in one.execute(select).fetchall()), key=lambda row: row[0])
    fields, columns = [], []
    for place, (name, kind) in enumerate(drawn.columns.items()):
        values = [row[place] for row in rows]
        if kind.type == INTERVAL:
            values = [None if parts is None else (parts[0], parts[1], parts[2] * 10**9) for parts in values]
        fields.append(pa.field(name, kind.type if place else pa.int64(), metadata=kind.field))
        columns.append(pa.array(values, fields[-1].type))
    return pa.table(columns, schema=pa.schema(fields))


def reader_of(lab: Lab, drawn: Drawn, **options: Any) -> ShardReader:
    key = next(iter(drawn.columns))
    shards = {n: PostgresShard(lab.urls[n], TABLE, key=key, **options) for n in CLASSIC.shards}
    return ShardReader(CLASSIC, shards, timeout=5.0)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[asyncio.Runner, Lab, list[psycopg.Connection[Any]]]]:
    """A lab, the loop to read it on, and a connection to each shard."""
    with asyncio.Runner() as runner:
        lab = Lab("postgres", launcher="embedded")
        runner.run(lab.start())
        connections = [
            psycopg.connect(lab.dsn(n, "psycopg"), autocommit=True, prepare_threshold=None) for n in CLASSIC.shards
        ]
        try:
            for connection in connections:
                connection.execute(
                    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy \U0001f600', 'it''s');"
                    "CREATE DOMAIN price AS numeric(12,2)"
                )
            yield runner, lab, connections
        finally:
            for connection in connections:
                connection.close()
            runner.run(lab.stop())


async def every_way(lab: Lab, drawn: Drawn, size: int) -> list[pa.Table]:
    """The table by COPY, by SELECT, in pages, in batches, as a watch sees it first, and by columns in another order."""
    found = []
    for bulk in (True, False):
        async with reader_of(lab, drawn, bulk=bulk) as reader:
            found.append((await reader.read()).raise_for_missing().table)
    async with reader_of(lab, drawn) as reader:
        found.append(pa.concat_tables([page.raise_for_missing().table async for page in reader.pages(size)]))
        async with reader.stream(batch=size) as stream:
            batches = [batch async for batch in stream]
        stream.raise_for_missing()
        found.append(pa.Table.from_batches(batches, found[0].schema))
        watch = reader.watch(interval=60)
        found.append((await anext(watch)).raise_for_missing().table)
        await watch.aclose()
        backwards = list(reversed(drawn.columns))
        some = (await reader.read(columns=backwards)).raise_for_missing().table
        assert some.schema.names == [backwards[-1], *backwards[:-1]]
        found.append(some.select(list(drawn.columns)))
    return found


def test_every_way_gives_what_psycopg_reads(served: Any) -> None:
    """Random tables of 1 to 30 columns of all types: odd names, NULLs, awkward text, extreme numbers, zones, arrays."""
    runner, lab, connections = served

    @SETTINGS
    @given(tables(), st.integers(1, 5))
    def same(drawn: Drawn, size: int) -> None:
        for shard, connection in enumerate(connections, start=1):
            created(connection, drawn, shard)
        truth = truth_of(connections, drawn)
        for table in runner.run(every_way(lab, drawn, size)):
            assert table.schema.equals(truth.schema)
            assert are_same(table, truth)
            assert to_json(table) == to_json(truth)

    same()


OPERATORS = ["=", "!=", "<", "<=", ">", ">=", "in", "not in", "is null", "is not null"]


def condition(draw: st.DataObject, truth: pa.Table, field: pa.Field) -> tuple[Any, ...]:
    """A filter on a column, with values from it if there are any."""
    known = [value for value in truth.column(field.name).to_pylist() if value is not None]
    if is_number(field):
        known = [Decimal(value) for value in known]
    operator = draw.draw(st.sampled_from(OPERATORS if known else OPERATORS[-2:]))
    if operator in OPERATORS[-2:]:
        return field.name, operator
    if operator in ("in", "not in"):
        return field.name, operator, draw.draw(st.lists(st.sampled_from(known), max_size=3))
    return field.name, operator, draw.draw(st.sampled_from(known))


def test_filters_and_aggregates_mean_the_same_on_the_server_and_here(served: Any) -> None:
    """Of random tables, filters, and shards down: the rows that Arrow keeps, and the values that it computes."""
    runner, lab, connections = served

    @SETTINGS
    @given(tables(ORDERED, 6), st.data())
    def same(drawn: Drawn, draw: st.DataObject) -> None:
        for shard, connection in enumerate(connections, start=1):
            created(connection, drawn, shard)
        truth = truth_of(connections, drawn)
        fields = st.sampled_from([field for field in truth.schema if not drawn_nan(truth, field)] or [truth.schema[0]])
        filters = [
            [condition(draw, truth, draw.draw(fields)) for _ in range(draw.draw(st.integers(1, 2)))]
            for _ in range(draw.draw(st.integers(1, 2)))
        ]
        wanted = kept(truth, fitted(as_filters(filters), truth.schema))
        asked = [count(), *(aggregate for field in truth.schema for aggregate in of(field))]
        runner.run(compare(lab, drawn, filters, wanted, asked))

    same()


def drawn_nan(truth: pa.Table, field: pa.Field) -> bool:
    """Whether the column has NaN as text."""
    return is_number(field) and "NaN" in truth.column(field.name).to_pylist()


def of(field: pa.Field) -> list[Aggregate]:
    added = pa.types.is_integer(field.type) or pa.types.is_decimal(field.type) or is_number(field)
    return [min_(field.name), max_(field.name), top(2, field.name), *[sum_(field.name), avg(field.name)] * added]


async def compare(lab: Lab, drawn: Drawn, filters: Any, wanted: pa.Table, asked: list[Aggregate]) -> None:
    async with reader_of(lab, drawn) as reader:
        result = await reader.read(filters=filters)
        assert are_same(result.raise_for_missing().table, wanted)
        first = await reader.page(2, filters=filters)
        assert are_same(first.raise_for_missing().table, wanted.slice(0, 2))
        found = await reader.aggregate(*asked, filters=filters)
    alone = partial_of(wanted, asked)
    [*reports] = found[0].reports.values()
    assert [report.error for report in reports] == [None] * 3
    for place, one in enumerate(found):
        assert one.complete
        value = alone.values[place]
        match one.aggregate.kind:
            case "count":
                assert one.value == wanted.num_rows
            case "sum":
                assert equal(one.value, value[0])
            case "avg":
                assert equal(one.value, value[0] / Decimal(value[1]) if value[1] else None)
            case "top":
                key = wanted.schema.names[0]
                assert [row[key] for row in one.value] == value.column(0).to_pylist()
            case _:
                expected = value[0].as_py() if len(value) else None
                if expected is not None and is_number(wanted.schema.field(one.aggregate.column)):
                    expected = Decimal(expected)
                assert equal(one.value, expected)


def equal(value: Any, other: Any) -> bool:
    """Whether both are the same; NaN is."""
    return bool(value == other or (value != value and other != other))


UNREADABLE = {
    "numeric(12,2)": ("'NaN'", "row 1: value is NaN or infinity, which decimal128(12, 2) cannot hold"),
    "date": ("'infinity'", "row 1: value is infinity, or too far in the future, which date32[day] cannot hold"),
    "timestamptz": ("'-infinity'", "row 1: value is infinity, or too far in the future, which timestamp[us, tz=UTC]"),
    "time": ("'24:00'", "row 1: value is 24:00:00, which time64[us] cannot hold"),
    "int[]": ("'{{1},{2}}'", "row 1: value is an array of several dimensions, which int32 cannot hold"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_value_that_arrow_cannot_hold_is_named(served: Any, kind: str) -> None:
    """The shard is invalid, whichever way it is read, and other columns can still be read."""
    runner, lab, connections = served
    value, said = UNREADABLE[kind]
    connections[0].execute(f"DROP TABLE IF EXISTS odd; CREATE TABLE odd (id int PRIMARY KEY, value {kind}, other int)")
    connections[0].execute(f"INSERT INTO odd VALUES (1, {value}, 7)")

    async def read() -> None:
        for bulk in (True, False):
            async with ShardReader(CLASSIC, others(lab, "odd", bulk=bulk)) as reader:
                assert said in ((await reader.read()).reports[1].error or "")
                assert (await reader.read(1, 1, columns=["other"])).raise_for_missing().table["other"].to_pylist() == [
                    7
                ]

    runner.run(read())


def others(lab: Lab, table: str, **options: Any) -> dict[int, Any]:
    """Shard 1 with that table; the others have none, and have it `rejected`."""
    return {n: PostgresShard(lab.urls[n], table, **options) for n in CLASSIC.shards}


@pytest.mark.parametrize(
    ("definition", "key", "said"),
    [
        ("id text PRIMARY KEY", "id", "the key id is text, not smallint, integer or bigint"),
        ("id numeric PRIMARY KEY", "id", "the key id is numeric, not smallint, integer or bigint"),
        ("id int[] PRIMARY KEY", "id", "the key id is integer, not smallint, integer or bigint"),
        ("nr int PRIMARY KEY, name text", "id", "no column id for a key: the table has nr, name"),
    ],
)
def test_a_key_that_is_none_is_named(served: Any, definition: str, key: str, said: str) -> None:
    """One line says which column, of which type, and what it could be."""
    runner, lab, connections = served
    connections[0].execute(f"DROP TABLE IF EXISTS odd; CREATE TABLE odd ({definition})")

    async def read() -> None:
        async with ShardReader(CLASSIC, others(lab, "odd", key=key)) as reader:
            assert (await reader.read()).reports[1].error == said

    runner.run(read())


def test_a_key_that_is_not_unique_or_null_is_missing_not_merged(served: Any) -> None:
    """Neither a read nor an aggregate counts a row twice; in a view nothing keeps the key unique."""
    runner, lab, connections = served
    connections[0].execute(
        "DROP TABLE IF EXISTS odd; CREATE TABLE odd (id int, n int); INSERT INTO odd VALUES (1, 7), (2, 8)"
    )
    connections[0].execute("CREATE VIEW seen AS SELECT * FROM odd")

    async def read(table: str) -> tuple[Any, Any]:
        async with ShardReader(CLASSIC, others(lab, table)) as reader:
            result = await reader.read()
            rows, total = await reader.aggregate(count(), sum_("n"))
            assert rows.reports[1].status == result.reports[1].status
            return result.reports[1].error, (rows.value, total.value)

    for table in ("odd", "seen"):
        assert runner.run(read(table)) == (None, (2, 15))
    connections[0].execute("INSERT INTO odd VALUES (2, 9)")
    for table in ("odd", "seen"):
        assert runner.run(read(table)) == ("id 2 is there twice", (0, None))
    connections[0].execute("DELETE FROM odd WHERE n = 9; INSERT INTO odd VALUES (NULL, 9)")
    for table in ("odd", "seen"):
        error, found = runner.run(read(table))
        assert error.startswith("row 3 has NULL for")
        assert found == (0, None)
    connections[0].execute("DROP TABLE odd CASCADE")


def test_bounds_of_a_check_constraint(served: Any) -> None:
    """As Postgres writes it, of whatever type; those of a shard that is silent are known from before."""
    runner, lab, connections = served
    for shard, connection in enumerate(connections, start=1):
        connection.execute(
            "DROP TABLE IF EXISTS checked; CREATE TABLE checked (id int PRIMARY KEY, "
            "a numeric(9,2) CHECK (a BETWEEN -1 AND 99.5), b int CHECK (b > 0 AND b < 100), "
            "c date CHECK (c >= '2020-01-01'), d float8 CHECK (d <= 0.5), e numeric, "
            "CHECK (e >= 0 AND e <= 10), CHECK (a < b OR b > 5))"
        )
        connection.execute(f"INSERT INTO checked VALUES ({shard * 10}, 1, 2, '2026-01-01', 0.25, 3)")

    async def ask() -> list[tuple[Any, Any]]:
        shards = {n: PostgresShard(lab.urls[n], "checked") for n in CLASSIC.shards}
        async with ShardReader(CLASSIC, shards) as reader, lab.fault(2, faults.Kill()):
            found = await reader.aggregate(sum_("a"), min_("b"), min_("c"), max_("d"), sum_("e"))
            return [(one.at_least, one.at_most) for one in found]

    assert runner.run(ask()) == [
        (2 - 20, 2 + 20 * Decimal("99.5")),
        (0, 2),
        (datetime.date(2020, 1, 1), datetime.date(2026, 1, 1)),
        (0.25, 0.5),
        (6, 206),
    ]
