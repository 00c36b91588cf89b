"""The truth of a lab: the rows that its shards hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from labkit._checks import shown
from labkit._types import INT64_MAX, INT64_MIN, ShardKey
from labkit.answer import check
from labkit.errors import UsageError
from labkit.router import RangeRouter
from labkit.tables import SCHEMA, InvalidAnswer, to_ids

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Rows", "by_shard", "foreign", "one_row", "truth", "with_row", "without_row"]

Rows: TypeAlias = "pd.DataFrame | pa.Table | Mapping[int, str | None] | Iterable[tuple[int, str | None]]"
FOREIGN = 100
"""Ranges that are searched for IDs of other shards."""
MOST = 10_000_000
"""Maximum rows made up for `rows=None`; a router may own far more IDs than a lab should hold rows."""


def truth(router: RangeRouter, rows: Rows | None, key: str = "id") -> pa.Table:
    """`rows` as a table, the key first, ascending by key; `rows=None` is one row "Test <id>" for every ID owned.

    Raises `UsageError` for rows that no correct shard could hold: repeated, unowned or non-integer keys, and types that
    no server has.
    """
    if rows is None:
        table = _of_pairs(_one_per_owned_id(router))
    elif isinstance(rows, pa.Table):
        table = _of_table(rows, key)
    elif hasattr(rows, "itertuples"):
        table = _of_table(_of_frame(rows), key)
    else:
        table = _of_pairs(_pairs(rows))
    if table.schema.names[0] != key:
        table = table.rename_columns([key, *table.schema.names[1:]])
    ids = to_ids(table)
    if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
        raise UsageError(f"rows of a lab have unique keys: {key} {repeated[0]} is there twice")
    unowned = ids[router.locate_many(ids) < 0]
    if unowned.size:
        raise UsageError(f"no shard owns {key} {unowned[0]}: widen the router's ranges or leave the row out")
    return table


def by_shard(router: RangeRouter, table: pa.Table) -> dict[ShardKey, pa.Table]:
    """The rows of each shard, ascending by key."""
    owner = router.locate_many(to_ids(table))
    return {shard: table.filter(pa.array(owner == i)) for i, shard in enumerate(router.shards)}


def one_row(row: Any, schema: pa.Schema) -> pa.Table:
    """A row to write, given as its values by column or in their order; `UsageError` for values of other types, and for
    columns that the table does not have. Those that are not given are NULL.
    """
    values = dict(row) if isinstance(row, Mapping) else dict(zip(schema.names, row, strict=False))
    if odd := [name for name in values if name not in schema.names]:
        raise UsageError(f"the table has no column {odd[0]}: it has {', '.join(schema.names)}")
    if not isinstance(row, Mapping) and len(row) != len(schema):
        raise UsageError(f"a row has {len(schema)} values ({', '.join(schema.names)}), not {shown(row)}")
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([values.get(field.name)], field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            value = values.get(field.name)
            raise UsageError(f"the {field.name} of a row must be {field.type} or None, not {value!r}") from None
    return pa.Table.from_arrays(columns, schema=schema)


def with_row(table: pa.Table, row: pa.Table) -> pa.Table:
    """The truth after a row was written."""
    row_id, ids = row.column(0)[0].as_py(), to_ids(table)
    before, after = int(ids.searchsorted(row_id)), int(ids.searchsorted(row_id, "right"))
    return pa.concat_tables([table.slice(0, before), row, table.slice(after)]).combine_chunks()


def without_row(table: pa.Table, row_id: int) -> pa.Table:
    """The truth after a row was deleted."""
    return table.filter(pa.array(to_ids(table) != row_id))


def foreign(router: RangeRouter, shard: ShardKey) -> list[int]:
    """Some IDs that the shard does not own, ascending: bounds of the others' ranges, else an ID that no shard owns."""
    others = [i for low, high, owner in router.spans[:FOREIGN] if owner != shard for i in (low, high)]
    low, high = router.spans[0][0], router.spans[-1][1]
    return sorted(set(others)) or ([high + 1] if high < INT64_MAX else [low - 1])


def _one_per_owned_id(router: RangeRouter) -> list[tuple[Any, ...]]:
    if router.count > MOST:
        raise UsageError(f"the router owns {router.count:,} IDs, more than the {MOST:,} rows made up: pass rows=")
    return [(i, f"Test {i}") for low, high, _ in router.spans for i in range(low, high + 1)]


def _pairs(rows: Any) -> list[tuple[Any, ...]]:
    try:
        return list(rows.items()) if isinstance(rows, Mapping) else [tuple(row) for row in rows]
    except TypeError:
        raise UsageError(f"rows of a lab are (id, name) pairs, a DataFrame or an Arrow table, not {rows!r}") from None


def _of_pairs(pairs: list[tuple[Any, ...]]) -> pa.Table:
    try:
        pairs.sort(key=lambda pair: pair[0])
        return check(pairs, ((INT64_MIN, INT64_MAX),)) if pairs else SCHEMA.empty_table()
    except (InvalidAnswer, TypeError, IndexError) as error:
        raise UsageError(f"rows of a lab are (id, name) pairs with unique integer ids: {error}") from None


def _of_frame(frame: Any) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UsageError(f"rows of a lab cannot be Arrow columns: {' '.join(str(error).split())}") from None


def _of_table(table: pa.Table, key: str) -> pa.Table:
    """With the key first, ascending, and each column in the type that reads return."""
    if key not in table.schema.names:
        raise UsageError(f"rows of a lab need the column {key}, their key: they have {', '.join(table.schema.names)}")
    columns = {name: _column(name, table.column(name)) for name in (key, *table.schema.names)}
    kind = columns[key].type
    if not pa.types.is_integer(kind) or columns[key].null_count:
        raise UsageError(f"the key {key} must be integers without NULL, not {kind}")
    columns[key] = columns[key].cast(pa.int64())
    return pa.table(columns).sort_by(key)


def _column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(_read_as(column.type))
    except (pa.ArrowException, TypeError) as error:
        raise UsageError(f"no server has the type of column {name}: {' '.join(str(error).split())}") from None


def _read_as(kind: pa.DataType) -> pa.DataType:
    """The type in which reads return such values; TypeError if there is none."""
    if pa.types.is_dictionary(kind):
        return _read_as(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_read_as(kind.value_type))
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    for test, known in _READ_AS:
        if test(kind):
            return known or kind
    raise TypeError(f"{kind} is not supported; cast it, for example to text")


_READ_AS: tuple[tuple[Any, pa.DataType | None], ...] = (
    (lambda kind: kind in (pa.int8(), pa.int16()), pa.int16()),
    (lambda kind: kind in (pa.uint8(), pa.uint16(), pa.int32()), pa.int32()),
    (pa.types.is_integer, pa.int64()),
    (lambda kind: kind in (pa.float16(), pa.float32()), pa.float32()),
    (pa.types.is_float64, None),
    (pa.types.is_decimal128, None),
    (pa.types.is_boolean, None),
    (lambda kind: any(map(lambda is_: is_(kind), _TEXTS)), pa.large_string()),
    (lambda kind: any(map(lambda is_: is_(kind), _BINARIES)), pa.large_binary()),
    (pa.types.is_date, pa.date32()),
    (pa.types.is_time, pa.time64("us")),
    (pa.types.is_interval, None),
)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
