"""Readers as found in the wild: one correct, the others each wrong in one way.

Each takes {shard: url} for either kind of server and returns (id, name) pairs; a read may take `TIMEOUT` seconds.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from labkit import CLASSIC

TIMEOUT = 0.5
PAGE = 3
Row = tuple[Any, Any]


async def right(urls: dict[int, str]) -> list[Row]:
    """Reads all shards concurrently, each within the deadline; keeps whole, plausible answers only."""
    return ascending(await everywhere(urls, whole))


async def sequential(urls: dict[int, str]) -> list[Row]:
    """Reads one shard after the other and gives each most of the time."""
    rows = []
    for shard, url in urls.items():
        rows += await whole(shard, url, 0.7 * TIMEOUT)
    return ascending(rows)


async def half(urls: dict[int, str]) -> list[Row]:
    """Reads page by page and keeps the pages that arrived before a failure."""
    return ascending(await everywhere(urls, pages))


async def dedupe(urls: dict[int, str]) -> list[Row]:
    """Tidies up answers instead of doubting them: rows become a dict, and those that do not fit are dropped."""

    async def tidied(shard: int, url: str) -> list[Row]:
        rows = await kept(all_rows(shard, url))
        return list({i: name for i, name in rows if type(i) is int and CLASSIC.locate(i) == shard}.items())

    return ascending(await everywhere(urls, tidied))


async def overruns(urls: dict[int, str]) -> list[Row]:
    """A blocking client in threads: every socket operation has the full timeout, and there may be many."""

    def blocking(shard: int, url: str) -> list[Row]:
        with BlockingRedis.from_url(url, socket_timeout=TIMEOUT, protocol=2, retry=None) as redis:
            return [tuple(json.loads(member)) for member in redis.zrange(f"data_{shard}", 0, -1)]

    async def patient(shard: int, url: str) -> list[Row]:
        try:
            rows = await asyncio.to_thread(blocking, shard, url)
        except Exception:
            return []
        return rows if can_be(shard, rows) else []

    return ascending(await everywhere(urls, patient))


async def text_sort(urls: dict[int, str]) -> list[Row]:
    """Correct but for the order: "10" comes before "2"."""
    return sorted(await right(urls), key=lambda row: str(row[0]))


async def raising(urls: dict[int, str]) -> list[Row]:
    """Fails as soon as one shard fails."""

    async def strict(shard: int, url: str) -> list[Row]:
        async with asyncio.timeout(TIMEOUT):
            return await all_rows(shard, url)

    return ascending(await everywhere(urls, strict))


async def leaking(urls: dict[int, str]) -> list[Row]:
    """Correct, but leaves a task that waits for ever when a shard fails."""
    rows = await right(urls)
    if len(rows) < 60:
        LEAKED.append(asyncio.ensure_future(asyncio.Event().wait()))
    return rows


LEAKED: list[asyncio.Future[Any]] = []


async def holding(urls: dict[int, str]) -> list[Row]:
    """Correct, but when a shard fails, a socket to another one stays open."""
    rows = await right(urls)
    if len(rows) < 60:
        place = urlsplit(urls[3])
        HELD.append(socket.create_connection((place.hostname or "", place.port or 0)))
    return rows


HELD: list[Any] = []


async def blocking(urls: dict[int, str]) -> list[Row]:
    """Stops for good when a shard fails, as a client without a timeout does."""
    rows = await right(urls)
    if len(rows) < 60:
        time.sleep(60)  # noqa: ASYNC251 - that is the mistake
    return rows


async def crashing(urls: dict[int, str]) -> list[Row]:
    """Correct, but ends its process when a shard fails."""
    rows = await right(urls)
    if len(rows) < 60:
        faulthandler.disable()  # pytest's would print a traceback, as if a test had crashed
        os.kill(os.getpid(), signal.SIGSEGV)
    return rows


async def everywhere(urls: dict[int, str], read: Callable[[int, str], Awaitable[list[Row]]]) -> list[Row]:
    answers = await asyncio.gather(*(read(shard, url) for shard, url in urls.items()), return_exceptions=True)
    for answer in answers:  # once all have ended, so that nothing of them is left
        if isinstance(answer, BaseException):
            raise answer
    return [row for answer in answers if isinstance(answer, list) for row in answer]


async def whole(shard: int, url: str, seconds: float = TIMEOUT) -> list[Row]:
    rows = await kept(all_rows(shard, url), seconds)
    return rows if can_be(shard, rows) else []


async def kept(rows: Awaitable[list[Row]], seconds: float = TIMEOUT) -> list[Row]:
    """The rows if they arrive in time, otherwise none."""
    try:
        async with asyncio.timeout(seconds):
            return await rows
    except Exception:
        return []


async def pages(shard: int, url: str) -> list[Row]:
    rows: list[Row] = []

    async def turn(fetch: Callable[[int, int], Awaitable[list[Row]]]) -> list[Row]:
        for low, high in CLASSIC.prune()[shard]:
            for start in range(low, high + 1, PAGE):
                rows.extend(await fetch(start, min(start + PAGE - 1, high)))
        return rows

    await kept(connected(shard, url, turn))
    return rows if can_be(shard, rows) else []


async def all_rows(shard: int, url: str) -> list[Row]:
    return await connected(shard, url, lambda fetch: fetch(-(2**31), 2**31 - 1))


async def connected(shard: int, url: str, use: Callable[[Any], Awaitable[list[Row]]]) -> list[Row]:
    """Calls `use` with a function that fetches the rows from one ID to another."""
    return await (by_redis if url.startswith("redis") else by_postgres)(shard, url, use)


async def by_redis(shard: int, url: str, use: Callable[[Any], Awaitable[list[Row]]]) -> list[Row]:
    async def fetch(low: int, high: int) -> list[Row]:
        return [tuple(json.loads(member)) for member in await redis.zrangebyscore(f"data_{shard}", *ends(low, high))]

    # Without driver_info: an old server's refusals of it would be most of the bytes before a connection is cut.
    async with Redis.from_url(url, retry=None, protocol=2, driver_info=None) as redis:
        return await use(fetch)


def ends(low: int, high: int) -> tuple[Any, Any]:
    """A read of all rows uses infinities, since NULL and text IDs have scores of their own."""
    return ("-inf", "+inf") if high == 2**31 - 1 else (low, high)


async def by_postgres(shard: int, url: str, use: Callable[[Any], Awaitable[list[Row]]]) -> list[Row]:
    async def fetch(low: int, high: int) -> list[Row]:
        where = "" if high == 2**31 - 1 else f"WHERE id BETWEEN {low} AND {high}"
        return [tuple(row) for row in await connection.fetch(f"SELECT id, name FROM data_{shard} {where} ORDER BY id")]

    connection = await asyncpg.connect(url.replace("+asyncpg", "").replace("ssl=", "sslmode="), timeout=TIMEOUT)
    try:
        return await use(fetch)
    finally:
        connection.terminate()


def can_be(shard: int, rows: list[Row]) -> bool:
    """Whether these can be that shard's rows: unique integer IDs that it owns, and names that are text or NULL."""
    ids = [row[0] for row in rows]
    if not all(len(row) == 2 and isinstance(row[1], str | None) for row in rows):
        return False
    return all(type(i) is int and CLASSIC.locate(i) == shard for i in ids) and len(set(ids)) == len(ids)


def ascending(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row[0])
