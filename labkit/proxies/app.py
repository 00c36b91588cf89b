"""Toxiproxy's HTTP API over proxies, for its clients: the same paths, fields, status codes and error bodies.

Source: README ("HTTP API"), METRICS.md and api.go of Shopify/toxiproxy.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Receive, Scope, Send

from labkit._version import __version__
from labkit.errors import UsageError
from labkit.faults.base import Fault
from labkit.faults.network.address import Down
from labkit.faults.network.toxic import STREAMS, Toxic
from labkit.lab.injector import Active
from labkit.proxies.fronts import CannotListen, Front, Fronts
from labkit.proxies.routes import Route, listen_address, upstream_of
from labkit.proxies.toxics import ToxicFields, attributes_of, fault_of, kinds, shown_as

__all__ = ["VERSION", "create_app"]

VERSION = "2.12.0"
"""The version of Toxiproxy whose API this is."""
BROWSER = b"Mozilla/"
"""How the user agent of a browser begins: a web page must not reach the API."""
T = TypeVar("T")
Json: TypeAlias = dict[str, Any]
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class ApiError(Exception):
    """The request is answered with this status and {"error": message, "status": status}."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.body = {"error": message, "status": status}
        self.status = status


def create_app(fronts: Fronts) -> Starlette:
    """The application; one request at a time changes or reads the proxies."""
    api = _Api(fronts)
    table: list[tuple[str, dict[str, Endpoint]]] = [
        ("/proxies", {"GET": api.list_proxies, "POST": api.create_proxy}),
        (
            "/proxies/{proxy}",
            {"GET": api.show_proxy, "POST": api.update_proxy, "PATCH": api.update_proxy, "DELETE": api.delete_proxy},
        ),
        ("/proxies/{proxy}/toxics", {"GET": api.list_toxics, "POST": api.create_toxic}),
        (
            "/proxies/{proxy}/toxics/{toxic}",
            {"GET": api.show_toxic, "POST": api.update_toxic, "PATCH": api.update_toxic, "DELETE": api.delete_toxic},
        ),
        ("/populate", {"POST": api.populate}),
        ("/reset", {"POST": api.reset}),
        ("/version", {"GET": api.version}),
        ("/metrics", {"GET": api.metrics}),
    ]
    turn = asyncio.Lock()
    paths = [
        Path(path, _answering(endpoint, turn), methods=[method])
        for path, methods in table
        for method, endpoint in methods.items()
    ]
    app = Starlette(routes=paths, exception_handlers={404: _no_such_path})
    app.router.redirect_slashes = False
    app.add_middleware(_Gate)
    return app


