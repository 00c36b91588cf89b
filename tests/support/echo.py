"""A server that sends back what it receives, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["answered", "echoing", "opened"]

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echoing(host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The port of such a server, as long as the block lasts."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Pair]:
    """A connection to host:port."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def answered(address: str, data: bytes = b"hello") -> bytes:
    """What a new connection is answered to `data`, until it has as much or the end."""
    async with opened(address) as (reader, writer):
        writer.write(data)
        try:
            return await reader.readexactly(len(data))
        except asyncio.IncompleteReadError as error:
            return error.partial
