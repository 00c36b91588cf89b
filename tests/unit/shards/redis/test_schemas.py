"""Rows of a declared schema: what each layout writes it reads back; what does not fit is named, and never returned."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit._types import INT64_MAX
from labkit.errors import UsageError
from labkit.shards.redis import RedisClusterShard, RedisShard, member, members
from labkit.shards.redis.layouts import LAYOUTS, layout
from labkit.shards.redis.layouts.records import Records
from labkit.shards.redis.layouts.values import WRONG, of_bytes, of_json
from labkit.shards.redis.layouts.writing import texts
from labkit.shards.schemas import declared
from labkit.tables import SCHEMA, InvalidAnswer, are_same, to_json
from tests.support import scenes
from tests.support.columns import KINDS, columns_of, tables
from tests.unit.shards.redis.test_bulk import Watched
from tests.unit.shards.redis.test_layouts import JSON, KEY, Memory, an_ask

quick = settings(scenes.quick, max_examples=60)
ORDERS = pa.schema(
    [
        ("order_id", pa.int64()),
        ("customer", pa.int32()),
        ("amount", pa.decimal128(12, 2)),
        ("note", pa.large_string()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)
ROW = [12, 7, "9.50", "late", "2026-01-02T03:04:05Z"]


def filled(name: str, table: pa.Table, key: str = KEY) -> Memory:
    """A server with the rows as the layout writes them."""
    memory = Watched()
    for words in layout(name, table.schema).write(key, table):
        memory.do(*words)
    return memory


def holding(name: str, row: Any, row_id: int = 12) -> Memory:
    """A server with one row of JSON."""
    return raw(name, json.dumps(row, ensure_ascii=False).encode(), row_id)


def raw(name: str, stored: bytes, row_id: int = 12) -> Memory:
    memory = Memory()
    {
        "sorted-set": lambda: memory.do("ZADD", KEY, row_id, stored),
        "hash": lambda: memory.do("HSET", KEY, row_id, stored),
        "strings": lambda: memory.do("MSET", f"{KEY}:{row_id}", stored),
    }[name]()
    return memory


def add(run: Memory, other: Memory) -> None:
    """Adds the rows of another server."""
    for key, value in other.keys.items():
        run.keys[key] = {**run.keys.get(key, {}), **value} if isinstance(value, dict) else value


def fields(**values: Any) -> Memory:
    """A server with one row in a hash."""
    memory = Memory()
    memory.do("HSET", f"{KEY}:12", *(word for pair in values.items() for word in pair))
    return memory


async def read(name: str, run: Memory, schema: pa.Schema = ORDERS, *window: Any, **asked: Any) -> pa.Table:
    answer = await layout(name, schema).read(run, KEY, an_ask(*window, **asked))
    assert isinstance(answer, pa.Table)
    answer.validate(full=True)
    return answer


@quick
@given(st.sampled_from(LAYOUTS), tables(), st.data())
def test_what_is_written_is_read(name: str, table: pa.Table, data: st.DataObject) -> None:
    """Random schemas and rows, of every type: each layout returns them to the bit, in any window, however narrow."""
    ids = table.column(0).to_pylist()
    low = data.draw(st.none() | st.sampled_from([*ids, 0]))
    high = data.draw(st.none() | st.integers(0, 900).map(lambda more: min((low or 0) + more, INT64_MAX)))
    got = asyncio.run(read(name, filled(name, table), table.schema, low, high))
    inside = [(low is None or row_id >= low) and (high is None or row_id <= high) for row_id in ids]
    wanted = table.filter(pa.array(inside, pa.bool_()))
    assert got.schema.equals(wanted.schema)
    assert are_same(got, wanted), (got, wanted)


@quick
@given(st.sampled_from(JSON), tables(), st.randoms())
def test_objects_are_the_same_rows(name: str, table: pa.Table, random: Any) -> None:
    """A row may be an array or an object in any order, without its NULLs: the rows are the same, row by row."""
    memory = Memory()
    for row in to_json(table):
        row_id, pairs = next(iter(row.values())), list(row.items())
        random.shuffle(pairs)
        some = dict(pairs[:1] + [(field, value) for field, value in pairs[1:] if value is not None])
        one: Any = {table.schema.names[0]: row_id, **some} if random.random() < 0.7 else list(row.values())
        add(memory, holding(name, one, row_id))
    assert are_same(asyncio.run(read(name, memory, table.schema)), table)


@quick
@given(st.sampled_from(KINDS).flatmap(lambda kind: columns_of(kind, 5)))
def test_values_of_every_type_are_parsed_exactly(column: pa.Array) -> None:
    """The JSON form of `to_json` is parsed back to the same values, also without a server."""
    values = [row["value"] for row in to_json(pa.table({"value": column}))]
    parsed = of_json(json.loads(json.dumps(values)), column.type)
    assert are_same(pa.table([parsed], ["value"]), pa.table([column], ["value"]))


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ([12, 7, "abc", "x", None], 'row 12: amount "abc" is not decimal128(12, 2)'),
        ([12, 7, 9.505, "x", None], "row 12: amount 9.505 is not decimal128(12, 2)"),
        ([12, 7, True, "x", None], "row 12: amount true is not decimal128(12, 2)"),
        ([12, 7, "NaN", "x", None], 'row 12: amount "NaN" is not decimal128(12, 2)'),
        ([12, 7, "12345678901", "x", None], 'row 12: amount "12345678901" is not decimal128(12, 2)'),
        ([12, 2**31, "1", "x", None], "row 12: customer 2147483648 is not int32"),
        ([12, 7.0, "1", "x", None], "row 12: customer 7.0 is not int32"),
        ([12, "7", "1", "x", None], 'row 12: customer "7" is not int32'),
        ([12, 7, "1", 3, None], "row 12: note 3 is not string"),
        ([12, 7, "1", ["x"], None], 'row 12: note ["x"] is not string'),
        ([12, 7, "1", "x", "2026-01-02T03:04:05"], 'row 12: at "2026-01-02T03:04:05" is not timestamp[us, tz=UTC]'),
        ([12, 7, "1", "x"], "row 12 has 4 values, not 5: order_id, customer, amount, note, at"),
        ([12, 7, "1", "x", None, 1], "row 12 has 6 values, not 5: order_id, customer, amount, note, at"),
        (
            {"order_id": 12, "nickname": "x"},
            'row 12: field "nickname" is not in the schema: order_id, customer, amount, note, at',
        ),
        ({"order_id": 12, "amount": "x"}, 'row 12: amount "x" is not decimal128(12, 2)'),
    ],
)
@pytest.mark.parametrize("window", [(None, None), (1, 20)])
async def test_what_does_not_fit_is_named(name: str, row: Any, wrong: str, window: Any) -> None:
    """A value that is not of its column's type, a field too many, an array of another length: the error names row and
    field.
    """
    run = holding(name, row)
    for row_id in (5, 15):
        add(run, holding(name, [row_id, *ROW[1:]], row_id))
    with pytest.raises(InvalidAnswer) as caught:
        await read(name, run, ORDERS, *window)
    assert str(caught.value) == wrong


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize(
    "row",
    [
        ["12", *ROW[1:]],
        [None, *ROW[1:]],
        [True, *ROW[1:]],
        [12.0, *ROW[1:]],
        [2**63, *ROW[1:]],
        {"amount": "1"},
        [],
        12,
        "x",
        None,
    ],
)
async def test_a_row_without_an_integer_for_its_key_is_invalid(name: str, row: Any) -> None:
    """The key is an integer of 64 bits, never text, NULL, true or a float."""
    with pytest.raises(InvalidAnswer, match=r"order_id|under id 12"):
        await read(name, holding(name, row))


@pytest.mark.parametrize("name", JSON)
async def test_halves_of_rows_are_no_rows(name: str) -> None:
    """Members are decoded together, but each must be a row of its own."""
    halves = [b'[1,7,"1","x"', b'null],[2,7,"1","x",null]', b'[3,7,"1","x', b'",null]']
    run = Memory()
    for row_id, half in enumerate(halves, 1):
        add(run, raw(name, half, row_id))
    with pytest.raises(InvalidAnswer, match="not a row"):
        await read(name, run)


@pytest.mark.parametrize(("name", "window"), [("hash", (1, 20)), ("hash", ()), ("strings", (1, 20)), ("strings", ())])
async def test_a_row_under_the_id_of_another_is_invalid(name: str, window: Any) -> None:
    """A row contains its key too, so one under another id is detected."""
    with pytest.raises(InvalidAnswer, match="under id 13 is another row"):
        await read(name, holding(name, ROW, 13), ORDERS, *window)


async def test_decimals_are_exact() -> None:
    """A JSON number has all its digits, in a decimal column; a float would have 17."""
    exact = Decimal("1234567890123456789012345678.0123456789")
    schema = pa.schema([("id", pa.int64()), ("amount", pa.decimal128(38, 10))])
    for stored in (b"[12,%s]" % str(exact).encode(), b'{"id":12,"amount":"%s"}' % str(exact).encode()):
        assert (await read("hash", raw("hash", stored), schema)).column(1).to_pylist() == [exact]


FORMS: list[tuple[pa.DataType, list[str], str]] = [
    (pa.date32(), ["2026-03-04", "20260304"], "2026-03-04"),
    (pa.date32(), ["10000-01-01", "+10000-01-01"], "10000-01-01"),
    (pa.time64("us"), ["12:30", "12:30:00", "T12:30:00.000", "123000", "12:30:00,0"], "12:30:00"),
    (
        pa.timestamp("us"),
        ["2026-03-04T05:06", "2026-03-04 05:06:00", "20260304T050600", "2026-03-04t05:06:00,000000000"],
        "2026-03-04T05:06:00.000000",
    ),
    (pa.timestamp("us"), ["2026-03-04"], "2026-03-04T00:00:00.000000"),
    (
        pa.timestamp("us", "UTC"),
        [
            "2026-03-04T05:06:00Z",
            "2026-03-04T07:06:00+02:00",
            "2026-03-04 04:36:00-0030",
            "2026-03-04t06:06:00.000000+01",
            "20260304T050600z",
        ],
        "2026-03-04T05:06:00.000000Z",
    ),
    (
        pa.month_day_nano_interval(),
        ["P14M3DT0.5S", "P1Y2M3DT0.5S", "-P-14M-3DT-0.50S", "P1Y2MT0,500S", "P14M3DT-0.5S"],
        "",
    ),
    (pa.decimal128(12, 2), ["9.5", "9.50", "+9.5", "95e-1", "9.500000"], "9.50"),
    (pa.float64(), ["NaN"], "NaN"),
    (pa.float64(), ["-Infinity"], "-Infinity"),
]


@pytest.mark.parametrize(("kind", "texts", "shown"), FORMS)
def test_other_forms_of_text_are_taken(kind: pa.DataType, texts: list[str], shown: str) -> None:
    """Forms that ISO 8601 allows mean the same, in JSON as in plain text, alone and among others."""
    for column in (of_json([*texts, None], kind), of_bytes([*(text.encode() for text in texts), None], kind)):
        got = [row["value"] for row in to_json(pa.table({"value": column}))]
        if shown:
            assert got == [shown] * len(texts) + [None]
        else:
            assert got == ["P14M3DT0.5S", "P14M3DT0.5S", "P14M3DT0.5S", "P14M0DT0.5S", "P14M3DT-0.5S", None]


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            pa.date32(),
            ["2026-02-30", "2026-3-4", "now", "2026-13-01", "2026-03-04T05:06", "9999999-01-01", "٢٠٢٦-01-01"],
        ),
        (pa.time64("us"), ["24:00:00", "12:60", "12:30Z", "", "12:30:00.1234567", "1"]),
        (
            pa.timestamp("us"),
            ["2026-03-04T05:06Z", "2026-03-04T05:06:00.0000001", "1772600760", "", "today", "300000-01-01T00:00:00"],
        ),
        (
            pa.timestamp("us", "UTC"),
            ["2026-03-04T05:06", "2026-03-04", "2026-03-04T05:06+25:00", "2026-03-04T05:06:00 CET"],
        ),
        (
            pa.month_day_nano_interval(),
            ["P", "PT", "P1", "1 day", "", "P1H", "P99999999999M", "PT9999999999999S", "P1DT"],
        ),
        (pa.decimal128(4, 2), ["9.505", "100", "NaN", "", "1,5", " 1", "0x1"]),
        (pa.float64(), ["1e999", "x", "", " 1", "0x1p3"]),
        (pa.float32(), ["1e39"]),
        (pa.int32(), ["0x10", "1.0", "+1", "", " 1", "2147483648", "1_0", "1\n"]),
        (pa.bool_(), ["yes", "", "2", "TRUE"]),
    ],
)
def test_text_that_is_no_value_is_refused(kind: pa.DataType, texts: list[str]) -> None:
    """Near misses are refused, in plain text as in JSON, rather than taken for another value."""
    for text in texts:
        with pytest.raises(WRONG):
            of_bytes([b"1" if kind != pa.date32() else b"2026-01-01", text.encode()][1:], kind)
        with pytest.raises(WRONG):
            of_json([text], kind)


def test_a_number_too_large_for_its_float_is_refused() -> None:
    """JSON's 1e999 would be infinity in Python, and 1e39 is in 32 bits."""
    for kind, number in ((pa.float64(), "1e999"), (pa.float32(), "1e39")):
        for value in (float(number), json.loads(f"[{number}]", parse_float=str)[0]):
            with pytest.raises(WRONG):
                of_json([1.5, value], kind)


