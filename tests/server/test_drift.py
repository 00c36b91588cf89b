"""Half-done migrations of every kind: never a wrong row, and the odd shard is named with its column."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio

from labkit import Lab, ReadResult, ShardReader, Status, errors, faults
from labkit.aggregates import count, max_, top
from labkit.faults.drift import HOWS
from labkit.shards import PostgresShard
from labkit.tables import are_same
from tests.support.orders import held_by, orders
from tests.support.watching import cold

pytestmark = pytest.mark.asyncio(loop_scope="module")

GAP = ((11, 20), (41, 50))
CAUSES = {
    "missing": ("amount is missing", "has 5 values, not 6: order_id, customer_id, amount, created_at, note, tags"),
    "renamed": ("amount is missing, amount_2 is extra", 'field "amount_2" is not in the schema'),
    "type": ("amount is string, not decimal128(38, 2)", "amount true is not decimal128(38, 2)"),
    "extra": ("amount_2 is extra", 'field "amount_2" is not in the schema'),
}
"""What a reader says of each: where the server has columns, and where the reader was told them."""


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["postgres", "redis"])
async def shared_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """One lab for this module and kind of server."""
    options: dict[str, Any] = {"key": "order_id", "table": "orders", "launcher": "embedded", "timeout": 2.0}
    async with Lab(request.param, rows=orders(), **options) as lab:
        yield lab


def cause(lab: Lab, how: str) -> str:
    return CAUSES[how][lab.backend == "redis"]


def odd(lab: Lab, result: ReadResult, how: str) -> None:
    """Shard 2 is invalid, and its column named."""
    report = result.reports[2]
    assert (report.status, report.rows) == (Status.INVALID, 0)
    assert cause(lab, how) in (report.error or "")


@pytest.mark.parametrize("how", HOWS)
async def test_a_migration_half_done_is_never_a_wrong_row(lab: Lab, how: str) -> None:
    """A read, bounded or not, warm or cold, has the other shards' rows and the odd shard's exact gap."""
    async with lab.fault(2, faults.SchemaDrift("amount", how=how)), cold(lab) as newcomer:
        for result in (await lab.read(), await newcomer.read(), await lab.read()):
            odd(lab, result, how)
            assert result.missing == GAP
            assert are_same(result.table, held_by(lab, 1, 3))
        for reader in (lab.reader, newcomer):
            result = await reader.read(12, 44)
            odd(lab, result, how)
            assert result.missing == ((12, 20), (41, 44))
            assert result.table.column(0).to_pylist() == list(range(21, 41))
            with pytest.raises(errors.ShardUnavailable, match=re.escape(cause(lab, how))):
                await reader.get(12)
            assert (await reader.get(21)) == held_by(lab, 3).slice(0, 1).to_pylist()[0]
    assert are_same((await lab.read()).raise_for_missing().table, lab._truth)
    assert (await lab.reader.get(12))["amount"] == Decimal("119.88")  # type: ignore[index]


@pytest.mark.parametrize("how", HOWS)
async def test_pages_and_streams_of_a_migration_half_done_carry_its_gap(lab: Lab, how: str) -> None:
    """Pages and batches have the other shards' rows, with the same columns throughout, and the odd shard's gap."""
    async with lab.fault(2, faults.SchemaDrift("amount", how=how)), cold(lab) as newcomer:
        for reader in (lab.reader, newcomer):
            pages = [page async for page in reader.pages(size=7)]
            assert are_same(pa.concat_tables([page.table for page in pages if page.table.num_rows]), held_by(lab, 1, 3))
            assert [gap for page in pages for gap in page.missing] == list(GAP)
            for page in pages:
                if page.missing:
                    odd(lab, page, how)
            stream = reader.stream(batch=9)
            batches = [batch async for batch in stream]
            assert are_same(pa.Table.from_batches(batches), held_by(lab, 1, 3))
            assert stream.missing == GAP
            assert cause(lab, how) in (stream.reports[2].error or "")


@pytest.mark.parametrize("how", HOWS)
async def test_a_watch_sees_a_migration_come_and_go(lab: Lab, how: str) -> None:
    """While the columns differ the shard is a gap; then its rows are back."""
    watch = lab.reader.watch(interval=0.1)

    async def until(complete: bool) -> ReadResult:
        async with asyncio.timeout(10):
            async for result in watch:
                assert are_same(result.table, lab._truth if result.complete else held_by(lab, 1, 3))
                if result.complete is complete:
                    return result
        raise AssertionError("the watch ended")

    await until(complete=True)
    async with lab.fault(2, faults.SchemaDrift("amount", how=how)):
        result = await until(complete=False)
        odd(lab, result, how)
        assert result.missing == GAP
        await until(complete=False) if result.reports[2].status is not Status.INVALID else None
    await until(complete=True)
    await watch.aclose()


async def test_columns_that_are_asked_for_decide(lab: Lab) -> None:
    """A read of columns that the migration left alone is complete on Postgres. In Redis a row is one value, and fits or
    does not. A read of the odd column is incomplete on both.
    """
    for how in ("missing", "renamed", "type"):
        async with lab.fault(2, faults.SchemaDrift("amount", how=how)):
            note, amount = await lab.read(columns=["note"]), await lab.read(columns=["amount"])
        assert note.complete is (lab.backend == "postgres")
        held = held_by(lab, 1, 2, 3) if note.complete else held_by(lab, 1, 3)
        assert are_same(note.table, held.select(["order_id", "note"]))
        assert (amount.reports[2].status, amount.missing) == (Status.INVALID, GAP)
        assert "amount" in (amount.reports[2].error or "")
        assert are_same(amount.table, held_by(lab, 1, 3).select(["order_id", "amount"]))


async def test_every_column_can_drift_and_comes_back(lab: Lab) -> None:
    """Each column of the table in each way, and the one that the lab's seed draws; all rows are back afterwards."""
    for how in HOWS:
        for column in (*lab._truth.schema.names[1:], None):
            fault = faults.SchemaDrift(column, how=how)
            drawn = fault.drift(lab._truth.schema, lab._shards[2].random(fault))
            async with lab.fault(2, fault):
                report = (await lab.read()).reports[2]
            assert report.status is Status.INVALID
            assert (drawn.column if how in ("missing", "type") else drawn.name) in (report.error or "")
        assert are_same((await lab.read()).raise_for_missing().table, lab._truth)


