"""How a Redis lab writes rows: what data faults make of them is in the sorted set, and nothing of it is lost."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pyarrow as pa
import pytest

from labkit import faults
from labkit.faults import DataFault
from labkit.lab.backends.redis import RedisBackend
from labkit.shards.redis import members

ORDERS = pa.table(
    {
        "order_id": pa.array([1, 2, 2**60], pa.int64()),
        "amount": pa.array([Decimal("9.50"), None, Decimal("-1.00")], pa.decimal128(12, 2)),
        "weight": [0.1, float("nan"), None],
        "note": pa.array(["ü", None, '"'], pa.large_string()),
    }
)


@pytest.fixture
def backend() -> RedisBackend:
    """That of a lab of orders."""
    made = RedisBackend()
    made.schema = ORDERS.schema
    return made


def test_rows_are_stored_as_a_shard_reads_them(backend: RedisBackend) -> None:
    """A member is what `members` writes for the row, and is read back as the row that was stored."""
    rows = backend.stored(ORDERS)
    [batch] = backend._batches(rows)
    assert list(batch) == members(ORDERS)
    assert list(batch.values()) == [1, 2, 2**60]
    assert [backend._row(raw) for raw in batch] == rows


@pytest.mark.parametrize("fault", [faults.DuplicateIds(3), faults.ForeignIds(2), faults.NullIds(), faults.BadTypes()])
def test_every_altered_row_is_a_member(backend: RedisBackend, fault: DataFault) -> None:
    """No row is lost because another one is the same: the second of two is an object."""
    rows = fault.alter(backend.stored(ORDERS), Random(1), [7, 8])
    [batch] = backend._batches(rows)
    assert len(batch) == len(rows)
    assert [backend._row(raw) for raw in batch] == rows