async def test_a_hash_per_row_holds_plain_text() -> None:
    """Text without quotes, numbers in decimal, booleans as true or 1, lists as JSON, binary as is; absent is NULL."""
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("name", pa.string()),
            ("amount", pa.decimal128(6, 2)),
            ("paid", pa.bool_()),
            ("late", pa.bool_()),
            ("tags", pa.list_(pa.string())),
            ("raw", pa.binary()),
            ("none", pa.int16()),
        ]
    )
    run = fields(name='"x"', amount="9.5", paid="1", late="false", tags='["a",null]', raw=b"\xff\x00")
    for window in [(), (10, 20)]:
        assert (await read("hashes", run, schema, *window)).to_pylist() == [
            {
                "id": 12,
                "name": '"x"',
                "amount": Decimal("9.50"),
                "paid": True,
                "late": False,
                "tags": ["a", None],
                "raw": b"\xff\x00",
                "none": None,
            }
        ]


@pytest.mark.parametrize("window", [(), (10, 20)])
@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"amount": "abc"}, 'row 12: amount "abc" is not decimal128(12, 2)'),
        ({"customer": "7.5"}, 'row 12: customer "7.5" is not int32'),
        ({"note": b"\xff"}, "row 12: note b'\\xff' is not string"),
        ({"nickname": "x"}, "row 12: field 'nickname' is not in the schema: order_id, customer, amount, note, at"),
        ({"order_id": "13", "note": "x"}, "under id 12 is another row: order_id '13'"),
        ({"order_id": "012"}, "under id 12 is another row: order_id '012'"),
    ],
)
async def test_a_hash_that_does_not_fit_is_named(values: Any, wrong: str, window: Any) -> None:
    """What is not of its column's type, no column, or another key: the error names row and field."""
    with pytest.raises(InvalidAnswer) as caught:
        await read("hashes", fields(**values), ORDERS, *window)
    assert str(caught.value) == wrong


