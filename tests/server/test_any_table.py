"""Labs with one's own table: orders of six columns, and a wide one; every fault acts on them, and gaps are exact."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio

from labkit import CLASSIC, Lab, ReadResult, Status, errors, faults
from labkit.faults import DataFault, Sample
from labkit.tables import are_same
from tests.support.lateness import MARGIN, starved
from tests.support.orders import IDS, NOON, held_by, orders
from tests.support.watching import cold

pytestmark = pytest.mark.asyncio(loop_scope="module")

GAP = ((11, 20), (41, 50))


def samples_on(backend: str) -> list[Sample]:
    """Every fault of server and data, as the matrix tries it there."""
    able = [one for one in faults.ALL.values() if one.layer in ("server", "data") and backend in one.backends]
    return [sample for entry in able for sample in entry.samples(2.0)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_lab() -> AsyncIterator[Lab]:
    """One lab for this module."""
    async with Lab("postgres", rows=orders(), key="order_id", table="orders", launcher="embedded", timeout=2.0) as lab:
        yield lab


async def catalogue(lab: Lab) -> list[tuple[Any, ...]]:
    """What shard 2's server says of its tables: columns, types, constraints, triggers, functions."""
    admin = await lab.admin(2)
    try:
        found = []
        for query in (
            "SELECT relname, relkind, attname, atttypid::regtype::text, atttypmod, attnotnull FROM pg_class "
            "JOIN pg_attribute ON attrelid = pg_class.oid WHERE relnamespace = 'public'::regnamespace "
            "ORDER BY relname, attnum",
            "SELECT conname, contype FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1",
            "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'orders'::regclass ORDER BY 1",
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
        ):
            found += [tuple(row) for row in await admin.fetch(query)]
        return found
    finally:
        admin.terminate()


def check(lab: Lab, result: ReadResult, allowed: frozenset[Status], fault: faults.Fault) -> None:
    """The other shards' rows to the bit; of shard 2 all that it holds, or exactly its gap."""
    report = result.reports[2]
    assert report.status in allowed, report
    assert result.elapsed <= lab.timeout + MARGIN + starved()
    if report.status is not Status.OK:
        assert (result.missing, report.rows) == (GAP, 0)
        assert are_same(result.table, held_by(lab, 1, 3))
        return
    left = {row_id for row_id, _ in lab.altered(2, fault)} if isinstance(fault, DataFault) else set(IDS)
    keys = held_by(lab, 1, 2, 3).column(0).to_pylist()
    there = pa.array([lab.router.locate(row_id) != 2 or row_id in left for row_id in keys])
    assert result.complete
    assert are_same(result.table, lab._truth.filter(there))


async def test_a_frame_is_loaded_and_read_to_the_bit(lab: Lab) -> None:
    """The lab's rows are the frame's, under its names, with Arrow's types; each server has the table."""
    result = await lab.read()
    assert set(lab.tables.values()) == {"orders"}
    assert are_same(result.table, lab._truth)
    assert dict(zip(result.table.schema.names, map(str, result.table.schema.types), strict=True)) == {
        "order_id": "int64",
        "customer_id": "int64",
        "amount": "decimal128(38, 2)",
        "created_at": "timestamp[us, tz=UTC]",
        "note": "large_string",
        "tags": "large_string",
    }
    assert result.table.to_pylist() == orders().astype(object).where(orders().notna(), None).to_dict("records")
    assert await lab.reader.get(12) == {
        "order_id": 12,
        "customer_id": 5,
        "amount": Decimal("119.88"),
        "created_at": NOON + dt.timedelta(hours=12),
        "note": "order 12",
        "tags": '{"row": 12}',
    }


@pytest.mark.parametrize("sample", samples_on("postgres"), ids=lambda sample: repr(sample.fault))
async def test_every_fault_acts_and_the_gap_is_exact(lab: Lab, sample: Sample) -> None:
    """Each fault of server and data fires, shows as its samples say, and leaves the server as it was."""
    before = await catalogue(lab)
    async with lab.fault(2, sample.fault):
        check(lab, await lab.read(), sample.warm, sample.fault)
        async with cold(lab) as newcomer:
            check(lab, await newcomer.read(), sample.cold, sample.fault)
    assert are_same((await lab.read()).raise_for_missing().table, lab._truth)
    assert await catalogue(lab) == before


