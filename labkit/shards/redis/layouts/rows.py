"""The stored form of a row of (id, name), the same in all layouts but "hashes": JSON `[id, name]`; and checks of it.

Rows of a declared schema: `labkit.shards.redis.layouts.records`.
"""

from __future__ import annotations

import json
from typing import Any

from labkit.shards.redis.layouts.byte_strings import ByteStrings, Many
from labkit.tables import InvalidAnswer

__all__ = ["array", "as_list", "id_of", "member", "row", "row_under", "shown"]

_decode = json.JSONDecoder().decode
"""Twice as fast as `json.loads`, which first detects the encoding of each text."""


def member(row_id: int, name: str | None) -> bytes:
    """The row as it is stored: compact JSON, UTF-8."""
    return json.dumps([row_id, name], ensure_ascii=False, separators=(",", ":")).encode()


def row(raw: Any) -> tuple[Any, Any]:
    """The stored row; its id and name are left for the reader to check."""
    try:
        found = _decode(raw if isinstance(raw, str) else str(raw, "utf-8"))
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list) or len(found) != 2:
        raise InvalidAnswer(f"member {shown(raw)} is not a row: JSON [id, name]")
    return found[0], found[1]


def row_under(row_id: int, raw: Any) -> tuple[int, Any]:
    """The row stored under an id, which it must contain too."""
    found, name = row(raw)
    if type(found) is not int or found != row_id:
        raise InvalidAnswer(f"under id {row_id} is another row: {shown(raw)}")
    return found, name


def id_of(raw: Any) -> int:
    """The id in a field, or after the colon of a key, in canonical decimal form."""
    try:
        row_id = int(raw)
    except (ValueError, TypeError):
        row_id = 0
    if b"%d" % row_id != raw:
        raise InvalidAnswer(f"{shown(raw)} is not the id of a row")
    return row_id


def as_list(reply: Any, count: int | None = None) -> list[Any]:
    """The reply, which must be an array (of `count` elements), as a list."""
    elements = array(reply)
    if count is not None and len(elements) != count:
        raise InvalidAnswer(f"the answer has {len(elements)} elements, not {count}")
    return elements if isinstance(elements, list) else list(elements)


def array(reply: Any) -> list[Any] | ByteStrings | Many:
    """The reply, which must be an array, as parsed."""
    if not isinstance(reply, list | ByteStrings | Many):
        raise InvalidAnswer(f"the answer is not an array but {type(reply).__name__}")
    return reply


def shown(raw: Any) -> str:
    """`repr(raw)`, clipped."""
    text = repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."
