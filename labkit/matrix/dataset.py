"""The tables that the matrix loads, and their rows as they are judged: every value in the types of `to_json`."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from random import Random
from typing import Any, TypeAlias

import pyarrow as pa

from labkit._checks import unknown
from labkit._types import INT64_MAX, INT64_MIN, ShardKey
from labkit.errors import UsageError
from labkit.lab.truth import as_rows, truth
from labkit.router import CLASSIC

__all__ = ["ROWS", "TABLES", "Dataset", "Flat", "dataset", "flat"]

TABLES = ("classic", "wide")
Flat: TypeAlias = tuple[Any, ...]
"""A row: the key, and the other values in the order of the columns."""


def flat(row: tuple[Any, Any]) -> Flat:
    """A row of a lab (`labkit.faults.base.Row`) with its values side by side."""
    row_id, others = row
    return (row_id, *others) if isinstance(others, tuple) else row


@dataclass(frozen=True, eq=False)
class Dataset:
    """The rows of one table for every ID that the classic router owns."""

    name: str
    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        """Its columns, the key first."""
        return self.table.schema

    @cached_property
    def rows(self) -> dict[int, Flat]:
        """The rows by key, ascending."""
        return {row[0]: flat(row) for row in as_rows(self.table)}

    @cached_property
    def by_shard(self) -> dict[ShardKey, list[Flat]]:
        """The rows of each shard, ascending."""
        owners = {row_id: CLASSIC.locate(row_id) for row_id in self.rows}
        return {shard: [row for row in self.rows.values() if owners[row[0]] == shard] for shard in CLASSIC.shards}


def dataset(name: str, seed: int = 0) -> Dataset:
    """The table of that name; `seed` deals the values of the wide one. `UsageError` for an unknown name."""
    if name not in TABLES:
        raise UsageError(unknown("table", str(name), TABLES))
    return Dataset(name, truth(CLASSIC, ROWS if name == "classic" else _wide(seed), "id"))


_SAME = "the same"
_ODD: dict[int, str | None] = {
    4: None,
    5: "",
    6: _SAME,
    7: 'O\'Brien: "no\\yes"\n\t%s; --',
    8: "Grüße, 数据 🎲",
    9: "null",
    0: "  NaN ",
}
"""Names by the last digit of the ID, each a kind that some reader has once corrupted; the others are "Test <id>"."""
_FILLING = "long enough to be cut ⋯ "


def _name(row_id: int) -> str | None:
    odd = _ODD.get(row_id % 10, f"Test {row_id}")
    # Names in a shard's first range are short, so that a connection cut after 200 bytes has let some rows through;
    # in its second range they are long, so that the answer is several kilobytes: many packets, and slow to trickle.
    return odd if row_id <= 30 or odd in (None, _SAME) else (odd + f" {row_id} " + _FILLING * 10)[:240]


ROWS: dict[int, str | None] = {i: _name(i) for low, high, _ in CLASSIC.spans for i in range(low, high + 1)}
"""id -> name, ascending, for every ID that the classic router owns."""

_MOMENTS = (dt.datetime(1, 1, 2), dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(9999, 12, 30, 1, 2, 3, 4))
_VALUES: dict[str, tuple[pa.DataType, tuple[Any, ...]]] = {
    "small": (pa.int16(), (-(2**15), 2**15 - 1, 0)),
    "count": (pa.int32(), (-(2**31), 2**31 - 1, -1)),
    "total": (pa.int64(), (INT64_MIN, INT64_MAX, 2**53 + 1)),
    "weight": (pa.float32(), (0.1, -0.0, 1e-45, float("inf"))),
    "ratio": (pa.float64(), (0.1, 5e-324, 1.7976931348623157e308, float("-inf"))),
    "amount": (pa.decimal128(12, 2), (Decimal("0.01"), Decimal("-9999999999.99"), Decimal("1E+3"))),
    "exact": (pa.decimal128(38, 9), (Decimal("1E-9"), Decimal("-99999999999999999999999999999.999999999"))),
    "Paid?": (pa.bool_(), (True, False)),
    "raw": (pa.binary(), (b"", b"\0\xff\\x", b"{}")),
    "day": (pa.date32(), (dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(2024, 2, 29))),
    "at_time": (pa.time64("us"), (dt.time(0), dt.time(23, 59, 59, 999999))),
    "local_at": (pa.timestamp("us"), _MOMENTS),
    "created_at": (pa.timestamp("us", "UTC"), _MOMENTS),
    "took": (pa.month_day_nano_interval(), (pa.MonthDayNano([0, 0, 0]), pa.MonthDayNano([0, 400, 86_399_999_999_000]))),
    "tags": (pa.list_(pa.string()), ([], ["", None, 'a "b"', "c\\d", "{e,f}", "NULL"])),
    "scores": (pa.list_(pa.int32()), ([], [None], [2**31 - 1, -(2**31), 0])),
}
"""The columns of the wide table behind id and name. NaN is not among them: many readers take it for NULL, and may."""


def _wide(seed: int) -> pa.Table:
    """Every ID with the name it has in the classic table, and columns whose values and NULLs are dealt by the seed."""
    columns: dict[str, Any] = {"id": list(ROWS), "name": pa.array(ROWS.values(), pa.string())}
    for name, (kind, values) in _VALUES.items():
        dealt = [(None, *values)[place % (len(values) + 1)] for place in range(len(ROWS))]
        Random(f"{seed}|{name}").shuffle(dealt)
        columns[name] = pa.array(dealt, kind)
    return pa.table(columns)