class _Gate:
    """Refuses browsers, and gives each answer an ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        agents = [value for name, value in scope.get("headers", ()) if name == b"user-agent"]
        if scope["type"] == "http" and any(agent.startswith(BROWSER) for agent in agents):
            await PlainTextResponse("User agent not allowed\n", 403)(scope, receive, send)
            return

        async def send_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-toxiproxy-request-id", secrets.token_hex(10).encode())]
            await send(message)

        await self._app(scope, receive, send_on)


def _answering(endpoint: Endpoint, turn: asyncio.Lock) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            async with turn:
                return await endpoint(request)
        except ApiError as error:
            return JSONResponse(error.body, error.status)
        except Exception as error:
            return JSONResponse({"error": str(error) or type(error).__name__, "status": 500}, 500)

    return answer


async def _no_such_path(request: Request, error: Exception) -> Response:
    return PlainTextResponse("404 page not found\n", 404)


class _Api:
    def __init__(self, fronts: Fronts) -> None:
        self._fronts = fronts
        self._fields: WeakKeyDictionary[Active, ToxicFields] = WeakKeyDictionary()
        """The toxics that the API started."""

    async def list_proxies(self, request: Request) -> Response:
        return JSONResponse({name: self._proxy(front) for name, front in self._fronts.by_name.items()})

    async def create_proxy(self, request: Request) -> Response:
        given = await _body(request)
        front = await self._created(*_proxy_fields(given))
        return JSONResponse(self._proxy(front), 201)

    async def show_proxy(self, request: Request) -> Response:
        return JSONResponse(self._proxy(self._front(request)))

    async def update_proxy(self, request: Request) -> Response:
        front = self._front(request)
        given = await _body(request)
        enabled = self._enabled(front)
        now = {"name": front.name, "listen": front.address, "upstream": front.upstream, "enabled": enabled}
        _, route, wanted = _proxy_fields({**now, **{k: v for k, v in given.items() if k != "name" and v is not None}})
        await self._reroute(front, route)
        await self._enable(front, wanted)
        return JSONResponse(self._proxy(front))

    async def delete_proxy(self, request: Request) -> Response:
        await self._fronts.remove(self._front(request))
        return Response(status_code=204)

    async def list_toxics(self, request: Request) -> Response:
        return JSONResponse(self._toxics(self._front(request)))

    async def create_toxic(self, request: Request) -> Response:
        front = self._front(request)
        given = await _body(request)
        toxic = _toxic_fields(given)
        if toxic.stream not in STREAMS:
            raise ApiError("stream was invalid, can be either upstream or downstream", 400)
        if toxic.type not in kinds():
            raise ApiError("invalid toxic type", 400)
        if any(toxic.name == other.name for _, other in self._acting(front)):
            raise ApiError("toxic already exists", 409)
        toxic, fault = _made(replace(toxic, attributes=_attributes({}, given)))
        [active] = await _checked(self._fronts.injector.start([(front.shard, fault)], twice=True))
        self._fields[active] = toxic
        return JSONResponse(asdict(toxic))

    async def show_toxic(self, request: Request) -> Response:
        return JSONResponse(asdict(self._toxic(request)[1]))

    async def update_toxic(self, request: Request) -> Response:
        self._front(request)
        active, toxic = self._toxic(request)
        given = await _body(request)
        toxicity = _number(given, "toxicity", toxic.toxicity)
        toxic, fault = _made(replace(toxic, attributes=_attributes(toxic.attributes, given), toxicity=toxicity))
        if isinstance(fault, Toxic):
            await _checked(self._fronts.injector.change(active, fault))
        self._fields[active] = toxic
        return JSONResponse(asdict(toxic))

    async def delete_toxic(self, request: Request) -> Response:
        self._front(request)
        await self._fronts.injector.stop([self._toxic(request)[0]], awaits=False)
        return Response(status_code=204)

    async def populate(self, request: Request) -> Response:
        wanted = await _body(request, list)
        made: list[Json] = []
        try:
            checked = [_proxy_fields(given, f" at proxy {i}") for i, given in enumerate(wanted, 1)]
        except ApiError as error:
            return JSONResponse({**error.body, "proxies": None}, error.status)
        try:
            for name, route, enabled in checked:
                made.append(self._proxy(await self._populated(name, route, enabled)))
        except ApiError as error:
            return JSONResponse({**error.body, "proxies": made}, error.status)
        return JSONResponse({"proxies": made}, 201)

    async def reset(self, request: Request) -> Response:
        names = {front.shard for front in self._fronts.by_name.values()}
        injector = self._fronts.injector
        toxics = [active for active in injector.active if active.shard in names and active.fault.layer == "network"]
        await injector.stop(toxics, awaits=False)
        return Response(status_code=204)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION, "labkit": __version__})

    async def metrics(self, request: Request) -> Response:
        traffic = await self._fronts.traffic()
        lines = []
        for i, what in enumerate(("received", "sent")):
            name = f"toxiproxy_proxy_{what}_bytes_total"
            lines.append(f"# TYPE {name} counter")
            for front in self._fronts.by_name.values():
                for stream in STREAMS:
                    labels = {
                        "direction": stream,
                        "listener": front.address,
                        "proxy": front.name,
                        "upstream": front.upstream,
                    }
                    text = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
                    lines.append(f"{name}{{{text}}} {traffic[front.name][stream][i]}")
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")

    def _front(self, request: Request) -> Front:
        front = self._fronts.by_name.get(request.path_params["proxy"])
        if front is None:
            raise ApiError("proxy not found", 404)
        return front

    def _toxic(self, request: Request) -> tuple[Active, ToxicFields]:
        for active, toxic in self._acting(self._front(request)):
            if toxic.name == request.path_params["toxic"]:
                return active, toxic
        raise ApiError("toxic not found", 404)

    def _acting(self, front: Front) -> list[tuple[Active, ToxicFields]]:
        """The toxics of a proxy, whoever started them: those upstream first, as Toxiproxy lists them."""
        found: list[tuple[Active, ToxicFields]] = []
        for active in self._fronts.injector.active:
            network = active.fault.layer == "network" and not isinstance(active.fault, Down)
            if active.shard == front.shard and network:
                toxic = self._fields.get(active) or shown_as(active.fault)
                taken = {other.name for _, other in found}
                free = next(name for name in _names(toxic.name) if name not in taken)
                found.append((active, replace(toxic, name=free)))
        return sorted(found, key=lambda pair: STREAMS.index(pair[1].stream))

    def _toxics(self, front: Front) -> list[Json]:
        return [asdict(toxic) for _, toxic in self._acting(front)]

    def _downs(self, front: Front) -> list[Active]:
        active = self._fronts.injector.active
        return [one for one in active if one.shard == front.shard and isinstance(one.fault, Down)]

    def _enabled(self, front: Front) -> bool:
        return not self._downs(front)

    def _proxy(self, front: Front) -> Json:
        return {
            "name": front.name,
            "listen": front.address,
            "upstream": front.upstream,
            "enabled": self._enabled(front),
            "toxics": self._toxics(front),
        }

    async def _created(self, name: str, route: Route, enabled: bool) -> Front:
        if name in self._fronts.by_name:
            raise ApiError("proxy already exists", 409)
        return await _listening(self._fronts.add(name, route, enabled=enabled))

    async def _populated(self, name: str, route: Route, enabled: bool) -> Front:
        front = self._fronts.by_name.get(name)
        if front is not None:
            if (front.route.listen, front.route.upstream) == (route.listen, route.upstream):
                return front
            await self._fronts.remove(front)
        return await self._created(name, route, enabled)

    async def _reroute(self, front: Front, route: Route) -> None:
        if route.listen != front.route.listen:
            await _listening(self._fronts.move(front, route.listen))
        if route.upstream != front.route.upstream:
            await self._fronts.redirect(front, route.upstream)

    async def _enable(self, front: Front, enabled: bool) -> None:
        if not enabled and self._enabled(front):
            await self._fronts.injector.start([(front.shard, Down())])
        elif enabled:
            await self._fronts.injector.stop(self._downs(front), awaits=False)


async def _body(request: Request, kind: type = dict) -> Any:
    """The JSON of a request; a body that is not of that kind is refused."""
    try:
        given = json.loads(await request.body())
    except ValueError as error:
        raise ApiError(f"bad request body: {error}", 400) from None
    if not isinstance(given, kind):
        raise _bad(f"it must be {'a list' if kind is list else 'an object'}")
    return given


def _proxy_fields(given: Any, where: str = "") -> tuple[str, Route, bool]:
    if not isinstance(given, dict):
        raise _bad("a proxy must be an object")
    name, listen, upstream = (_text(given, field) for field in ("name", "listen", "upstream"))
    for field, value in (("name", name), ("upstream", upstream)):
        if not value:
            raise ApiError(f"missing required field: {field}{where}", 400)
    enabled = given.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise _bad("enabled must be true or false")
    try:
        route = Route(listen_address(listen or "127.0.0.1:0"), upstream_of(upstream))
    except UsageError as error:
        raise _bad(str(error)) from None
    return name, route, enabled is not False


def _toxic_fields(given: Json) -> ToxicFields:
    type_, stream = _text(given, "type"), _text(given, "stream") or "downstream"
    name = _text(given, "name") or f"{type_}_{stream}"
    return ToxicFields(name, type_, stream, _number(given, "toxicity", 1.0))


def _attributes(now: Mapping[str, Any] | None, given: Json) -> Json:
    attributes = given.get("attributes")
    if attributes is not None and not isinstance(attributes, dict):
        raise _bad("attributes must be an object")
    return {**(now or {}), **(attributes or {})}


def _text(given: Json, field: str) -> str:
    value = given.get(field)
    if value is not None and not isinstance(value, str):
        raise _bad(f"{field} must be a string")
    return value or ""


def _number(given: Json, field: str, default: float) -> float:
    value = given.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(f"{field} must be a number")
    return value


def _made(toxic: ToxicFields) -> tuple[ToxicFields, Fault]:
    """The toxic with all its attributes, and the fault that it is."""
    try:
        fault = fault_of(toxic)
    except UsageError as error:
        raise _bad(str(error)) from None
    return replace(toxic, attributes=attributes_of(toxic, fault)), fault


async def _checked(work: Awaitable[T]) -> T:
    try:
        return await work
    except UsageError as error:
        raise _bad(str(error)) from None


async def _listening(work: Awaitable[T]) -> T:
    try:
        return await work
    except CannotListen as error:
        raise ApiError(f"listen tcp {error.address}: bind: {error.reason}", 500) from None


def _bad(why: str) -> ApiError:
    return ApiError(f"bad request body: {why}", 400)


def _names(name: str) -> Any:
    """The name, then with a number."""
    yield name
    i = 2
    while True:
        yield f"{name}_{i}"
        i += 1


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
