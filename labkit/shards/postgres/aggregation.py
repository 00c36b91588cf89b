"""What Postgres computes of a table's rows for `labkit.aggregates`, and what its CHECK constraints say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from labkit._filters import Written, operand
from labkit._types import INT64_MAX, INT64_MIN, Range
from labkit.aggregates import Aggregate, Bounds, Partial
from labkit.errors import UsageError
from labkit.shards.base import Ask
from labkit.shards.postgres.columns import BIGINT, Column, schema_of
from labkit.shards.postgres.records import records_batch
from labkit.shards.postgres.statements import computed
from labkit.tables import InvalidAnswer, is_number

__all__ = ["between", "bounds_in", "partial_in"]

_COUNT = Column("the number of rows", BIGINT, pa.int64(), BIGINT)
_ROUNDING = 2.0**-52
"""Relative error of adding two doubles, twice the greatest."""
_LITERAL = r"""\(*(?:'(?P<quoted>[^']+)'|(?P<number>-?[\d.]+))(?:\)|::[a-z ]+(?:\(\d+(?:,\d+)?\)[a-z ]*)?)*"""
_COMPARISON = re.compile(rf"""(?P<column>"(?:[^"]|"")+"|\w+) (?P<operator><=|>=|<|>|=) {_LITERAL}""")


def between(ask: Ask) -> Iterator[Range]:
    """The parts of the window that are in none of the ranges: no row should be there."""
    after = INT64_MIN if ask.low is None else ask.low
    for low, high in ask.ranges:
        if low > after:
            yield after, low - 1
        after = high + 1
    end = INT64_MAX if ask.high is None else ask.high
    if after <= end:
        yield after, end


def partial_in(
    row: Sequence[Any], columns: Sequence[Column], schema: pa.Schema, aggregates: Sequence[Aggregate]
) -> Partial:
    """What is in the row of `Statements.aggregates`. Raises `InvalidAnswer` for IDs and values that the contract of an
    answer forbids.
    """
    record, *others = row
    tops = [others.pop(0) for one in aggregates if one.kind == "top"]
    foreign, repeated, checks = others[:3]
    if foreign is not None:
        raise InvalidAnswer(f"{schema.names[0]} {foreign} is outside the ranges asked of this shard")
    if repeated:
        raise InvalidAnswer(f"a value of {schema.names[0]} is there twice, or is NULL")
    by_name = {column.name: column for column in columns}
    parts = {
        one: [column for _, column in computed(one, sa.column(one.column), by_name[one.column])]
        for one in aggregates
        if one.kind not in ("count", "top")
    }
    kinds = [_COUNT, *(column for one in aggregates for column in parts.get(one, ()))]
    rows, *found = records_batch(kinds, schema_of(kinds), [record], 0).columns
    values: list[Any] = []
    for one in aggregates:
        if one.kind == "top":
            batches = [records_batch(columns, schema, tops.pop(0) or [], 0)]
            values.append(pa.Table.from_batches(batches, schema))
        elif one.kind in ("sum", "avg"):
            values.append(_sum(by_name[one.column], [found.pop(0)[0].as_py() for _ in parts[one]]))
        else:
            values.append(found.pop(0).drop_null() if one in parts else None)
    return Partial(schema, rows[0].as_py(), tuple(values), bounds_in(checks, schema))


def bounds_in(checks: Sequence[str], schema: pa.Schema) -> dict[str, Bounds]:
    """What CHECK constraints say of columns, `amount >= 0 AND amount <= 500` for example, if they are that plain.

    Not of text, whose order in the database is another one. A strict inequality counts like one that is not strict.
    """
    bounds: dict[str, Bounds] = {}
    for check in checks:
        for term in _terms(check):
            found = _COMPARISON.fullmatch(term)
            if found is None:
                continue
            name, operator = found["column"], found["operator"]
            name = name[1:-1].replace('""', '"') if name.startswith('"') else name
            field = schema.field(name) if name in schema.names else None
            if field is None or (pa.types.is_large_string(field.type) and not is_number(field)):
                continue
            try:
                value = operand(Written(found["quoted"] or found["number"]), field, "")
            except UsageError:
                continue
            low, high = bounds.get(name, (None, None))
            if operator in (">", ">=", "="):
                low = value if low is None else max(low, value)
            if operator in ("<", "<=", "="):
                high = value if high is None else min(high, value)
            bounds[name] = low, high
    return bounds


def _sum(column: Column, found: list[Any]) -> tuple[Any, int, float]:
    """The sum, the number of values, and by how much the sum may be wrong."""
    total, number, *absolute = found
    if absolute:
        return total, number, number * _ROUNDING * (absolute[0] or 0.0)
    if total is None:
        return None, number, 0.0
    if pa.types.is_integer(column.type):
        return int(total), number, 0.0
    exact = Decimal(total)
    if not exact.is_finite() and not column.is_number:
        raise InvalidAnswer(f"the sum of {column.name} is {total}, which {column.type} cannot hold")
    return exact, number, 0.0


def _terms(check: str) -> list[str]:
    """The parts of a conjunction, as Postgres writes an expression: each operation in parentheses."""
    while check.startswith("(") and _closes(check) == len(check) - 1:
        check = check[1:-1]
    parts, at = [], 0
    for found in re.finditer(" AND ", check):
        if _depth(check[: found.start()]) == 0:
            parts.append(check[at : found.start()])
            at = found.end()
    return [check] if not parts else [term for part in (*parts, check[at:]) for term in _terms(part)]


def _unquoted(text: str) -> str:
    """Without what is in quotes."""
    return re.sub(r"""'[^']*'|"[^"]*\"""", lambda found: "_" * len(found[0]), text)


def _depth(text: str) -> int:
    plain = _unquoted(text)
    return 1 if "'" in plain or '"' in plain else plain.count("(") - plain.count(")")


def _closes(text: str) -> int:
    """Where the parenthesis is that closes the first one."""
    depth = 0
    for place, character in enumerate(_unquoted(text)):
        depth += (character == "(") - (character == ")")
        if not depth:
            return place
    return -1
