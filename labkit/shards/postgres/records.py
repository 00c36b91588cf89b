"""Decodes records in binary form, as `record_send` of Postgres makes them, into Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.shards.postgres.columns import Column
from labkit.shards.postgres.copy import batch_of
from labkit.shards.postgres.decoding import PADDING, integers
from labkit.tables import InvalidAnswer

__all__ = ["CHANGED", "OtherTable", "records_batch"]

CHANGED = "the columns of the table changed during the read"


class OtherTable(InvalidAnswer):
    """Raised for an answer that came from another table of the same name; its columns are for the caller to compare.
    `width` is its `width_of`.
    """

    def __init__(self, answer: Any, width: int) -> None:
        super().__init__(CHANGED)
        self.answer, self.width = answer, width


def records_batch(
    columns: Sequence[Column],
    schema: pa.Schema,
    records: Sequence[bytes],
    before: int,
    order: Sequence[Column] | None = None,
) -> pa.RecordBatch:
    """Records as rows; `before` is how many precede them in the answer. `order` is that of the columns in a record, if
    it is another one.

    A record is the number of values, and of each its type, length and bytes (source: PostgreSQL, `rowtypes.c`). Raises
    `InvalidAnswer` for anything else, for values of other types, and for NULL in the first column.
    """
    data = b"".join([*records, PADDING])
    sizes = np.fromiter(map(len, records), np.int64, len(records))
    ends = np.cumsum(sizes)
    at = ends - sizes
    if (integers(data, at, 4) != len(order or columns)).any():
        raise InvalidAnswer(CHANGED)
    at, begins, lengths = at + 4, [], []
    for column in order or columns:
        if (integers(data, at, 4) != column.declared).any():
            raise InvalidAnswer(CHANGED)
        length = integers(data, at + 4, 4).astype(np.int64)
        begins.append(at + 8)
        lengths.append(length)
        at = np.minimum(at + 8 + np.maximum(length, 0), len(data) - len(PADDING))
    if (at != ends).any():
        raise InvalidAnswer("the answer cannot be understood: a record is malformed")
    if order is not None:
        places = [order.index(column) for column in columns]
        begins, lengths = [begins[place] for place in places], [lengths[place] for place in places]
    if (lengths[0] < 0).any():
        row = before + int(np.argmax(lengths[0] < 0)) + 1
        raise InvalidAnswer(f"row {row} has NULL for {columns[0].name}, the key")
    return batch_of(columns, schema, data, begins, lengths, before)
