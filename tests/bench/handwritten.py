"""A hand-written alternative to labkit's access point: FastAPI, one asyncpg pool per shard, gather.

`python -m tests.bench.handwritten PLACE TABLE [PLACE TABLE …]` serves it with uvicorn on a free port, which it prints.
It has no deadline, gaps or checks: a failing shard gives a 500, and a hanging one hangs the request.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from heapq import merge
from operator import itemgetter

import asyncpg
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from tests.bench.task import DATABASE, USER

__all__ = ["application"]


def application(shards: Sequence[tuple[str, str]]) -> FastAPI:
    """The application; `shards` are pairs of server and table."""
    pools: list[tuple[asyncpg.Pool, str]] = []

    @asynccontextmanager
    async def connected(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for place, table in shards:
                pool = asyncpg.create_pool(host=place, user=USER, database=DATABASE)
                pools.append((await stack.enter_async_context(pool), f"SELECT id, name FROM {table} ORDER BY id"))
            yield

    app = FastAPI(lifespan=connected)

    @app.get("/data")
    async def data() -> JSONResponse:
        parts = await asyncio.gather(*(pool.fetch(sql) for pool, sql in pools))
        return JSONResponse({"rows": [dict(row) for row in merge(*parts, key=itemgetter("id"))]})

    return app


def main() -> None:
    places, tables = sys.argv[1::2], sys.argv[2::2]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(application(list(zip(places, tables, strict=True))), log_level="error"))
        server.run([listening])


if __name__ == "__main__":
    main()
