"""The SELECTs of a Postgres shard, and their form for COPY; SQLAlchemy compiles each once."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg

from labkit._filters import Condition, Filters
from labkit.aggregates import Aggregate
from labkit.shards.base import Ask
from labkit.shards.postgres.columns import BIGINT, CATALOGUE, DOUBLE, NOTHING, TEXT, Column

__all__ = ["Statements", "computed", "quoted_table", "table_of", "with_catalogue"]

_DIALECT: Any = asyncpg.dialect(paramstyle="named")  # type: ignore[no-untyped-call]

_WHOLE = f"row_{secrets.token_hex(8)}"
"""What a whole row is called, since no column must have that name."""
_GAPS = ("gap low", "gap high")
_UNIQUE = """EXISTS (
    SELECT FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attname = '{key}' AND a.attnotnull
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid AND (c.relkind = 'p' OR NOT c.relhassubclass)
    WHERE i.indrelid = '{table}'::pg_catalog.regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
        AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)"""
"""Whether an index keeps the key unique and not NULL, so that nobody need count."""
_CHECKS = """ARRAY(
    SELECT pg_catalog.pg_get_expr(conbin, conrelid) FROM pg_catalog.pg_constraint
    WHERE conrelid = '{table}'::pg_catalog.regclass AND contype = 'c' AND convalidated AND NOT connoinherit)"""
_TEXT = Column("", TEXT, pa.large_string(), TEXT)
_BIGINT = Column("", BIGINT, pa.int64(), BIGINT)
_DOUBLE = Column("", DOUBLE, pa.float64(), DOUBLE)


def table_of(table: str | sa.Table) -> Any:
    """A table, by its name or `schema.name`, without its columns."""
    if isinstance(table, sa.Table):
        return sa.table(table.name, schema=table.schema)
    schema, _, name = table.rpartition(".")
    return sa.table(name, schema=schema or None)


def quoted_table(table: Any) -> str:
    """Its name with its schema, quoted where necessary."""
    return str(_DIALECT.identifier_preparer.format_table(table))


def with_catalogue(table: Any, key: str, names: Sequence[str] | None, ask: Ask) -> tuple[str, list[Any]]:
    """`CATALOGUE`, followed by the rows of a query as records in binary form, in one statement and so of one moment,
    for columns that are not known yet; and its parameters. `names` are the columns of a record; None is all of the
    table's, in its order. There are no filters.
    """
    bounds, whole = _bounds(ask), sa.alias(table, _WHOLE)
    record = sa.literal_column(_WHOLE) if names is None else sa.func.row(*map(sa.column, names))
    rows = sa.select(sa.literal_column(NOTHING), sa.func.record_send(record)).select_from(whole)
    rows = _bounded(rows.order_by(sa.column(key)), sa.column(key), tuple(bounds))
    text = f"SELECT c.*, NULL::bytea FROM ({CATALOGUE}) AS c UNION ALL ({rows.compile(dialect=_DIALECT).string})"  # noqa: S608
    for number, name in enumerate(bounds, start=2):
        text = text.replace(_mark(name), f"${number}")
    return text, [quoted_table(table), *bounds.values()]


class Statements:
    """The SELECT of some columns for each kind of window, as text: with `$1` for asyncpg, and with literal numbers for
    COPY.

    SQLAlchemy compiles it once per kind, with a mark for each number. Its own parameter syntax could also occur in the
    names of tables and columns.
    """

    def __init__(self, table: Any, columns: Sequence[Column], others: Sequence[Column], guarded: bool) -> None:
        self._all = {column.name: column for column in (*columns, *others)}
        self._table: Any = sa.table(table.name, *map(sa.column, self._all), schema=table.schema)
        # Without the table's name: `t.concat` is `concat(t)` to Postgres once there is no such column.
        self._alone: dict[str, Any] = {name: sa.column(name) for name in self._all}
        self._values = [_value(self._alone[column.name], column) for column in columns]
        self._key = self._values[0]
        self._guard: list[Any] = [sa.literal_column(_guard(quoted_table(table)))] if guarded else []
        self._compiled: dict[tuple[Any, ...], str] = {}

    def rows(self, ask: Ask) -> tuple[str, list[Any]]:
        """The SELECT of the columns, followed by the table's number of columns if guarded, and its parameters."""
        return self._numbered(ask, "rows")

    def records(self, ask: Ask) -> tuple[str, list[Any]]:
        """The SELECT of each row as one value in binary form, followed by the table's number of columns if guarded."""
        return self._numbered(ask, "records")

    def aggregates(self, ask: Ask) -> tuple[str, list[Any]]:
        """The SELECT of the number of rows with what `computed` says of each aggregate as one record in binary form;
        for each `top` an array of records; an ID in one of the gaps that are the last two parameters, arrays of their
        ends; how many rows too many have an ID; the table's CHECK constraints; its number of columns if guarded.

        All of it is of one moment.
        """
        bounds, operands = _bounds(ask), _operands(ask.filters)
        kind = "aggregates", tuple(bounds), _shape(ask.filters), ask.aggregates
        if kind not in self._compiled:
            text = self._aggregated(ask, tuple(bounds)).compile(dialect=_DIALECT).string
            for number, name in enumerate((*bounds, *operands, *_GAPS), start=1):
                text = text.replace(_mark(name), f"${number}")
            self._compiled[kind] = text
        return self._compiled[kind], [*bounds.values(), *operands.values()]

    def _aggregated(self, ask: Ask, bounds: tuple[str, ...]) -> Any:
        name = quoted_table(self._table).replace("'", "''")
        column, key = self._alone, self._key

        def of(*wanted: Any, window: tuple[str, ...] = bounds) -> Any:
            """Selects of the rows in the window that the filters want; from an alias, else it would be correlated."""
            select = _bounded(sa.select(*wanted).select_from(self._table.alias()), key, window)
            return select if ask.filters is None else select.where(self._wanted(ask.filters))

        values, tops = [], []
        for one in ask.aggregates:
            if one.kind == "top":
                order = ordered(column[one.column], self._all[one.column])
                rows = of(sa.func.record_send(sa.func.row(*self._values))).where(column[one.column].is_not(None))
                rows = rows.order_by(order.desc(), key).limit(sa.literal_column(str(one.size)))
                tops.append(sa.func.array(rows.scalar_subquery()))
            elif one.kind != "count":
                values += [value for value, _ in computed(one, column[one.column], self._all[one.column])]
        gaps = sa.func.unnest(*(sa.literal_column(f"{_mark(end)}::bigint[]") for end in _GAPS))
        gap = gaps.table_valued("low", "high", name="gap").render_derived()
        # With an order and a limit, so that the server looks into the key's index.
        inside = of(key.label("stranger"), window=()).where(key >= gap.c.low, key <= gap.c.high)
        found = inside.order_by(key).limit(sa.literal_column("1")).lateral()
        foreign = sa.select(found.c.stranger).select_from(sa.join(gap, found, sa.true()))
        repeated = of(sa.func.count() - sa.func.count(key.distinct()))
        unique: Any = sa.literal_column(_UNIQUE.format(table=name, key=key.name.replace("'", "''")))
        return of(
            sa.func.record_send(sa.func.row(sa.func.count(), *values)),
            *tops,
            foreign.limit(sa.literal_column("1")).scalar_subquery(),
            sa.case((unique, sa.literal_column("0")), else_=repeated.scalar_subquery()),
            sa.literal_column(_CHECKS.format(table=name)),
            *self._guard,
        )

    def literal(self, ask: Ask) -> str:
        """The SELECT of the columns with literal numbers, since COPY takes no parameters. They are integers, and
        quoted. There are no filters.
        """
        bounds = _bounds(ask)
        marked = self._marked("copy", tuple(bounds), None)
        for name, value in bounds.items():
            marked = marked.replace(_mark(name), f"'{value:d}'")
        return marked

    def _numbered(self, ask: Ask, form: str) -> tuple[str, list[Any]]:
        bounds, operands = _bounds(ask), _operands(ask.filters)
        kind = form, tuple(bounds), _shape(ask.filters), "$"
        if kind not in self._compiled:
            text = self._marked(form, tuple(bounds), ask.filters)
            for number, name in enumerate((*bounds, *operands), start=1):
                text = text.replace(_mark(name), f"${number}")
            self._compiled[kind] = text
        return self._compiled[kind], [*bounds.values(), *operands.values()]

    def _marked(self, form: str, bounds: tuple[str, ...], filters: Filters | None) -> str:
        """The SELECT in this form for these bounds and filters, with marks for their values."""
        kind = form, bounds, _shape(filters)
        if kind not in self._compiled:
            wanted = [sa.func.record_send(sa.func.row(*self._values))] if form == "records" else self._values
            guard = self._guard if form != "copy" else []
            select = sa.select(*wanted, *guard).select_from(self._table).order_by(self._key)
            select = _bounded(select, self._key, bounds)
            if filters is not None:
                select = select.where(self._wanted(filters))
            self._compiled[kind] = select.compile(dialect=_DIALECT).string
        return self._compiled[kind]

    def _wanted(self, filters: Filters) -> Any:
        """The condition of the filters, with a mark for each operand."""
        marks = iter(_operands(filters))

        def holds(condition: Condition) -> Any:
            value, column = self._alone[condition.column], self._all[condition.column]
            if condition.operator in ("is null", "is not null"):
                return value.is_(None) if condition.operator == "is null" else value.is_not(None)
            return _compared(value, column, condition.operator, _mark(next(marks)))

        return sa.or_(*(sa.and_(sa.true(), *map(holds, some)) for some in filters))