@pytest.mark.parametrize("backend", ["postgres", "redis", "redis-cluster"])
async def test_the_classic_table_drifts_too(backend: str) -> None:
    """(id, name) has one column to lose, to rename, to change or to get company."""
    async with Lab(backend, launcher="embedded") as lab:
        for how in HOWS:
            async with lab.fault(2, faults.SchemaDrift(how=how)):
                result = await lab.read()
            assert (result.reports[2].status, result.missing) == (Status.INVALID, GAP)
            assert result.table.column(0).to_pylist() == [*range(1, 11), *range(21, 41), *range(51, 61)]
            assert (await lab.read()).raise_for_missing().frame.equals(lab.rows)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("amonut", "SchemaDrift: unknown column 'amonut'; did you mean amount?"),
        ("order_id", "SchemaDrift: order_id is the key, which stays as it is"),
    ],
)
async def test_a_column_that_cannot_drift_is_refused(lab: Lab, column: str, said: str) -> None:
    """One clear error, and nothing is changed on any shard."""
    with pytest.raises(errors.UsageError, match=said):
        async with lab.fault({1: faults.Latency(1), 2: faults.SchemaDrift(column)}):
            pytest.fail("it must not start")
    assert (await lab.read()).complete


async def test_a_column_called_like_a_function_is_missed_when_it_is_gone() -> None:
    """To Postgres `t.concat` is `concat(t)`, `t.count` is `count(t)`, once `t` has no such column: neither may become a
    value, nor decide by a filter which rows there are, or are added.
    """
    names = ["count", "concat", "quote_literal", "orders", "name"]
    rows = pa.table(
        {"id": list(range(1, 61)), **{name: [f"{name} {row_id}" for row_id in range(60)] for name in names}}
    )
    async with Lab("postgres", rows=rows, table="orders", launcher="embedded") as lab:
        for name in names:
            shards = {shard: PostgresShard(url, "orders", columns=[name]) for shard, url in lab.urls.items()}
            async with ShardReader(lab.router, shards, timeout=2.0) as reader:
                filters = [(name, ">=", "")]
                assert (await reader.read(filters=filters)).raise_for_missing().table.num_rows == 60
                async with lab.fault(2, faults.SchemaDrift(name, how="renamed")):
                    for result in (await reader.read(), await lab.read(), await lab.read(columns=[name])):
                        assert (result.reports[2].status, result.missing) == (Status.INVALID, GAP)
                    assert (await reader.read(filters=filters)).missing == GAP
                    for wanted in ([count()], [max_(name)], [top(2, name)]):
                        [found] = await reader.aggregate(*wanted, filters=filters)
                        assert found.missing == GAP
                    assert (await reader.aggregate(max_(name)))[0].missing == GAP
