"""Settings of a Redis server."""

from __future__ import annotations

from typing import Any

from labkit.faults.base import Target, Undo

__all__ = ["change"]


async def change(target: Target, undo: Undo, name: str, value: Any) -> None:
    """Gives one of the server's settings another value, until that is undone."""
    before = (await (await target.admin()).config_get(name))[name]

    async def put_back() -> None:
        await (await target.admin()).config_set(name, before)

    undo.push(put_back)
    await (await target.admin()).config_set(name, value)
