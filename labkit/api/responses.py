"""Responses: JSON encoded once, headers, and bodies that are sent in chunks, as fast as the client takes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import pydantic_core
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from labkit._tasks import cancelled
from labkit._types import Ranges
from labkit.result import AggregateResult, ReadResult
from labkit.tables import to_json as rows_to_json

__all__ = [
    "BATCH",
    "MAX_GAPS_LENGTH",
    "NO_STORE",
    "RETRY",
    "LargeResponse",
    "ReleasingResponse",
    "StreamedResponse",
    "next_link",
    "result_headers",
    "result_json",
    "row_batches",
    "to_json",
]

BATCH = 2_000
"""Rows encoded before other tasks get a turn; fewer where rows are long, about `_BATCH_BYTES`."""
_BATCH_BYTES = 1 << 20
_CHUNK = 65_536
"""Bytes passed to a connection at a time; it takes the next chunk when it has room."""
NO_STORE = {"Cache-Control": "no-store"}
"""For answers that may be different a moment later."""
RETRY = {**NO_STORE, "Retry-After": "1"}
"""For failures worth retrying: circuits and connections recover within about a second."""
MAX_GAPS_LENGTH = 500
"""Characters of gaps in a header; many servers and proxies reject headers of a few thousand."""


def to_json(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8. Lone surrogates, which a server's error may contain, become `?`."""
    try:
        return pydantic_core.to_json(value)  # four times as fast as json
    except pydantic_core.PydanticSerializationError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


async def result_json(result: ReadResult) -> bytes:
    """`result.to_dict()` as JSON. Many rows are encoded in batches, so that the event loop stays responsive."""
    if result.table.num_rows <= BATCH:
        return to_json(result.to_dict())
    batches = []
    for rows in row_batches(result):
        batches.append(to_json(rows)[1:-1])
        await asyncio.sleep(0)
    rest = replace(result, table=result.table.slice(0, 0)).to_dict()
    del rest["rows"]
    columns = to_json(rest.pop("columns"))
    return b'{"columns":%b,"rows":[%b],%b' % (columns, b",".join(batches), to_json(rest)[1:])


def row_batches(result: ReadResult) -> Iterator[list[dict[str, Any]]]:
    """The rows of `result.to_dict()`, in batches."""
    table = result.table
    size = max(1, min(BATCH, table.num_rows * _BATCH_BYTES // max(1, table.nbytes)))
    for start in range(0, table.num_rows, size):
        yield rows_to_json(table.slice(start, size))


def result_headers(result: ReadResult | AggregateResult) -> dict[str, str]:
    """A complete answer may be stored but must be revalidated; a partial one names its gaps and is never stored."""
    if result.complete:
        return {"Cache-Control": "no-cache"}
    return {**NO_STORE, "Labkit-Missing": _gaps(result.missing)}


def next_link(request: Request, after: int) -> dict[str, str]:
    """The link (RFC 8288) to the page after `after`; all other parameters stay as they were."""
    parameters = [(name, value) for name, value in request.query_params.multi_items() if name != "after"]
    return {"Link": f'<{quote(request.scope["path"])}?{urlencode([*parameters, ("after", after)])}>; rel="next"'}


def _gaps(missing: Ranges) -> str:
    """`11-20, 41-50`; beyond `MAX_GAPS_LENGTH` it is cut after a whole gap and ends with `...`."""
    text = ""
    for low, high in missing:
        gap = f"{low}-{high}"
        if len(text) + len(gap) > MAX_GAPS_LENGTH:
            return f"{text}, ..."
        text += f", {gap}" if text else gap
    return text


class ReleasingResponse(Response):
    """Sends `response`, then calls `release`, however the sending ends."""

    def __init__(self, response: Response, release: Callable[[], None]) -> None:
        super().__init__()
        self._response, self._release = response, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        try:
            await self._response(scope, receive, send)
        finally:
            self._release()


class StreamedResponse(StreamingResponse):
    """Sends what `content` yields; closes `content` however the sending ends, also when the client leaves."""

    def __init__(self, content: AsyncGenerator[bytes, None], headers: Mapping[str, str], media_type: str) -> None:
        self._chunks = _chunks(content)
        super().__init__(self._chunks, headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response; returns when its tasks and generator are closed."""
        # The framework's own would leave the generator, and the read behind it, to the garbage collector.
        sending = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(sending, leaving)
            await self._chunks.aclose()
        if not sending.cancelled():
            sending.result()


async def _chunks(content: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same bytes in chunks, between which a server can apply back-pressure."""
    async with aclosing(content):
        async for block in content:
            for start in range(0, len(block), _CHUNK):
                yield block[start : start + _CHUNK]


class LargeResponse(Response):
    """A large body, built by `build()` only when it is about to be sent; with Content-Length."""

    def __init__(self, build: Callable[[], Awaitable[bytes]], headers: Mapping[str, str], media_type: str) -> None:
        super().__init__()
        self._build, self._given, self._media_type = build, headers, media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Builds the body, and sends it as fast as the client takes it."""
        body = await self._build()

        async def content() -> AsyncGenerator[bytes, None]:
            yield body

        headers = {**self._given, "Content-Length": str(len(body))}
        await StreamedResponse(content(), headers, self._media_type)(scope, receive, send)
