"""The truth of a lab: the rows that its shards hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import pyarrow as pa

from labkit._checks import shown
from labkit._types import INT64_MAX, INT64_MIN, ShardKey
from labkit.answer import check
from labkit.errors import UsageError
from labkit.faults.base import Row
from labkit.router import RangeRouter, as_id
from labkit.shards.schemas import read_as
from labkit.tables import SCHEMA, InvalidAnswer, shown_type, to_ids, to_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Rows", "as_rows", "by_shard", "foreign", "key_of", "one_row", "truth", "with_row", "without_row"]

Rows: TypeAlias = (
    "pd.DataFrame | pa.Table | pa.RecordBatch | Mapping[int, str | None] | Iterable[tuple[int, str | None]]"
)
FOREIGN = 100
"""Ranges that are searched for IDs of other shards."""
MOST = 10_000_000
"""Maximum rows made up for `rows=None`; a router may own far more IDs than a lab should hold rows."""


def truth(router: RangeRouter, rows: Rows | None, key: str = "id") -> pa.Table:
    """`rows` as a table, the key first, ascending by key; `rows=None` is one row "Test <id>" for every ID owned.

    Columns get the types that reads return. Those of a DataFrame: int, float, bool, str and datetime as Arrow has them,
    with NaN, NaT and NA as NULL; a category is its values; an object column what its values are, with 38 digits for
    Decimals. Times are kept to the microsecond.

    Raises `UsageError` for rows that no correct shard could hold: repeated, unowned or non-integer keys, and types that
    no server has.
    """
    if not isinstance(key, str) or not key:
        raise UsageError(f"key must be the name of a column, not {shown(key)}")
    if rows is None:
        table = _of_pairs(_one_per_owned_id(router))
    elif isinstance(rows, pa.Table):
        table = _of_table(rows, key)
    elif hasattr(rows, "itertuples"):
        table = _of_table(_of_frame(rows, key), key)
    elif hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__"):
        table = _of_table(pa.table(rows), key)
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


def as_rows(table: pa.Table) -> list[Row]:
    """The rows as Python objects: (id, name), or the key and a tuple of the others, in the types of `to_json`."""
    if table.schema.equals(SCHEMA):
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return [(row_id, tuple(others)) for row_id, *others in (row.values() for row in to_json(table))]


def key_of(row: Any, schema: pa.Schema) -> int:
    """The key of a row to write, given as its values by column or in their order; `UsageError` if it has none."""
    key = schema.names[0]
    if not isinstance(row, Mapping | Sequence) or isinstance(row, str | bytes):
        raise UsageError(f"a row is a mapping, or a sequence of {', '.join(schema.names)}, not {shown(row)}")
    if not row or (isinstance(row, Mapping) and key not in row):
        raise UsageError(f"a row needs its key, {key}: {shown(row)}")
    return as_id(row[key] if isinstance(row, Mapping) else row[0])


def one_row(row: Any, schema: pa.Schema) -> pa.Table:
    """A row to write, given as for `key_of`; `UsageError` for values of other types, and for columns that the table
    does not have. Those that a mapping leaves out are NULL.
    """
    row_id = key_of(row, schema)
    if not isinstance(row, Mapping) and len(row) != len(schema):
        raise UsageError(f"a row has {len(schema)} values ({', '.join(schema.names)}), not {shown(row)}")
    values = dict(row) if isinstance(row, Mapping) else dict(zip(schema.names, row, strict=True))
    if odd := [name for name in values if name not in schema.names]:
        raise UsageError(f"the table has no column {odd[0]}: it has {', '.join(schema.names)}")
    columns = [pa.array([row_id], schema.types[0]), *(_one_value(values.get(f.name), f) for f in list(schema)[1:])]
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


def _one_value(value: Any, field: pa.Field) -> pa.Array:
    # Arrow would take True and 1.0 for 1, and a text for a list of its characters.
    mistaken = (pa.types.is_integer(field.type) and isinstance(value, bool | float)) or (
        pa.types.is_list(field.type) and isinstance(value, str | bytes | Mapping)
    )
    try:
        if not mistaken:
            return pa.array([value], field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    kind = "text" if field.type == pa.large_string() else shown_type(field.type)
    raise UsageError(f"the {field.name} of a row must be {kind} or None, not {shown(value)}")


def _of_frame(frame: Any, key: str) -> pa.Table:
    """The columns of a DataFrame, each in the type of its values. The key may be its index."""
    if key not in frame.columns and key in frame.index.names:
        frame = frame.reset_index()
    _check_names(list(frame.columns))
    columns = {}
    for name in frame.columns:
        try:
            untold = pa.large_string() if frame.empty and frame[name].dtype == object else None
            values = frame[name]
            if len(values) and isinstance(values.dropna().iloc[:1].squeeze(), UUID):  # older releases of Arrow lack it
                values = values.map(_text, na_action="ignore")
            columns[name] = pa.array(values, untold, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise _untyped(name, _line(error)) from None
        if frame[name].dtype == object and pa.types.is_decimal128(columns[name].type):
            columns[name] = columns[name].cast(pa.decimal128(38, columns[name].type.scale))  # room for further rows
    return pa.table(columns) if columns else pa.table({})


def _of_table(table: pa.Table, key: str) -> pa.Table:
    """With the key first, ascending, and each column in the type that reads return."""
    _check_names(table.schema.names)
    if key not in table.schema.names:
        raise UsageError(f"rows of a lab need the column {key}, their key: they have {', '.join(table.schema.names)}")
    columns = {name: _column(name, table.column(name)) for name in (key, *table.schema.names)}
    kind = columns[key].type
    if columns[key].null_count or not (pa.types.is_integer(kind) or not table.num_rows):
        what = (
            f"NULL in row {columns[key].is_null().index(True).as_py()}" if columns[key].null_count else shown_type(kind)
        )
        raise UsageError(f"the key {key} must be integers without NULL, not {what}: cast it to int64, or pass key=")
    columns[key] = columns[key].cast(pa.int64()) if table.num_rows else pa.chunked_array([], pa.int64())
    return pa.table(columns).sort_by(key).combine_chunks()


def _check_names(names: Sequence[Any]) -> None:
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise UsageError(f"columns of a lab have texts for names, not {shown(name)}: rename the column")
        if name in names[:number]:
            raise UsageError(f"rows of a lab have two columns named {name}: rename one")


def _column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in the type that reads return; `UsageError` with what to do if there is none."""
    if isinstance(column.type, pa.UuidType):
        return pa.chunked_array([pa.array([_text(value) for value in column.to_pylist()], pa.large_string())])
    try:
        kind = read_as(column.type)
    except TypeError:
        kind = None
    if kind is None or (pa.types.is_decimal(kind) and not 0 <= kind.scale <= kind.precision):
        raise _untyped(name, f"{shown_type(column.type)} is not supported", column.type)
    if pa.types.is_interval(column.type) and any(one.nanoseconds % 1000 for one in column.to_pylist() if one):
        raise _untyped(name, "an interval has nanoseconds", column.type)
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise _untyped(name, _line(error), column.type) from None


def _untyped(name: str, why: str, kind: pa.DataType | None = None) -> UsageError:
    """The error for a column that no server can have as it is: why, and the fix."""
    fix = "make its values of one type, or text with .astype(str)"
    if kind is not None:
        fix = next((words for test, words in _FIXES if test(kind)), "cast it, for example to text")
    return UsageError(f"column {name} cannot be loaded: {why}; {fix}")


def _line(error: Exception) -> str:
    """An error of Arrow's in one line."""
    return " ".join(str(error.args[0] if error.args else error).split())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _is_any(*tests: Any) -> Any:
    return lambda kind: any(test(kind) for test in tests)


_FIXES: tuple[tuple[Any, str], ...] = (
    (pa.types.is_struct, "make it text, for example with .map(json.dumps)"),
    (pa.types.is_duration, "make it a number, for example with .dt.total_seconds()"),
    (pa.types.is_interval, "round it to microseconds"),
    (_is_any(pa.types.is_timestamp, pa.types.is_time), "round it to microseconds, for example with .dt.floor('us')"),
    (pa.types.is_decimal, "cast it to a decimal128 of 38 digits or fewer"),
    (pa.types.is_nested, "make it text, for example with .map(json.dumps)"),
)
