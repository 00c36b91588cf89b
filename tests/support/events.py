"""Server-sent events of GET /data/watch, as a client reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

PATIENCE = 10.0
"""Seconds to wait for the next event: not a promise, only a limit for a noisy machine."""


class Events:
    """Reads the events of a response one by one."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, str] | None:
        """The fields of the next event, or of a comment (whose field is ""); None at the end of the stream."""
        event: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                if not line:
                    return event
                name, _, value = line.partition(":")
                assert name not in event
                event[name] = value.removeprefix(" ")
        return None

    async def until(self, condition: Callable[[Any], bool]) -> Any:
        """The data of the first event for which the condition holds."""
        while (event := await self.next()) is not None:
            if "data" in event and condition(data := json.loads(event["data"])):
                return data
        raise AssertionError("the stream ended")


@asynccontextmanager
async def watching(client: httpx.AsyncClient, query: str = "") -> AsyncIterator[Events]:
    """The events of a watch; the client disconnects at the end of the block."""
    async with client.stream("GET", f"/data/watch{query}") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        yield Events(answer)
