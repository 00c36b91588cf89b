"""What a request passes before anything else: it must mean this service by its Host, and HEAD is GET without a body."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import lru_cache
from typing import TypeAlias

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labkit.api.problems import BAD_HOST, MISDIRECTED, Kind, answered, problem, shortened

__all__ = ["ANY", "Gate", "host_name"]

ANY = "*"
"""Among the hosts: every name is served, since somebody in front has looked at it."""
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::[0-9]{0,5})?")


class Gate:
    """Lets a request through whose Host is an address, localhost, one of `hosts`, or what the server is called.

    A page of a stranger can have the stranger's own name lead to 127.0.0.1 and then read what a browser's user can
    reach (DNS rebinding); an address cannot be led anywhere else.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], direct: Mapping[str, Endpoint] | None = None) -> None:
        """`direct` endpoints are called by their path from here: the framework's way to one costs half of a read."""
        self._app, self._direct = app, direct or {}
        self._any = ANY in hosts
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or has the application do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = None if self._any else self._refused(scope)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _Headers(send)
        if refused is not None:
            kind, detail = refused
            answer = problem(Request(scope), kind, detail)
            await answer(scope, receive, send)
            return
        endpoint = self._direct.get(scope["path"]) if scope["method"] == "GET" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await endpoint(request)
        except Exception as error:
            answer = await answered(request, error)
        await answer(scope, receive, send)

    def _refused(self, scope: Scope) -> tuple[Kind, str] | None:
        """Which problem the Host is, None where it is right. Without one (HTTP/1.0) nobody was led here by a name."""
        given = [value for name, value in scope["headers"] if name == b"host"]
        if not given:
            return None
        if len(given) > 1:
            return BAD_HOST, f"there are {len(given)} Host headers; send one"
        name = host_name(given[0])
        if name is None:
            return BAD_HOST, f"Host is no host: {shortened(given[0].decode('latin-1'))!r}"
        if name in self._hosts or name == "localhost" or name.endswith(".localhost") or _is_address(name):
            return None
        called = scope.get("server")
        if called and name == str(called[0]).lower():
            return None
        detail = (
            f"{shortened(name)!r} is no name of this service: ask for it by its address or as localhost, "
            f"or have it started with --allow-host {shortened(name)}"
        )
        return MISDIRECTED, detail


@lru_cache(256)
def host_name(authority: bytes) -> str | None:
    """The host of `host` or `host:port`, in lower case and without the root's dot; None where it is none."""
    if len(authority) > 300:  # a name has 253 characters at the most
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


class _Headers:
    """Sends on the head of an answer alone. What goes on after it hears by `receive` that nobody is there any more."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
        elif not self._begun:
            self._begun = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
