"""Bodies that are sent bit by bit, as the client takes them, and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from labkit._tasks import cancelled

__all__ = ["During", "Stream", "Whole", "in_pieces"]

PIECE = 65_536
"""Bytes that a connection is given at a time; the next ones when it has room for them."""


async def in_pieces(content: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same bytes in pieces that a server can wait between."""
    async with aclosing(content):
        async for block in content:
            for start in range(0, len(block), PIECE):
                yield block[start : start + PIECE]


class During(Response):
    """Sends `answer`, and calls `ended` once that is over, however it ends."""

    def __init__(self, answer: Response, ended: Callable[[], None]) -> None:
        super().__init__()
        self._answer, self._ended = answer, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the answer."""
        try:
            await self._answer(scope, receive, send)
        finally:
            self._ended()


class Stream(StreamingResponse):
    """Sends what `content` yields; however the sending ends, and when the client leaves, `content` is closed."""

    def __init__(self, content: AsyncGenerator[bytes, None], headers: Mapping[str, str], media_type: str) -> None:
        self._content = in_pieces(content)
        super().__init__(self._content, headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the response; returns when nothing of it is left."""
        # Not the framework's own: it would leave the generator, and the read behind it, to the garbage collector.
        sending = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(sending, leaving)
            await self._content.aclose()
        if not sending.cancelled():
            sending.result()


class Whole(Response):
    """A large body that `make()` makes once it is its turn; its length is told first."""

    def __init__(self, make: Callable[[], Awaitable[bytes]], headers: Mapping[str, str], media_type: str) -> None:
        super().__init__()
        self._make, self._given, self._media_type = make, headers, media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Makes it, and sends it as the client takes it."""
        body = await self._make()

        async def content() -> AsyncGenerator[bytes, None]:
            yield body

        headers = {**self._given, "Content-Length": str(len(body))}
        await Stream(content(), headers, self._media_type)(scope, receive, send)
