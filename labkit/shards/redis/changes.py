"""Hears of changes to a key by keyspace notifications, on a connection that subscribes.

They are optional: a watcher reads at an interval in any case, since a server may have them disabled, and sends none for
FLUSHDB, SWAPDB, expiry and eviction. Source: Redis documentation, "Redis keyspace notifications".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["MESSAGE_LIMIT", "listen_on"]

MESSAGE_LIMIT = 1 << 20
"""Bytes allowed per message; one takes about a hundred."""


async def listen_on(
    connection: Any, subscription: tuple[str, str], notify: Callable[[], None], beat: float, patience: float | None
) -> None:
    """Subscribes on a connection of redis.asyncio (RESP2) until it ends; see `Listens.listen`.

    After a beat without messages it sends PING, whose answer may take `patience` seconds.
    """
    await connection.send_command(*subscription)
    await _heard(connection, patience)
    notify()  # subscribed: from now on nothing is missed
    while True:
        try:
            message = await _heard(connection, beat)
        except TimeoutError:
            await connection.send_command("PING")
            message = await _heard(connection, patience)
        if not isinstance(message, list) or message[:1] != [b"pong"]:
            notify()


async def _heard(connection: Any, seconds: float | None) -> Any:
    """The next message; TimeoutError, with nothing lost, if none arrives in time."""
    connection.allow(MESSAGE_LIMIT)
    async with asyncio.timeout(seconds):
        return await connection.read_response(disconnect_on_error=False)
