"""A server's state as far as a fault could change it, for tests that compare before and after."""

from __future__ import annotations

import asyncio
from typing import Any

from labkit import Lab
from tests.support.watching import PATIENCE, admin

__all__ = ["left_as", "snapshot"]

POSTGRES = {
    "rows": "SELECT id, name FROM data_2 ORDER BY id",
    "types": "SELECT attname, atttypid::regtype, attnotnull FROM pg_attribute WHERE attrelid = 'data_2'::regclass",
    "keys": "SELECT conname, contype FROM pg_constraint WHERE conrelid = 'data_2'::regclass ORDER BY conname",
    "relations": "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY relname",
    "functions": "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "large objects": "SELECT oid FROM pg_largeobject_metadata",
    "settings": "SELECT name, setting FROM pg_settings ORDER BY name",
    "rules": "SELECT pg_read_binary_file(current_setting('hba_file'))",
    "roles": "SELECT rolname, rolpassword, rolsuper FROM pg_authid ORDER BY rolname",
    "locks": "SELECT mode FROM pg_locks WHERE relation = 'data_2'::regclass AND pid <> pg_backend_pid()",
    "other sessions": "SELECT application_name, query FROM pg_stat_activity WHERE backend_type = 'client backend' "
    "AND pid <> pg_backend_pid() AND application_name NOT IN ('labkit', 'snapshot')",
}


async def snapshot(lab: Lab) -> dict[str, Any]:
    """The state of shard 2's server. Its own sessions are named, since the last one may still be open."""
    if lab.backend == "postgres":
        connection = await admin(lab)
        try:
            await connection.execute("SET application_name = 'snapshot'")
            return {what: list(map(tuple, await connection.fetch(query))) for what, query in POSTGRES.items()}
        finally:
            connection.terminate()
    async with await admin(lab) as client:
        await client.client_setname("snapshot")
        others = [c for c in await client.client_list() if c["name"] == "labkit-admin"]
        return {
            "rows": await client.zrange("data_2", 0, -1, withscores=True),
            "keys": sorted(await client.keys()),
            "settings": await client.config_get(),
            "users": [set(user.split()) for user in await client.acl_list()],  # in any order
            "role": (await client.info("replication"))["role"],
            "other sessions": others,
        }


async def left_as(lab: Lab, before: dict[str, Any]) -> None:
    """Raises `AssertionError` unless shard 2's server returns to the state `before`."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + PATIENCE
    while (now := await snapshot(lab)) != before:
        different = {what: (before[what], now[what]) for what in now if now[what] != before[what]}
        assert loop.time() < ends, f"changed (before, now): {different}"
        await asyncio.sleep(0.01)
