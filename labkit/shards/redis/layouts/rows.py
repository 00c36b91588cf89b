"""The row as Redis keeps it, the same in all layouts: JSON `[id, name]`; and what is no row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from labkit.shards.redis.layouts.byte_strings import ByteStrings, Many
from labkit.tables import InvalidAnswer

__all__ = ["array", "batches", "id_of", "listed", "member", "row", "row_under", "shown"]

_decode = json.JSONDecoder().decode
"""Twice as quick as `json.loads`, which looks for the encoding of each text first."""


def member(row_id: int, name: str | None) -> bytes:
    """The row as it is stored: compact JSON, UTF-8."""
    return json.dumps([row_id, name], ensure_ascii=False, separators=(",", ":")).encode()


def row(raw: Any) -> tuple[Any, Any]:
    """The row that was stored; what is wrong with its id and its name is for the reader to say."""
    try:
        found = _decode(raw if isinstance(raw, str) else str(raw, "utf-8"))
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) != 2:
        raise InvalidAnswer(f"member {shown(raw)} is not a row: JSON [id, name]")
    return found[0], found[1]


def row_under(row_id: int, raw: Any) -> tuple[int, Any]:
    """The row that was stored under its id, which it must hold as well."""
    found, name = row(raw)
    if type(found) is not int or found != row_id:
        raise InvalidAnswer(f"under id {row_id} is another row: {shown(raw)}")
    return found, name


def id_of(raw: Any) -> int:
    """The id in a field, or behind the colon of a key: decimal, and no other way of writing it."""
    try:
        row_id = int(raw)
    except (ValueError, TypeError):
        row_id = 0
    if b"%d" % row_id != raw:
        raise InvalidAnswer(f"{shown(raw)} is not the id of a row")
    return row_id


def listed(reply: Any, count: int | None = None) -> list[Any]:
    """The reply, which must be an array (of `count` elements)."""
    elements = array(reply)
    if count is not None and len(elements) != count:
        raise InvalidAnswer(f"the answer has {len(elements)} elements, not {count}")
    return elements if isinstance(elements, list) else list(elements)


def array(reply: Any) -> list[Any] | ByteStrings | Many:
    """The reply, which must be an array, as it came."""
    if not isinstance(reply, list | ByteStrings | Many):
        raise InvalidAnswer(f"the answer is no array but {type(reply).__name__}")
    return reply


def batches(rows: Iterable[tuple[int, str | None]], size: int) -> Iterator[list[tuple[int, bytes]]]:
    """At most `size` rows at a time, each as its id and what is stored."""
    left = iter(rows)
    while batch := [(row_id, member(row_id, name)) for row_id, name in islice(left, size)]:
        yield batch


def shown(raw: Any) -> str:
    """`repr(raw)`, clipped."""
    text = repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."
