"""Values of a declared type: from what JSON holds, and from plain text, many at once to an Arrow column.

Every function raises one of `WRONG` if one of the values is not of the type. Arrow parses the usual forms; when it
refuses one, all are parsed in Python, which knows the rarer forms that ISO 8601 allows.
Source of the forms: ISO 8601-1:2019 (dates, times, durations); RFC 3339; RFC 4648 (Base64).
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labkit._types import INT64_MAX, INT64_MIN

__all__ = ["WRONG", "Number", "decoder", "of_bytes", "of_json"]

WRONG = (pa.ArrowException, TypeError, ValueError, ArithmeticError, RecursionError)
"""What a value that does not fit raises."""
_INTEGER = r"^-?[0-9]+$"
_CONSTANTS = frozenset(("NaN", "Infinity", "-Infinity"))
_BOOLS = pa.array(["true", "1", "false", "0"], pa.large_string())
_DAY = 86_400 * 10**6
"""Microseconds."""
_YEARS = 6_000_000
"""More than any date of 32 bits has."""
_DATE = r"([+-]?\d{3,7})-(\d\d)-(\d\d)|(\d{4})(\d\d)(\d\d)"
_TIME = r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?"
_ZONE = r"(Z|[+-]\d\d(?::?\d\d)?)?"
_MOMENT = re.compile(rf"(?:{_DATE})(?:[T ]{_TIME} ?{_ZONE})?", re.IGNORECASE | re.ASCII)
_OF_DAY = re.compile(rf"T?{_TIME}", re.IGNORECASE | re.ASCII)
_PART = r"(?:([+-]?\d+){})?"
_DURATION = re.compile(
    "([+-]?)P(?!$)" + "".join(_PART.format(unit) for unit in "YMWD")
    + "(?:T(?!$)" + "".join(_PART.format(unit) for unit in "HM") + r"(?:([+-]?)(\d+)(?:[.,](\d{1,9})0*)?S)?)?",
    re.ASCII,
)  # fmt: skip


class Number(str):
    """A number as JSON has it, not an integer, so that none of its digits is lost."""

    __slots__ = ()


def decoder(schema: pa.Schema) -> Callable[[str], Any]:
    """Decodes JSON whose numbers become values of these columns; a `Number` where a float would not be exact."""
    exact = any(pa.types.is_decimal(_element(kind)) for kind in schema.types)
    return json.JSONDecoder(parse_float=Number if exact else None, parse_constant=Number).decode


def of_json(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column of values as JSON has them: the forms of `labkit.tables.to_json`, and decimals as numbers too."""
    types = set(map(type, values)) - {type(None)}
    if pa.types.is_list(kind):
        _only(types, list)
        return _lists(values, kind)
    if pa.types.is_boolean(kind):
        _only(types, bool)
    elif pa.types.is_integer(kind):
        _only(types, int)
    elif pa.types.is_floating(kind):
        _only(types, float, int, Number, str)
        return _floats(values, types, kind)
    elif pa.types.is_decimal(kind):
        _only(types, str, Number, int)
        texts = values if int not in types else [None if value is None else str(value) for value in values]
        return pa.array(texts, pa.large_string()).cast(kind)
    else:
        _only(types, str)
        if not pa.types.is_large_string(kind):
            return _of_texts(pa.array(values, pa.large_string()), kind)
    return pa.array(values, kind)


def of_bytes(values: Sequence[bytes | None], kind: pa.DataType) -> pa.Array:
    """A column of values in plain text: text as it is, binary as it is, lists as JSON, everything else as in JSON
    without quotes; booleans also as 1 and 0.
    """
    cells = pa.array(values, pa.large_binary())
    if pa.types.is_large_binary(kind):
        return cells
    texts = cells.cast(pa.large_string())
    if pa.types.is_list(kind):
        decode = decoder(pa.schema([("list", kind)]))
        return of_json([None if text is None else decode(text) for text in texts.to_pylist()], kind)
    return _of_texts(texts, kind)


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind


def _only(types: set[type], *allowed: type) -> None:
    if not types.issubset(allowed):
        raise TypeError


def _lists(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    there = [value is not None for value in values]
    lengths = np.fromiter((len(value or ()) for value in values), np.int64, len(values))
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    elements = of_json(list(chain.from_iterable(value or () for value in values)), kind.value_type)
    mask = None if all(there) else pa.array([not one for one in there], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), elements, type=kind, mask=mask)


def _floats(values: Sequence[Any], types: set[type], kind: pa.DataType) -> pa.Array:
    if types <= {float}:
        return _finite(pa.array(values, kind), None)
    if str in types and not _CONSTANTS.issuperset(value for value in values if type(value) is str):
        raise ValueError
    texts = [None if value is None else value if isinstance(value, str) else repr(value) for value in values]
    return _of_texts(pa.array(texts, pa.large_string()), kind)