def computed(aggregate: Aggregate, value: Any, column: Column) -> list[tuple[Any, Column]]:
    """What the server computes for a sum, mean, minimum or maximum of a column, each with the type of the result.

    The sum, the number of values, and of floats the sum of their absolute values, which bounds the error of rounding;
    or the value.
    """
    if aggregate.kind in ("sum", "avg"):
        if pa.types.is_floating(column.type):
            double = sa.cast(value, sa.Double)
            sums = [sa.func.sum(double), sa.func.count(double), sa.func.sum(sa.func.abs(double))]
            return list(zip(sums, (_DOUBLE, _BIGINT, _DOUBLE), strict=True))
        return [(sa.cast(sa.func.sum(value), sa.Text), _TEXT), (sa.func.count(value), _BIGINT)]
    plain = replace(column, declared=column.oid)  # functions return the base of a domain
    if pa.types.is_boolean(column.type):
        either = sa.func.bool_and if aggregate.kind == "min" else sa.func.bool_or
        return [(either(value), plain)]
    extreme = getattr(sa.func, aggregate.kind)
    if pa.types.is_large_binary(
        column.type
    ):  # Postgres has no minimum of bytes; their hexadecimal form has their order
        text = sa.collate(sa.func.encode(value, sa.literal_column("'hex'")), "C")
        return [(sa.func.decode(extreme(text), sa.literal_column("'hex'")), plain)]
    if column.is_number:
        return [(sa.cast(extreme(value), sa.Text), plain)]
    if pa.types.is_large_string(column.type):
        return [(extreme(ordered(value, column)), replace(_TEXT, name=column.name))]
    return [(extreme(value), plain)]