@pytest.mark.timeout(120)
async def test_every_fault_of_redis_acts_on_such_rows_too() -> None:
    """Each fault of server and data that Redis has, one after the other: the same answers, the same gaps."""
    async with Lab("redis", rows=orders(), key="order_id", table="orders", launcher="embedded", timeout=2.0) as lab:
        for sample in samples_on("redis"):
            await lab.read()  # so that the lab's reader has a connection
            async with lab.fault(2, sample.fault), cold(lab) as newcomer:
                warm, new = await asyncio.gather(lab.read(), newcomer.read())
                check(lab, warm, sample.warm, sample.fault)
                check(lab, new, sample.cold, sample.fault)
            assert are_same((await lab.read()).raise_for_missing().table, lab._truth)


@pytest.mark.parametrize("fault", [faults.LockTable(), faults.SlowQuery(0.1), faults.DropTable()], ids=repr)
async def test_a_fault_that_nobody_meets_is_warned_of(lab: Lab, fault: faults.Fault) -> None:
    """A fault of the table that no read meets never fired."""
    with pytest.warns(errors.NeverFired, match=f"{type(fault).__name__}.* never fired on shard 2: no client met it"):
        async with lab.fault(2, fault):
            pass


async def test_a_fault_of_the_data_without_data_is_warned_of() -> None:
    """On a shard without rows there are none to lose or to repeat; foreign ones can come."""
    async with Lab("postgres", rows=orders().query("order_id < 11"), key="order_id", launcher="embedded") as lab:
        for fault in (faults.DuplicateIds(), faults.NullIds(), faults.BadTypes(), faults.MissingRows(), faults.Empty()):
            with pytest.warns(errors.NeverFired, match="there was nothing to act on"):
                async with lab.fault(2, fault):
                    await lab.read()
        async with lab.fault(2, faults.ForeignIds()):
            assert (await lab.read()).reports[2].status is Status.INVALID


@pytest.mark.parametrize("backend", ["postgres", "redis", "redis-cluster"])
async def test_rows_are_written_deleted_and_the_truth(backend: str) -> None:
    """`put` takes a mapping or all values, replaces a row whole, and `rows` is the same frame until then."""
    async with Lab(backend, rows=orders(), key="order_id", launcher="embedded") as lab:
        before = lab.rows
        assert lab.rows is before
        await lab.put({"order_id": 12, "amount": Decimal("9.5"), "note": 'a "b" \\ {c,d}'})
        assert lab.rows is not before
        assert await lab.reader.get(12) == {
            "order_id": 12,
            "customer_id": None,
            "amount": Decimal("9.50"),
            "created_at": None,
            "note": 'a "b" \\ {c,d}',
            "tags": None,
        }
        await lab.put((13, 1, None, NOON, "", "NULL"))
        await lab.delete(14)
        result = (await lab.read()).raise_for_missing()
        assert are_same(result.table, lab._truth)
        assert result.frame.equals(lab.rows)
        assert len(lab.rows) == 59
        with pytest.raises(errors.UsageError, match="the table has no column amonut: it has order_id, customer_id"):
            await lab.put({"order_id": 12, "amonut": 1})
        with pytest.raises(errors.UsageError, match="no shard owns order_id 99"):
            await lab.put({"order_id": 99})


