"""The access point as an ASGI application for any server; `Server` runs it on the current event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any

import pyarrow as pa
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from labkit._version import __version__
from labkit.api import data, health, openapi, problems, watch
from labkit.api.gate import Gate, host_names
from labkit.api.limits import Limits, UnsentBytes
from labkit.reader import ShardReader

__all__ = ["create_app"]

DESCRIPTION = """
A table is distributed over several databases by ID range. This service queries all of them at once and answers with
the merged rows, ascending by ID. **A failed shard is a gap, not an error**: `complete` is false, `missing` lists the
exact ID ranges that went unanswered, and `shards` reports on each shard. A client that needs all or nothing sends
`require=complete`.

Every answer arrives within the service's timeout, whatever the shards do. IDs are 64-bit integers: use a JSON parser
that keeps them exact. Every answer that is not 2xx is a problem document (RFC 9457).

Any request can be answered with 400 or 431 (malformed or too long), 421 (`Host` does not name this service), 408 (the
request was not completed in time) and 503 with `Retry-After` (all connections are in use, too much data is waiting for
slow clients, or the service is stopping). HEAD is GET without the body.
"""


class _AccessPoint(FastAPI):
    _described: pa.Schema | None = None
    """The table as the OpenAPI document describes it."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; rows are described by the table's columns as soon as a shard has answered."""
        table = self.state.reader.schema
        if not self.openapi_schema or table != self._described:
            self.openapi_schema, self._described = None, table
            openapi.complete(super().openapi(), table)
        return super().openapi()


def create_app(reader: ShardReader, *, limits: Limits | None = None, allow_hosts: Collection[str] = ()) -> FastAPI:
    """An application that answers from `reader`, which the caller closes after the application has stopped.

    Serves requests whose Host is an address, localhost, the server's own name (`scope["server"]`), or one of
    `allow_hosts`; "*" allows any. The server must enforce the `limits` on connections, heads and times, as `Server`
    does. To end streams when the server stops, set `app.state.stopping` (an asyncio.Event), as `Server` does. Raises
    `UsageError` for an invalid host name.
    """
    limits = limits or Limits()
    app = _AccessPoint(
        title="labkit",
        summary="One table over several databases, and which of its rows are missing",
        description=DESCRIPTION,
        version=__version__,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=[
            {"name": "data", "description": "The rows of all shards, merged."},
            {"name": "health", "description": "Whether the service runs and its shards answer."},
        ],
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(Gate, hosts=host_names(allow_hosts), direct={"/data": data.data})
    app.state.reader, app.state.limits = reader, limits
    app.state.unsent, app.state.windows = UnsentBytes(limits.unsent), watch.WatchedWindows(limits.windows)
    app.state.stopping = asyncio.Event()
    app.add_api_route("/", _home, include_in_schema=False)
    for module in (watch, data, health):  # /data/watch before /data/{id}
        app.include_router(module.router)
    openapi.add_docs_page(app)
    problems.install(app)
    return app


async def _home() -> HTMLResponse:
    """The page for people: the merged table and the shards' timelines, live."""
    return HTMLResponse(_page(), headers={"Cache-Control": "no-cache"})


@cache
def _page() -> bytes:
    return files("labkit.api").joinpath("page.html").read_bytes()
