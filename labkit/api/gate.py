"""The first check of a request: its Host must name this service. Also answers HEAD as GET without the body."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import lru_cache
from typing import TypeAlias

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labkit._checks import shown
from labkit.api.problems import BAD_HOST, MISDIRECTED, ProblemType, clipped, error_response, problem
from labkit.errors import UsageError

__all__ = ["Gate", "host_name", "host_names"]

_ANY = "*"
"""As a host: serve every name, because a proxy in front checks it."""
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::[0-9]{0,5})?")


class Gate:
    """Middleware that admits a request whose Host is an address, localhost, one of `hosts`, or the server's own name.

    A hostile web page can point its own name at 127.0.0.1 and then read whatever the user's browser can reach (DNS
    rebinding); an address cannot be repointed.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], direct: Mapping[str, Endpoint] | None = None) -> None:
        """`direct` endpoints are called by path from here: the framework's routing costs half as much as a read."""
        self._app, self._direct = app, direct or {}
        self._any = _ANY in hosts
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request, or passes it to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = None if self._any else self._refused(scope)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _HeadersOnly(send)
        if refused is not None:
            kind, detail = refused
            response = problem(Request(scope), kind, detail)
            await response(scope, receive, send)
            return
        endpoint = self._direct.get(scope["path"]) if scope["method"] == "GET" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except Exception as error:
            response = await error_response(request, error)
        await response(scope, receive, send)

    def _refused(self, scope: Scope) -> tuple[ProblemType, str] | None:
        """The problem with the Host, None if it is right. A request without one (HTTP/1.0) did not come by a name."""
        given = [value for name, value in scope["headers"] if name == b"host"]
        if not given:
            return None
        if len(given) > 1:
            return BAD_HOST, f"{len(given)} Host headers; send one"
        name = host_name(given[0])
        if name is None:
            return BAD_HOST, f"invalid Host: {clipped(given[0].decode('latin-1'))!r}"
        if name in self._hosts or name == "localhost" or name.endswith(".localhost") or _is_address(name):
            return None
        server = scope.get("server")
        if server and name == str(server[0]).lower():
            return None
        detail = (
            f"{clipped(name)!r} is not a name of this service: use its address or localhost, "
            f"or start it with --allow-host {clipped(name)}"
        )
        return MISDIRECTED, detail


def host_names(given: Collection[str]) -> list[str]:
    """The names in the form that `Gate` compares; `UsageError` for anything that is not a host name."""
    hosts = []
    for one in [given] if isinstance(given, str) else given:
        name = one if one == _ANY else host_name(str(one).encode())
        if name is None:
            raise UsageError(f"{shown(one)} is not a host name: allow_hosts takes names such as labkit.example.org")
        hosts.append(name)
    return hosts


@lru_cache(256)
def host_name(authority: bytes) -> str | None:
    """The host of `host` or `host:port`, in lower case and without the trailing dot; None if it is invalid."""
    if len(authority) > 300:  # a name has at most 253 characters
        return None
    found = _AUTHORITY.fullmatch(authority.decode("latin-1").strip())
    return found[1].lower().removesuffix(".") if found else None


@lru_cache(256)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class _HeadersOnly:
    """Forwards the headers of an answer, then an empty body. A stream learns by `receive` that its client is gone."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
        elif not self._complete:
            self._complete = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
