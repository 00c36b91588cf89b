"""Shards of Postgres. SQLAlchemy and asyncpg are loaded when a name is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit._imports import load

if TYPE_CHECKING:
    from labkit.shards.postgres.changes import change_trigger
    from labkit.shards.postgres.shard import BULK, PostgresShard

__all__ = ["BULK", "PostgresShard", "change_trigger"]

_HOME = {
    "BULK": "labkit.shards.postgres.shard",
    "PostgresShard": "labkit.shards.postgres.shard",
    "change_trigger": "labkit.shards.postgres.changes",
}

if not TYPE_CHECKING:  # otherwise every misspelt name would be one

    def __getattr__(name: str) -> Any:
        return load(__name__, _HOME, name)
