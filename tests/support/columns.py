"""Random tables of every type that answers can have, for Hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from labkit._types import INT64_MAX, INT64_MIN

__all__ = ["KINDS", "columns_of", "tables"]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", "null", "NaN", '"', "[1]", "{}", "\\", "\n", "1", "true", "ü", "𝄞", "\x00"]
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5) | st.sampled_from(
    ["amount", "order id", 'a"b', "SELECT", "id", "name", "1", "ü", ":", "{x}"]
)
_DAY = 86_400 * 10**6
_MOMENTS = st.integers(-(2**62), 2**62) | st.integers(-(10**6), 2 * 10**15)
_INT32 = st.integers(-(2**31), 2**31 - 1)


def _decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    units = st.integers(-most, most) | st.sampled_from([most, -most, 0, 1])
    return units.map(lambda unit: Decimal((int(unit < 0), tuple(map(int, str(abs(unit)))), -scale)))


_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.int32(): _INT32,
    pa.int64(): st.integers(INT64_MIN, INT64_MAX) | st.sampled_from([2**53 + 1, INT64_MAX, INT64_MIN]),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.decimal128(12, 2): _decimals(12, 2),
    pa.decimal128(38, 10): _decimals(38, 10),
    pa.large_string(): TEXT,
    pa.large_binary(): st.binary(max_size=5),
    pa.date32(): st.integers(-1_000_000, 4_000_000),
    pa.time64("us"): st.integers(0, _DAY - 1),
    pa.timestamp("us"): _MOMENTS,
    pa.timestamp("us", "UTC"): _MOMENTS,
    pa.month_day_nano_interval(): st.tuples(_INT32, _INT32, st.integers(INT64_MIN + 1, INT64_MAX)).map(pa.MonthDayNano),
}
"""Values by type: of dates and times as numbers."""
_NUMBERS: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType], ...] = (
    (pa.types.is_date, pa.int32()),
    (pa.types.is_time, pa.int64()),
    (pa.types.is_timestamp, pa.int64()),
)
KINDS = [*_VALUES, *map(pa.list_, _VALUES)]
"""All types."""


def columns_of(kind: pa.DataType, count: int) -> st.SearchStrategy[pa.Array]:
    """Columns of a type with `count` values, some of them NULL."""
    if pa.types.is_list(kind):
        one = st.none() | st.lists(st.none() | _VALUES[kind.value_type], max_size=3)
        return st.lists(one, min_size=count, max_size=count).map(lambda lists: _lists(lists, kind))
    return st.lists(st.none() | _VALUES[kind], min_size=count, max_size=count).map(lambda values: _flat(values, kind))


@st.composite
def tables(draw: Any, max_rows: int = 8, max_columns: int = 6) -> pa.Table:
    """Tables with a key of 64-bit integers, ascending, and up to `max_columns` others."""
    keys = draw(st.lists(st.integers(-40, 40) | st.integers(INT64_MIN, INT64_MAX), unique=True, max_size=max_rows))
    names = draw(st.lists(NAMES, unique=True, min_size=1, max_size=max_columns + 1))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=len(names) - 1, max_size=len(names) - 1))
    others = [draw(columns_of(kind, len(keys))) for kind in kinds]
    return pa.table([pa.array(sorted(keys), pa.int64()), *others], names)


def _flat(values: list[Any], kind: pa.DataType) -> pa.Array:
    numbers = next((number for is_, number in _NUMBERS if is_(kind)), None)
    return pa.array(values, kind) if numbers is None else pa.array(values, numbers).view(kind)


def _lists(lists: list[Any], kind: pa.DataType) -> pa.Array:
    offsets = [0]
    for one in lists:
        offsets.append(offsets[-1] + len(one or ()))
    values = _flat([value for one in lists for value in one or ()], kind.value_type)
    mask = pa.array([one is None for one in lists], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind, mask=mask)
