"""JSON bodies, encoded once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pydantic_core

from labkit.result import ReadResult

__all__ = ["PIECE", "result_json", "to_json"]

PIECE = 2_000
"""Rows that are encoded before other requests get their turn."""


def to_json(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8; text that is no Unicode (a server's error may be none) gets `?` for it."""
    try:
        return pydantic_core.to_json(value)  # four times as fast as json
    except pydantic_core.PydanticSerializationError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


async def result_json(result: ReadResult) -> bytes:
    """`result.to_dict()` as JSON. Many rows are encoded piece by piece, so that the event loop goes on meanwhile."""
    if result.table.num_rows <= PIECE:
        return to_json(result.to_dict())
    pieces = []
    for start in range(0, result.table.num_rows, PIECE):
        piece = replace(result, table=result.table.slice(start, PIECE))
        pieces.append(to_json(piece.to_dict()["rows"])[1:-1])
        await asyncio.sleep(0)
    rest = replace(result, table=result.table.slice(0, 0)).to_dict()
    del rest["rows"]
    return b'{"rows":[%b],%b' % (b",".join(pieces), to_json(rest)[1:])
