"""Rows of a sorted set, written one by one, to the server that has it."""

from __future__ import annotations

import json
from typing import Any

from labkit.faults.base import Row
from labkit.shards.redis.shard import member

__all__ = ["delete", "put"]


async def put(client: Any, table: str, row: Row) -> None:
    """Writes a row, in the place of the one with its id."""
    others = await _members(client, table, row[0])
    async with client.pipeline(transaction=True) as pipe:
        if others:
            pipe.zrem(table, *others)
        pipe.zadd(table, {member(*row): row[0]})
        await pipe.execute()


async def delete(client: Any, table: str, row_id: int) -> None:
    """Takes a row out, where there is one."""
    members = await _members(client, table, row_id)
    if members:
        await client.zrem(table, *members)


async def _members(client: Any, table: str, row_id: int) -> list[bytes]:
    """Those of one row. Large IDs share a score, so that it does not tell them apart."""
    found = await client.zrangebyscore(table, row_id, row_id)
    return [raw for raw in found if json.loads(raw)[0] == row_id]