def _finite(column: pa.Array, texts: pa.Array | None) -> pa.Array:
    """The floats; ValueError if one is infinite only because the type cannot hold it."""
    infinite = pc.is_inf(column)
    if pc.any(infinite).as_py() and (
        texts is None or not pc.all(pc.match_substring_regex(texts.filter(infinite), "(?i)inf")).as_py()
    ):
        raise ValueError
    return column


def _of_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_large_string(kind):
        return texts
    if pa.types.is_boolean(kind):
        found = pc.index_in(texts, _BOOLS)
        if found.null_count > texts.null_count:
            raise ValueError
        return pc.less(found, 2)
    if pa.types.is_integer(kind):
        if pc.all(pc.match_substring_regex(texts, _INTEGER)).as_py() is False:
            raise ValueError  # Arrow would take hexadecimal ones
        return texts.cast(kind)
    if pa.types.is_floating(kind):
        return _finite(texts.cast(kind), texts)
    if pa.types.is_decimal(kind):
        return texts.cast(kind)
    return _of_iso_texts(texts, kind)


def _of_iso_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_interval(kind):
        return pa.array([None if text is None else _duration(text) for text in texts.to_pylist()], kind)
    if pa.types.is_large_binary(kind):
        cells = [None if text is None else binascii.a2b_base64(text, strict_mode=True) for text in texts.to_pylist()]
        return pa.array(cells, kind)
    try:
        return _times(texts) if pa.types.is_time(kind) else texts.cast(kind)
    except pa.ArrowException:
        parse = _of_day if pa.types.is_time(kind) else _day if pa.types.is_date(kind) else _moment_of(kind)
        numbers = [None if text is None else parse(text) for text in texts.to_pylist()]
        return pa.array(numbers, pa.int32() if pa.types.is_date(kind) else pa.int64()).view(kind)


def _times(texts: pa.Array) -> pa.Array:
    """Times of a day, by way of the moments of a day."""
    moments = pc.binary_join_element_wise(
        pa.scalar("1970-01-01T", pa.large_string()), texts, pa.scalar("", pa.large_string())
    )
    return moments.cast(pa.timestamp("us")).view(pa.time64("us"))


def _day(text: str) -> int:
    """Days since 1970; no time of the day."""
    found = _MOMENT.fullmatch(text)
    if found is None or found[7]:
        raise ValueError
    return _days(found)


def _moment_of(kind: pa.DataType) -> Callable[[str], int]:
    """A parser of moments, in microseconds since 1970: with a time zone if the type has one, else without."""

    def parse(text: str) -> int:
        found = _MOMENT.fullmatch(text)
        if found is None or bool(found[11]) != bool(kind.tz):
            raise ValueError
        micros = _days(found) * _DAY + (_micros(*found.group(7, 8, 9, 10)) if found[7] else 0)
        micros -= _offset(found[11]) if found[11] else 0
        if not INT64_MIN < micros <= INT64_MAX:
            raise OverflowError
        return micros

    return parse


def _of_day(text: str) -> int:
    """Microseconds since midnight."""
    found = _OF_DAY.fullmatch(text)
    if found is None:
        raise ValueError
    return _micros(*found.groups())


def _days(found: re.Match[str]) -> int:
    year, month, day = map(int, found.group(1, 2, 3) if found[1] else found.group(4, 5, 6))
    if abs(year) > _YEARS or not 1 <= month <= 12:
        raise ValueError
    first = np.datetime64(12 * (year - 1970) + month - 1, "M")
    found_day = first.astype("M8[D]") + np.timedelta64(day - 1, "D")
    if day < 1 or found_day.astype("M8[M]") != first:
        raise ValueError
    return int(found_day.astype(np.int64))


def _micros(hour: str, minute: str | None, second: str | None, fraction: str | None) -> int:
    hours, minutes, seconds = int(hour), int(minute or 0), int(second or 0)
    digits = (fraction or "").rstrip("0")
    if hours > 23 or minutes > 59 or seconds > 59 or len(digits) > 6:
        raise ValueError
    return ((hours * 60 + minutes) * 60 + seconds) * 10**6 + int(digits.ljust(6, "0"))


def _offset(zone: str) -> int:
    if zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
    if hours > 23 or minutes > 59:
        raise ValueError
    return (hours * 60 + minutes) * 60 * 10**6 * (-1 if zone[0] == "-" else 1)


def _duration(text: str) -> pa.MonthDayNano:
    """Years and months, weeks and days, and the rest: each part has its own sign, and one in front turns all around."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError
    years, months, weeks, days, hours, minutes, whole = (int(found[part] or 0) for part in (2, 3, 4, 5, 6, 7, 9))
    nanos = whole * 10**9 + int((found[10] or "").ljust(9, "0"))
    nanos = (hours * 60 + minutes) * 60 * 10**9 + (-nanos if found[8] == "-" else nanos)
    sign = -1 if found[1] == "-" else 1
    return pa.MonthDayNano([sign * (12 * years + months), sign * (7 * weeks + days), sign * nanos])