def wide() -> pa.Table:
    """A column of every type that a lab loads, with NULLs, extremes, and texts that a syntax could mistake."""

    def some(kind: pa.DataType, *values: Any) -> pa.Array:
        return pa.array([(None, *values)[at % (len(values) + 1)] for at in range(len(IDS))], kind)

    texts = ("", 'a "quoted" \\ one', "{x,y}", "NULL", "\n\t; --", "Grüße 数据 🎲")
    moments = (0, -1, -62135596800000001, -210000000000000000, 253402300800000000)
    return pa.table(
        {
            'the "key"': IDS,
            "Text": some(pa.string(), *texts),
            "int16": some(pa.int16(), -(2**15), 2**15 - 1),
            "int32": some(pa.int32(), -(2**31), 2**31 - 1),
            "int64": some(pa.int64(), -(2**63), 2**63 - 1, 2**53 + 1),
            "float32": some(pa.float32(), 0.1, -0.0, float("inf"), float("nan"), 1e-45),
            "float64": some(pa.float64(), 0.1, -0.0, float("-inf"), float("nan"), 5e-324, 1.7976931348623157e308),
            "decimal": some(
                pa.decimal128(38, 10), Decimal("1E-10"), Decimal("-9999999999999999999999999999.9999999999")
            ),
            "bool": some(pa.bool_(), True, False),
            "bytes": some(pa.binary(), b"", b"\0\xff\\x"),
            "date": some(pa.date32(), dt.date(1, 1, 1), dt.date(9999, 12, 31), -1_000_000),
            "time": some(pa.time64("us"), dt.time(0), dt.time(23, 59, 59, 999999)),
            "timestamp": some(pa.timestamp("us"), *moments),
            "timestamptz": some(pa.timestamp("us", "Asia/Tokyo"), *moments),
            "interval": some(
                pa.month_day_nano_interval(),
                pa.MonthDayNano([14, -3, 500_000_000]),
                pa.MonthDayNano([-1, 400, -86_400_000_001_000]),
            ),
            "texts": some(pa.list_(pa.string()), [], [*texts, None]),
            "numbers": some(pa.list_(pa.int32()), [], [1, None, -(2**31)]),
            "several bytes": some(pa.list_(pa.binary()), [], [b"\0", None, b""]),
            "decimals": some(pa.list_(pa.decimal128(5, 2)), [Decimal("1.50"), None]),
            "moments": some(pa.list_(pa.timestamp("us")), [*moments, None]),
            "bools": some(pa.list_(pa.bool_()), [True, None, False]),
            "floats": some(pa.list_(pa.float64()), [0.5, None, float("inf"), float("nan")]),
        }
    )


async def test_a_column_of_every_type_is_loaded_altered_and_brought_back() -> None:
    """Every type arrives to the bit, also where a fault of the data has written its rows again, and by `put`."""
    rows = wide()
    async with Lab("postgres", rows=rows, key='the "key"', table='a "table" ü', launcher="embedded") as lab:
        assert are_same((await lab.read()).raise_for_missing().table, lab._truth)
        async with lab.fault(2, faults.MissingRows(3)):
            left = {row_id for row_id, _ in lab.altered(2, faults.MissingRows(3))}
            there = [CLASSIC.locate(row_id) != 2 or row_id in left for row_id in IDS]
            assert are_same((await lab.read()).raise_for_missing().table, lab._truth.filter(pa.array(there)))
        for fault in (faults.DuplicateIds(), faults.ForeignIds(), faults.NullIds(), faults.BadTypes()):
            async with lab.fault(2, fault):
                result = await lab.read()
            assert (result.reports[2].status, result.missing) == (Status.INVALID, GAP)
        async with lab.fault(2, faults.SlowQuery(0.05)):
            assert are_same((await lab.read()).raise_for_missing().table, lab._truth)
        await lab.delete(12)
        await lab.put({'the "key"': 12, "texts": ["a", None], "int64": 2**63 - 1, "bytes": b"\0"})
        assert are_same((await lab.read()).raise_for_missing().table, lab._truth)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": pa.table({"id": [1], "ctid": [1]})}, "column ctid cannot be loaded: Postgres has one of its own"),
        ({"rows": pa.table({"id": [1], "x" * 64: [1]})}, "the name of a column has up to 63 bytes in Postgres"),
        ({"table": "sales.orders"}, "table='sales.orders' must have no dot"),
        ({"table": "x" * 64}, "the name of a table has up to 63 bytes in Postgres"),
        ({"table": ""}, "table must be what the table is called on the servers, not ''"),
        ({"rows": pa.table({"id": [1], "t": pa.array([1], pa.duration("us"))})}, "column t cannot be loaded: duration"),
    ],
)
async def test_what_a_server_cannot_have_is_said_before_it_starts(options: dict[str, Any], said: str) -> None:
    """One line names the column or the name, and nothing is started."""
    with pytest.raises(errors.UsageError) as caught:
        Lab("postgres", **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pa.table({"id": [1], "x": ["a\0"]}), "shard 1 did not take its rows: invalid byte sequence"),
        (
            pa.table({"id": [11], "x": pa.array([-(10**18)], pa.timestamp("us"))}),
            "shard 2 did not take its rows: timest",
        ),
    ],
)
async def test_a_value_that_a_server_refuses_is_said(rows: pa.Table, said: str) -> None:
    """A value beyond what the type of a server holds is a `LabError` with the server's words, and nothing is left."""
    lab = Lab("postgres", rows=rows, launcher="embedded")
    with pytest.raises(errors.LabError, match=said):
        await lab.start()
    assert lab.leftovers() == []
