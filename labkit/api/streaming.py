"""A body that comes bit by bit, and ends with the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from labkit.strays import ended

__all__ = ["Stream"]


class Stream(StreamingResponse):
    """Sends what `content` yields; however the sending ends, and when the client leaves, `content` is closed."""

    def __init__(self, content: AsyncGenerator[bytes, None], headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the response; returns when nothing of it is left."""
        # Not the framework's own: it would leave the generator, and the read behind it, to the garbage collector.
        sending = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(sending, leaving)
            await self._content.aclose()
        if not sending.cancelled():
            sending.result()
