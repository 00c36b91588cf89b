"""Filters of a read: which rows are wanted, by their columns, in the form that pandas and pyarrow take.

`[("amount", ">", 100), ("status", "in", ["open", "late"])]` wants rows for which all conditions hold; a list of such
lists wants those for which all of one of them hold. The meaning is that of SQL on every kind of shard: no comparison
with NULL holds, not even `!=`; NaN equals NaN and is above every other number; text is compared by its code points, as
with Postgres' collation "C".
"""

from __future__ import annotations

import datetime
import math
import operator as op
import re
import uuid
from base64 import b64decode
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit._checks import shown, unknown
from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import UsageError
from labkit.tables import is_number, shown_type

__all__ = ["Condition", "Filters", "Written", "as_filters", "fitted", "kept", "operand", "parsed"]

_COMPARISONS: dict[str, Callable[..., Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_LISTS = ("in", "not in")
_NULLS = ("is null", "is not null")
OPERATORS = (*_COMPARISONS, *_LISTS, *_NULLS)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one column; `value` is a tuple for `in` and `not in`, None for `is null` and `is not null`."""

    column: str
    operator: str
    value: Any = None


Filters: TypeAlias = tuple[tuple[Condition, ...], ...]
"""Rows are wanted for which all conditions of one of these hold."""


class Written(str):
    """A value as somebody wrote it on a command line or in a URL: it becomes one of its column's type, binary from
    Base64.
    """

    __slots__ = ()


_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"]|"")*\""""
_FILTER = re.compile(
    rf"""\s*(?P<column>{_QUOTED}|[^\s<>=!'"]+)\s*
    (?: (?P<null>is\s+(?:not\s+)?null)
      | (?P<list>(?:not\s+)?in)(?:\s+|(?=[('"]))(?P<values>.*?)
      | (?P<operator><=|>=|<>|!=|==|<|>|=)\s*(?P<value>.*?) )\s*""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_VALUE = re.compile(rf"\s*({_QUOTED}|[^,'\"][^,]*?|)\s*(,|$)", re.DOTALL)


def parsed(text: str) -> tuple[Any, ...]:
    """A filter as one writes it: `amount>100`, `status in open,late`, `"unit price" <= 9.50`, `note is null`.

    Names and values may be in single or double quotes, which are doubled within. Raises `UsageError` for anything else.
    """
    found = _FILTER.fullmatch(text)
    if found is None:
        raise UsageError(f"{shown(text)} is not a filter such as amount>100, 'status in open,late' or 'note is null'")
    column = _unquoted(found["column"])
    if found["null"]:
        return column, found["null"]
    if found["list"]:
        return column, found["list"], _written_list(text, found["values"])
    return column, found["operator"], Written(_unquoted(found["value"]))


def _written_list(text: str, values: str) -> list[Written]:
    values = values.strip()
    if values.startswith("(") and values.endswith(")"):
        values = values[1:-1]
    found, at = [], 0
    while True:
        one = _VALUE.match(values, at)
        if one is None:
            raise UsageError(f"the filter {shown(text)}: after a quoted value comes a comma; double quotes within it")
        found.append(Written(_unquoted(one[1])))
        if not one[2]:
            return found
        at = one.end()


def _unquoted(word: str) -> str:
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "'\"":
        return word[1:-1].replace(word[0] * 2, word[0])
    return word


def as_filters(filters: Any) -> Filters | None:
    """The filters that a caller wrote; None for None or an empty list. Raises `UsageError` for anything else."""
    if filters is None:
        return None
    if not _is_list(filters):
        raise UsageError(f'filters must be a list such as [("amount", ">", 100)], not {shown(filters)}')
    if not filters:
        return None
    if all(_is_list(one) for one in filters) and not any(_is_condition(one) for one in filters):
        return tuple(tuple(map(_condition, some)) for some in filters)
    return (tuple(map(_condition, filters)),)


def fitted(filters: Filters, schema: pa.Schema) -> Filters:
    """The filters with their values as Python objects of the columns' types.

    Raises `UsageError` for a column that is not there, and for a value that is not one of its type.
    """
    return tuple(tuple(_fitted(condition, schema) for condition in some) for some in filters)


def kept(table: pa.Table, filters: Filters) -> pa.Table:
    """The rows of `table` that are wanted; the filters are `fitted` to its columns."""
    wanted: Any = np.zeros(table.num_rows, np.bool_)
    for some in filters:
        each: Any = np.ones(table.num_rows, np.bool_)
        for condition in some:
            each &= _holds(table.column(condition.column), condition)
        wanted |= each
    return table.filter(pa.array(wanted))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_condition(value: Any) -> bool:
    return len(value) in (2, 3) and isinstance(value[0], str) and isinstance(value[1], str)


def _condition(value: Any) -> Condition:
    if not _is_list(value) or not _is_condition(value):
        raise UsageError(f'a filter is (column, operator, value), such as ("amount", ">", 100), not {shown(value)}')
    column, operator, operand = value[0], " ".join(value[1].lower().split()), value[2] if len(value) == 3 else None
    operator = {"==": "=", "<>": "!="}.get(operator, operator)
    if operator not in OPERATORS:
        raise UsageError(f"the filter on {column}: {unknown('operator', value[1], OPERATORS)}")
    if operator in _NULLS:
        if operand is not None:
            raise UsageError(f"the filter on {column}: {operator!r} takes no value, not {shown(operand)}")
        return Condition(column, operator)
    if operator in _LISTS:
        if not isinstance(operand, Collection) or isinstance(operand, str | bytes):
            raise UsageError(f"the filter on {column}: {operator!r} takes a list of values, not {shown(operand)}")
        return Condition(column, operator, tuple(operand))
    if len(value) == 2 or operand is None:
        raise UsageError(f'the filter on {column}: nothing is {operator} NULL; write ("{column}", "is null")')
    return Condition(column, operator, operand)


def _fitted(condition: Condition, schema: pa.Schema) -> Condition:
    if condition.column not in schema.names:
        raise UsageError(f"a filter on {unknown('column', condition.column, schema.names)}")
    if condition.operator in _NULLS:
        return condition
    field, value = schema.field(condition.column), condition.value
    several = condition.operator in _LISTS
    values = tuple(operand(one, field, "the filter on") for one in (value if several else (value,)))
    return Condition(condition.column, condition.operator, values if several else values[0])


def operand(value: Any, field: pa.Field, what: str) -> Any:
    """A value as a Python object of the type of a column. `UsageError` if it is none, which begins with `what`."""
    try:
        if value is None:
            raise _Wrong("a list has no NULL; add a condition with 'is null'")
        if is_number(field):
            return _number(value, field.type)
        for test, to_value in _VALUES:
            if test(field.type):
                return to_value(value, field.type)
        raise _Wrong("it can only be compared with 'is null' and 'is not null'")
    except (TypeError, ValueError, ArithmeticError) as error:
        kind = "number" if is_number(field) else shown_type(field.type)
        wrong = str(error) if isinstance(error, _Wrong) else f"{shown(value)} is not one"
        raise UsageError(f"{what} {field.name} ({kind}): {wrong}") from None


class _Wrong(ValueError):
    """Says why a value does not fit."""


def _integer(value: Any, kind: pa.DataType) -> int:
    number = _decimal(value, kind)
    if number != number.to_integral_value():
        raise _Wrong(f"{shown(value)} is not an integer")
    if not INT64_MIN <= number <= INT64_MAX:
        raise _Wrong(f"{shown(value)} does not fit in 64 bits")
    return int(number)


def _decimal(value: Any, kind: pa.DataType) -> Decimal:
    number = _number(value, kind)
    if not number.is_finite():
        raise _Wrong(f"{shown(value)} is not a finite number")
    return number


def _number(value: Any, _kind: pa.DataType) -> Decimal:
    if isinstance(value, bool | np.bool_ | str | bytes) and not isinstance(value, Written):
        raise TypeError
    return Decimal(repr(float(value))) if isinstance(value, float | np.floating) else Decimal(value)


def _float(value: Any, kind: pa.DataType) -> float:
    if isinstance(value, bool | np.bool_ | str | bytes) and not isinstance(value, Written):
        raise TypeError
    return float(np.float32(value)) if kind == pa.float32() else float(value)


def _bool(value: Any, _kind: pa.DataType) -> bool:
    if isinstance(value, Written):
        value = {"true": True, "false": False}.get(value.lower())
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _text(value: Any, _kind: pa.DataType) -> str:
    if not isinstance(value, str | uuid.UUID):
        raise TypeError
    text = str(value)
    text.encode()  # raises for half of a surrogate pair
    return text


def _binary(value: Any, _kind: pa.DataType) -> bytes:
    if isinstance(value, Written):
        return b64decode(value, validate=True)
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError
    return bytes(value)


def _date(value: Any, _kind: pa.DataType) -> datetime.date:
    if isinstance(value, str):
        return datetime.date.fromisoformat(value)
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise TypeError
    return value


def _time(value: Any, _kind: pa.DataType) -> datetime.time:
    moment = datetime.time.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime.time) or moment.tzinfo is not None:
        raise TypeError
    return moment


def _moment(value: Any, kind: pa.DataType) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
    if isinstance(moment, np.datetime64):
        moment = moment.astype("datetime64[us]").astype(datetime.datetime)
    if not isinstance(moment, datetime.datetime):
        raise TypeError
    if (kind.tz is None) != (moment.tzinfo is None):
        raise _Wrong(f"{shown(value)} has {'a' if kind.tz is None else 'no'} time zone")
    return moment if kind.tz is None else moment.astimezone(datetime.UTC)


_VALUES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, pa.DataType], Any]], ...] = (
    (pa.types.is_boolean, _bool),
    (pa.types.is_integer, _integer),
    (pa.types.is_floating, _float),
    (pa.types.is_decimal, _decimal),
    (pa.types.is_date, _date),
    (pa.types.is_time, _time),
    (pa.types.is_timestamp, _moment),
    (lambda kind: pa.types.is_large_string(kind) or pa.types.is_string(kind), _text),
    (lambda kind: pa.types.is_large_binary(kind) or pa.types.is_binary(kind), _binary),
)


def _holds(column: pa.ChunkedArray, condition: Condition) -> Any:
    """For which values the condition holds."""
    operator, value = condition.operator, condition.value
    if operator in _NULLS:
        null = column.is_null()
        return (null if operator == "is null" else pc.invert(null)).to_numpy()
    if operator in _COMPARISONS:
        return _compared(column, operator, value)
    found: Any = np.zeros(len(column), np.bool_)
    for one in dict.fromkeys(value):
        found |= _compared(column, "=", one)
    return found if operator == "in" else ~found & column.is_valid().to_numpy()


def _compared(column: pa.ChunkedArray, operator: str, value: Any) -> Any:
    kind = column.type
    if pa.types.is_floating(kind):
        return _compared_floats(column, operator, value)
    if isinstance(value, Decimal) and not pa.types.is_decimal(kind):  # a number that the column keeps as text
        numbers = [None if text is None else Decimal(text) for text in column.to_pylist()]
        return np.array([number is not None and _holds_of(number, operator, value) for number in numbers], np.bool_)
    if pa.types.is_integer(kind):
        column, other = column.cast(pa.int64()), pa.scalar(value, pa.int64())
    elif pa.types.is_decimal(kind):
        wide = pa.decimal256(kind.precision + 2, kind.scale + 1)
        column, other = column.cast(wide), pa.scalar(_beside(value, kind), wide)
    elif pa.types.is_boolean(kind):
        column, other = column.cast(pa.int8()), pa.scalar(int(value), pa.int8())
    else:
        other = pa.scalar(value, kind)
    return pc.fill_null(_COMPARISONS[operator](column, other), False).to_numpy()


def _beside(value: Decimal, kind: pa.DataType) -> Decimal:
    """A number with one decimal place more than the type, that compares to all its values as `value` does."""
    most = Decimal(1).scaleb(kind.precision - kind.scale)
    with localcontext(prec=_DIGITS):
        if abs(value) >= most:
            return most.copy_sign(value)
        cut: Decimal = value.quantize(Decimal(1).scaleb(-kind.scale), ROUND_DOWN)
        return cut if cut == value else cut + Decimal(5).scaleb(-kind.scale - 1).copy_sign(value)


def _compared_floats(column: pa.ChunkedArray, operator: str, value: float) -> Any:
    """As Postgres compares floats: NaN equals NaN, and is above every other number."""
    nan = pc.fill_null(pc.is_nan(column), False).to_numpy()
    known = column.is_valid().to_numpy()
    if math.isnan(value):
        of_nan, of_others = _holds_of(value, operator, value), _holds_of(0.0, operator, value)
        return (nan & of_nan) | (known & ~nan & of_others)
    holds = pc.fill_null(_COMPARISONS[operator](column, pa.scalar(value, column.type)), False).to_numpy()
    return np.where(nan, _holds_of(math.nan, operator, value), holds)


def _holds_of(one: Any, operator: str, other: Any) -> bool:
    """Whether the comparison holds of two numbers, NaN being equal to itself and above all others."""
    left, right = ((number != number, 0 if number != number else number) for number in (one, other))
    return bool(_PYTHON[operator](left, right))


_PYTHON: dict[str, Callable[[Any, Any], bool]] = {
    "=": op.eq, "!=": op.ne, "<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge,
}  # fmt: skip
_DIGITS = 200
"""With which decimals are cut: more than any type has."""