async def test_a_hash_may_repeat_its_key() -> None:
    """The key column is from the Redis key; a field may repeat it, and may be the only one."""
    for run in (fields(order_id="12"), fields(note="x", order_id="12")):
        assert (await read("hashes", run)).column("order_id").to_pylist() == [12]


@pytest.mark.parametrize("window", [(), (10, 20)])
@pytest.mark.parametrize("columns", [None, ("note",), ("order_id", "note"), ()])
async def test_a_key_that_is_no_hash_is_invalid(window: Any, columns: Any) -> None:
    """A key of another type is invalid, never a row that is missing."""
    run = fields(note="x")
    run.do("MSET", f"{KEY}:13", "text")
    with pytest.raises(InvalidAnswer, match=r"key 'data_2:\{b\}:13' holds no row: it is not a hash"):
        await read("hashes", run, ORDERS, *window, columns=columns)


@pytest.mark.parametrize("window", [(), (10, 20)])
async def test_some_columns_are_read_alone(window: Any) -> None:
    """A read of some columns fetches only those, and still sees a row in which they are all NULL. A field that is no
    column then goes unnoticed.
    """
    run = fields(note="x", nickname="y")
    run.do("HSET", f"{KEY}:13", "amount", "1.00")
    assert (await read("hashes", run, ORDERS, *window, columns=("note",))).to_pylist() == [
        {"order_id": 12, "note": "x"},
        {"order_id": 13, "note": None},
    ]
    assert {words[2:] for words in run.commands if words[0] == "HMGET"} == {("order_id", "note")}
    assert "HGETALL" not in run.names


