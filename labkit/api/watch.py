"""GET /data/watch: the merged table as server-sent events, whenever it changes."""

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
from labkit.api.data import accepted
from labkit.api.limits import UnsentBytes
from labkit.api.problems import problem
from labkit.api.queries import WatchQuery, parsed
from labkit.api.responses import NO_STORE, RETRY, ReleasingResponse, StreamedResponse, result_json, to_json
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.result import ReadResult

__all__ = ["KEEPALIVE", "WatchedWindows", "events", "router"]

Window: TypeAlias = str
"""What is watched: the bounds, columns and filters, as text."""

KEEPALIVE = 15.0
"""Seconds without an event after which a comment is sent, so that no proxy takes the connection for dead."""

_IDLE, _END = object(), object()

router = APIRouter(tags=["data"])


@router.get(
    "/data/watch",
    summary="The rows of all shards, merged, whenever they change",
    response_class=Response,
)
async def watch(request: Request) -> Response:
    """Server-sent events: the rows in the window now, and again whenever rows or the state of a shard change.

    Each `result` event has the same body as `GET /data`. With `deltas=true` only the first event is a `result`; every
    later one is a `delta`: the changes since the previous event. A slow client gets the latest state, not a queue of
    states. The stream ends when the client leaves or the service stops; after a reconnect it starts with a whole result
    again, so nothing is missed.
    """
    state = request.app.state
    query = parsed(WatchQuery, request)
    reader: ShardReader = state.reader
    windows: WatchedWindows = state.windows
    window = repr((query.low, query.high, query.columns, query.filter))
    await accepted(reader, query)
    if not windows.has_room(window):
        detail = (
            f"{windows.limit} different windows are being watched, which is the limit; "
            "retry later, or watch one of those"
        )
        return problem(request, problems.TOO_MANY_WINDOWS, detail, headers=RETRY)
    results = reader.watch(query.low, query.high, columns=query.columns, filters=query.filter)
    messages = events(results, state.stopping, deltas=query.deltas, unsent=state.unsent)
    response = StreamedResponse(messages, {**NO_STORE, "X-Accel-Buffering": "no"}, EventSourceResponse.media_type)
    return windows.counted(window, response)


class WatchedWindows:
    """Counts the windows being watched, at most `limit`: each costs reads of the shards, however many clients watch."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._watchers: Counter[Window] = Counter()

    def has_room(self, window: Window) -> bool:
        """Whether another client may watch it."""
        return window in self._watchers or len(self._watchers) < self.limit

    def counted(self, window: Window, response: Response) -> Response:
        """The response, which counts as a watcher from now until it ends."""
        self._watchers[window] += 1
        return ReleasingResponse(response, partial(self._release, window))

    def _release(self, window: Window) -> None:
        self._watchers[window] -= 1
        if not self._watchers[window]:
            del self._watchers[window]


async def events(
    results: AsyncGenerator[ReadResult, None],
    stopping: asyncio.Event,
    *,
    deltas: bool = False,
    unsent: UnsentBytes | None = None,
) -> AsyncGenerator[bytes, None]:
    """The results as events, with keepalive comments in between. Ends with `results`, when `stopping` is set, and when
    too much data is waiting for slow clients: a client that does read reconnects and starts again.
    """
    before: ReadResult | None = None
    async with _Updates(results, stopping) as updates:
        number = 0
        while (update := await updates.next()) is not _END:
            if not isinstance(update, ReadResult):
                yield KEEPALIVE_COMMENT
                continue
            number += 1
            if deltas and before is not None:
                event = format_sse_event(event="delta", data_str=_delta(update, before), id=str(number))
            else:
                event = format_sse_event(event="result", data_str=(await result_json(update)).decode(), id=str(number))
            before = update
            if unsent is None:
                yield event
            elif unsent.reserve(len(event)):
                try:
                    yield event
                finally:
                    unsent.release(len(event))
            else:
                return


class _Updates:
    """Waits for the next of `results`, a timeout, or the end, whichever comes first."""

    def __init__(self, results: AsyncGenerator[ReadResult, None], stopping: asyncio.Event) -> None:
        self._results = results
        self._next: asyncio.Task[ReadResult | object] | None = None
        self._stopped = asyncio.create_task(stopping.wait())

    async def next(self) -> ReadResult | object:
        """The next result, `_IDLE` after `KEEPALIVE` seconds without one, `_END` if there are no more."""
        if self._next is None:
            self._next = asyncio.create_task(self._following())
        tasks = {self._next, self._stopped}
        await asyncio.wait(tasks, timeout=KEEPALIVE, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            return _END
        if not self._next.done():
            return _IDLE
        following, self._next = self._next, None
        return following.result()

    async def _following(self) -> ReadResult | object:
        try:
            return await anext(self._results, _END)
        except UsageError:  # no shard could say earlier that its columns or filters do not fit; asked again, it does
            return _END

    async def __aenter__(self) -> _Updates:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Ends the watch; its tasks and generator are closed when this returns."""
        await cancelled(*(task for task in (self._next, self._stopped) if task is not None))
        await self._results.aclose()


def _delta(result: ReadResult, before: ReadResult) -> str:
    """The changes since the previous result, and the current state of the shards."""
    state = result.to_dict()
    del state["columns"], state["rows"], state["next"]
    return to_json({**result.since(before).to_dict(), **state}).decode()
