"""The access point as an ASGI application, for any server that runs such; `Server` runs it on this event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from fastapi import FastAPI

from labkit._checks import shown
from labkit._version import __version__
from labkit.api import data, docs, documents, health, home, problems, watch
from labkit.api.gate import ANY, Gate, host_name
from labkit.api.limits import Limits, Unsent
from labkit.errors import UsageError
from labkit.reader import ShardReader

__all__ = ["create_app", "hosts_of"]

DESCRIPTION = """
A table is distributed over several databases by ID range. This service asks all of them at once and answers with the
merged rows, ascending by ID. **A shard that fails makes no error but a gap**: `complete` is false, `missing` has the
exact ID ranges that nobody answered for, and `shards` says how each shard did. A client that needs all or nothing
says `require=complete`.

Every answer comes within the service's timeout, whatever the shards do. IDs are 64-bit integers: read them with a
parser that keeps those exact. Every answer that is not 2xx is a problem document (RFC 9457).

Whatever is asked for can be answered 400 or 431 (no request, or a too long one), 421 (`Host` is no name of this
service), 408 (the request did not come to its end) and 503 with `Retry-After` (all connections are in use, too much
waits for slow clients, or the service is stopping). HEAD is GET without the body.
"""


class _AccessPoint(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        if not self.openapi_schema:
            documents.add_answers(super().openapi())
        return super().openapi()


def create_app(reader: ShardReader, *, limits: Limits | None = None, allow_hosts: Collection[str] = ()) -> FastAPI:
    """An application that answers from `reader`; whoever made the reader closes it, after the application has stopped.

    Served are requests whose Host is an address, localhost, the name that the server goes by (`scope["server"]`), or
    one of `allow_hosts`; with "*" any is. Of `limits`, those of connections, heads and time are for the server to
    keep, as `Server` does. Set `app.state.stopping` (an asyncio.Event) when the server stops, and streams end; `Server`
    does so. Raises `UsageError` for a host that is none.
    """
    limits = limits or Limits()
    app = _AccessPoint(
        title="labkit",
        summary="One table over several databases, and what of it is missing",
        description=DESCRIPTION,
        version=__version__,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=[
            {"name": "data", "description": "The rows of all shards, merged."},
            {"name": "health", "description": "Whether the service runs, and whether its shards answer."},
        ],
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(Gate, hosts=hosts_of(allow_hosts), direct={"/data": data.data})
    app.state.reader, app.state.limits = reader, limits
    app.state.unsent, app.state.windows = Unsent(limits.unsent), watch.Windows(limits.windows)
    app.state.stopping = asyncio.Event()
    for module in (watch, data, health, home):  # /data/watch before /data/{id}
        app.include_router(module.router)
    docs.install(app)
    problems.install(app)
    return app


def hosts_of(given: Collection[str]) -> list[str]:
    """The names as they are compared; `UsageError` for anything that is not a host name."""
    hosts = []
    for one in [given] if isinstance(given, str) else given:
        name = one if one == ANY else host_name(str(one).encode())
        if name is None:
            raise UsageError(f"{shown(one)} is no host name: allow_hosts takes names such as labkit.example.org")
        hosts.append(name)
    return hosts