async def test_without_a_schema_a_hash_is_id_and_name() -> None:
    """The layout "hashes" without a schema reads (id, name); any other field is invalid."""
    run = fields(name="x")
    answer = await layout("hashes").read(run, KEY, an_ask())
    assert answer.to_pylist() == [{"id": 12, "name": "x"}]
    run.do("HSET", f"{KEY}:12", "nickname", "y")
    with pytest.raises(InvalidAnswer, match="row 12: field 'nickname' is not in the schema: id, name"):
        await layout("hashes").read(run, KEY, an_ask())


async def test_a_written_row_has_no_field_of_the_one_before() -> None:
    """Writing a row again replaces its hash: a field that is NULL now is gone."""
    table = pa.table([[12, 12], ["old", None]], schema=pa.schema([("id", pa.int64()), ("name", pa.string())]))
    run = filled("hashes", table.slice(0, 1))
    for words in layout("hashes", table.schema).write(KEY, table.slice(1)):
        run.do(*words)
    assert (await read("hashes", run, table.schema)).to_pylist() == [{"id": 12, "name": None}]


@pytest.mark.parametrize("name", LAYOUTS)
async def test_pages_and_many_rows_are_in_order(name: str) -> None:
    """More rows than are decoded in one step, written in any order, come back ascending; a page has its first ones."""
    count = 3000
    table = pa.table(
        {
            "id": pa.array(range(count)),
            "a": pa.array(map(str, range(count)), pa.large_string()),
            "b": [i % 7 == 0 or None for i in range(count)],
        }
    )
    mixed = table.take(pa.array([i * 1009 % count for i in range(count)]))
    run = filled(name, mixed)
    assert (await read(name, run, table.schema)).equals(table)
    page = await read(name, run, table.schema, 40, None, 5)
    assert page.slice(0, 5).equals(table.slice(40, 5))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (["id"], "schema must be a pyarrow.Schema, the key first, not list"),
        (pa.schema([]), "schema must have at least one column, the key"),
        (
            pa.schema([("id", pa.string()), ("a", pa.int32())]),
            "the first column of schema is the key, so 'id' must be integers, not string",
        ),
        (
            pa.schema([("id", pa.int64()), ("a", pa.int8()), ("a", pa.int8())]),
            "schema has the column 'a' more than once: give every column its own name",
        ),
        (
            pa.schema([("id", pa.int64()), ("a", pa.struct([]))]),
            "column 'a' of schema: the type struct<> is not supported; declare another one, such as text",
        ),
        (
            pa.schema([("id", pa.int64()), ("a", pa.list_(pa.list_(pa.int8())))]),
            "column 'a' of schema: the type list<item: list<item: int8>> is not supported; "
            "declare another one, such as text",
        ),
    ],
)
def test_a_schema_that_is_none_is_wrong_use(schema: Any, words: str) -> None:
    """One line says what is wrong with a schema, for both kinds of shards."""
    for make in (
        lambda: RedisShard("redis://h", "k", schema=schema),
        lambda: RedisClusterShard("redis+cluster://h", "k", schema=schema),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert str(caught.value) == words


async def test_a_shard_describes_its_schema() -> None:
    """The declared schema, in the types that answers have, is known without a server; None is id and name."""
    given = pa.schema(
        [
            ("id", pa.uint8()),
            ("a", pa.dictionary(pa.int8(), pa.string())),
            ("b", pa.timestamp("ns", "Europe/Berlin")),
            ("c", pa.list_(pa.binary())),
            ("d", pa.time32("s")),
            ("e", pa.uint32()),
        ]
    )
    read_as = pa.schema(
        [
            ("id", pa.int64()),
            ("a", pa.large_string()),
            ("b", pa.timestamp("us", "UTC")),
            ("c", pa.list_(pa.large_binary())),
            ("d", pa.time64("us")),
            ("e", pa.int64()),
        ]
    )
    for make in (
        lambda **o: RedisShard("redis://h", "k", **o),
        lambda **o: RedisClusterShard("redis+cluster://h", "k", **o),
    ):
        assert (await make(schema=given).describe(0.0)).equals(read_as)
        assert await make().describe(0.0) is SCHEMA
    assert declared(read_as).equals(read_as)


@pytest.mark.parametrize("name", ["strings", "hashes"])
def test_a_key_per_row_needs_a_hash_tag_in_a_cluster(name: str) -> None:
    """A cluster spreads keys by their hash: without a tag, rows would be on all nodes."""
    with pytest.raises(UsageError, match="has no hash tag"):
        RedisClusterShard("redis+cluster://h", "people", layout=name)
    assert RedisClusterShard("redis+cluster://h", "people:{a}", layout=name).layout.name == name


def test_members_of_a_table_of_pairs_are_those_of_member() -> None:
    """`members` writes a table of (id, name) as `member` writes each row; other values as `to_json` has them."""
    rows = [(1, "x"), (2, None), (3, 'ü"\n')]
    assert members(pa.table(list(zip(*rows, strict=True)), SCHEMA)) == [member(*row) for row in rows]
    assert members(pa.table({"id": [1], "a": [Decimal("9.50")]})) == [b'[1,"9.50"]']


ALMOST = st.sampled_from([*(bytes([byte]) for byte in b'",[]{} 10-+e.:\\TZ\xff'), b"null", b"NaN"])


@settings(quick, max_examples=150)
@given(tables(max_rows=5, max_columns=3), st.data())
def test_rows_are_decoded_together_as_each_alone(table: pa.Table, data: st.DataObject) -> None:
    """Damaged rows among sound ones: together they give what each gives alone, or the error of the first bad one."""
    stored = members(table)
    for place in range(len(stored)):
        if data.draw(st.booleans()):
            one, odd = stored[place], data.draw(ALMOST)
            at, cut = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, 2))
            stored[place] = one[:at] + odd + one[at + cut :]
    records, alone = Records(declared(table.schema)), []
    wrong = None
    for number, one in enumerate(stored):
        try:
            alone.append(records.batch([one], number))
        except InvalidAnswer as error:
            wrong = wrong or str(error)
    if wrong is None:
        together = pa.Table.from_batches([records.batch(stored)], records.schema)
        assert are_same(together, pa.Table.from_batches(alone, records.schema))
    else:
        with pytest.raises(InvalidAnswer) as caught:
            records.batch(stored)
        assert str(caught.value) == wrong


@settings(quick, max_examples=150)
@given(st.sampled_from(KINDS).flatmap(lambda kind: columns_of(kind, 4)), st.data())
def test_values_are_parsed_together_as_each_alone(column: pa.Array, data: st.DataObject) -> None:
    """The same of plain text, where one value in a rarer form makes all take the slower way."""
    rows = [dict(pairs) for pairs in texts(pa.table([range(4), column], ["key", "value"]))]
    cells = [row.get("value") for row in rows]
    for place in range(4):
        if cells[place] is not None and data.draw(st.booleans()):
            one, at = cells[place], data.draw(st.integers(0, len(cells[place])))
            cells[place] = one[:at] + data.draw(ALMOST) + one[at + data.draw(st.integers(0, 2)) :]
    alone: list[pa.Array] = []
    for cell in cells:
        try:
            alone.append(of_bytes([cell], column.type))
        except WRONG:
            with pytest.raises(WRONG):
                of_bytes(cells, column.type)
            return
    together = pa.table([of_bytes(cells, column.type)], ["value"])
    assert are_same(together, pa.table([pa.concat_arrays(alone)], ["value"]))
