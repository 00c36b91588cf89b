"""GET /data/watch: the merged table as server-sent events, again whenever it changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from functools import partial
from typing import TypeAlias

from fastapi import APIRouter, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from labkit._tasks import cancelled
from labkit.api import problems
from labkit.api.bodies import result_json, to_json
from labkit.api.headers import NEVER_STORED, RETRY
from labkit.api.limits import Unsent
from labkit.api.problems import problem
from labkit.api.queries import WatchQuery, asked
from labkit.api.streaming import During, Stream
from labkit.reader import ShardReader
from labkit.result import ReadResult

__all__ = ["KEEPALIVE", "Windows", "events", "router"]

Window: TypeAlias = tuple[int | None, int | None]

KEEPALIVE = 15.0
"""Seconds without news after which a comment line is sent, so that nobody between takes the stream for dead."""

_SILENCE, _END = object(), object()

router = APIRouter(tags=["data"])


@router.get(
    "/data/watch",
    summary="The rows of all shards, merged, whenever they change",
    response_class=Response,
)
async def watch(request: Request) -> Response:
    """Server-sent events: the rows in the window now, and again whenever rows or the state of a shard change.

    Each event `result` has the same body as `GET /data`. With `deltas=true` only the first is a `result`; every later
    one is a `delta`: what is different from the event before it. A client that reads slowly gets the latest state,
    not a queue of states. The stream ends when the client leaves or the service stops; after a reconnect it begins
    with a whole result again, so that nothing is missed.
    """
    state = request.app.state
    query = asked(WatchQuery, request)
    reader: ShardReader = state.reader
    windows: Windows = state.windows
    window = query.low, query.high
    if not windows.has_room(window):
        detail = (
            f"{windows.most} different windows are watched, which is all there may be; ask again, or for one of those"
        )
        return problem(request, problems.TOO_MANY_WINDOWS, detail, headers=RETRY)
    messages = events(reader.watch(*window), state.stopping, deltas=query.deltas, unsent=state.unsent)
    answer = Stream(messages, {**NEVER_STORED, "X-Accel-Buffering": "no"}, EventSourceResponse.media_type)
    return windows.watched(window, answer)


class Windows:
    """Counts the windows that are watched, `most` at a time; each costs reads of the shards, however many watch it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._watched: Counter[Window] = Counter()

    def has_room(self, window: Window) -> bool:
        """Whether one more may watch it."""
        return window in self._watched or len(self._watched) < self.most

    def watched(self, window: Window, answer: Response) -> Response:
        """The answer, which counts from now on until it has ended."""
        self._watched[window] += 1
        return During(answer, partial(self._left, window))

    def _left(self, window: Window) -> None:
        self._watched[window] -= 1
        if not self._watched[window]:
            del self._watched[window]


async def events(
    results: AsyncGenerator[ReadResult, None],
    stopping: asyncio.Event,
    *,
    deltas: bool = False,
    unsent: Unsent | None = None,
) -> AsyncGenerator[bytes, None]:
    """The results as events, and comments while there are none; ends with `results`, when `stopping` is set, and where
    too much waits for slow clients: then a client that reads comes back, and begins anew.
    """
    before: ReadResult | None = None
    async with _Waiting(results, stopping) as waiting:
        number = 0
        while (news := await waiting.news()) is not _END:
            if not isinstance(news, ReadResult):
                yield KEEPALIVE_COMMENT
                continue
            number += 1
            if deltas and before is not None:
                event = format_sse_event(event="delta", data_str=_delta(news, before), id=str(number))
            else:
                event = format_sse_event(event="result", data_str=(await result_json(news)).decode(), id=str(number))
            before = news
            if unsent is None:
                yield event
            elif unsent.take(len(event)):
                try:
                    yield event
                finally:
                    unsent.give(len(event))
            else:
                return


class _Waiting:
    """Waits for the next of `results`, for silence, or for the end, whichever comes first."""

    def __init__(self, results: AsyncGenerator[ReadResult, None], stopping: asyncio.Event) -> None:
        self._results = results
        self._next: asyncio.Task[ReadResult | object] | None = None
        self._stopped = asyncio.create_task(stopping.wait())

    async def news(self) -> ReadResult | object:
        """The next result, `_SILENCE` where none came for a while, `_END` where none will come."""
        if self._next is None:
            self._next = asyncio.create_task(self._following())
        tasks = {self._next, self._stopped}
        await asyncio.wait(tasks, timeout=KEEPALIVE, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            return _END
        if not self._next.done():
            return _SILENCE
        following, self._next = self._next, None
        return following.result()

    async def _following(self) -> ReadResult | object:
        return await anext(self._results, _END)

    async def __aenter__(self) -> _Waiting:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Ends the watch; nothing of it is left when this returns."""
        await cancelled(*(task for task in (self._next, self._stopped) if task is not None))
        await self._results.aclose()


def _delta(result: ReadResult, before: ReadResult) -> str:
    """The steps from the result that was sent before, and the state of the shards now."""
    state = result.to_dict()
    del state["rows"], state["next"]
    return to_json({**result.since(before).to_dict(), **state}).decode()
