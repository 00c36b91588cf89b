"""Decodes records in binary form, as `record_send` of Postgres makes them, into Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.shards.postgres.columns import Column
from labkit.shards.postgres.decoding import PADDING
from labkit.shards.postgres.rows import CHANGED, batch_of
from labkit.tables import InvalidAnswer

__all__ = ["OtherTable", "records_batch"]


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
    it is another one. Raises what `batch_of` does.
    """
    ends = np.cumsum(np.fromiter(map(len, records), np.int64, len(records)))
    begins = ends - np.diff(ends, prepend=0)
    data = b"".join([*records, PADDING])
    return batch_of(columns, schema, data, begins, ends, before, records=True, order=order)