def ordered(value: Any, column: Column) -> Any:
    """The column as it is ordered and compared: text by its code points."""
    if column.is_number or not pa.types.is_large_string(column.type):
        return value
    return sa.collate(_as_text(value, column), "C")


def _as_text(value: Any, column: Column) -> Any:
    if column.sql == "character":
        return sa.func.textin(sa.func.bpcharout(value))  # a cast would cut trailing spaces off
    return value if column.sql in ("text", "character varying") else sa.cast(value, sa.Text)


def _compared(value: Any, column: Column, operator: str, mark: str) -> Any:
    """The comparison of a column with a parameter, which is sent as text: in the column's type, text by code points.

    Equality of text needs no collation, so that an index is used.
    """
    kind = column.sql
    if column.is_number:
        pass
    elif pa.types.is_large_string(column.type):
        kind = "text"
        value = ordered(value, column) if operator in ("<", "<=", ">", ">=") else _as_text(value, column)
    elif pa.types.is_integer(column.type):
        kind = "bigint"
        if column.sql == "oid":
            value = sa.cast(value, sa.BigInteger)  # not the other way round: a number may be no oid
    if operator in ("in", "not in"):
        either = sa.any_ if operator == "in" else sa.all_
        several = either(sa.literal_column(f"{mark}::text[]::{kind}[]"))
        return value == several if operator == "in" else sa.and_(value.is_not(None), value != several)
    return value.op(operator, is_comparison=True)(sa.literal_column(f"{mark}::text::{kind}"))


def _operands(filters: Filters | None) -> dict[str, Any]:
    """The parameters of filters, by their marks' names, as Postgres reads them: texts, and lists of texts."""
    conditions = [condition for some in filters or () for condition in some if condition.value is not None]
    return {
        f"operand {number}": [_text(one) for one in value] if isinstance(value, tuple) else _text(value)
        for number, value in enumerate(condition.value for condition in conditions)
    }


def _shape(filters: Filters | None) -> Any:
    """What makes one statement of filters, without their values."""
    return filters and tuple(tuple((one.column, one.operator) for one in some) for some in filters)


def _text(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case bytes():
            return f"\\x{value.hex()}"
        case datetime.date() | datetime.time():
            return value.isoformat()
        case _:
            return str(value)


def _value(value: Any, column: Column) -> Any:
    return sa.cast(value, sa.Text).label(column.name) if column.cast else value


def _guard(table: str) -> str:
    """Changes with the number of columns, also of those that were dropped, and with another table of that name."""
    name = table.replace("'", "''")
    where = f"oid = '{name}'::pg_catalog.regclass"
    return f"(SELECT oid::bigint * 2048 + relnatts FROM pg_catalog.pg_class WHERE {where})"  # noqa: S608 - quoted


def _bounds(ask: Ask) -> dict[str, int]:
    """The bounds that are given, as Python integers: numpy's are formatted and sent differently."""
    bounds = {"low": ask.low, "high": ask.high, "limit": ask.limit}
    return {name: int(value) for name, value in bounds.items() if value is not None}


def _mark(name: str) -> str:
    """A mark that no Postgres name can contain."""
    return f"\0{name}\0"


def _bounded(rows: sa.Select[Any], key: Any, kind: tuple[str, ...]) -> sa.Select[Any]:
    # BIGINT whatever the column's type: a bound may be out of its range.
    places = {name: sa.literal_column(f"{_mark(name)}::BIGINT", sa.BigInteger) for name in kind}
    if "low" in places:
        rows = rows.where(key >= places["low"])
    if "high" in places:
        rows = rows.where(key <= places["high"])
    return rows.limit(places["limit"]) if "limit" in places else rows
