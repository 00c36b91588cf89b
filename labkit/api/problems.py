"""Problem documents (RFC 9457): the body of every answer that is not 2xx."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from labkit.api.queries import LOW_ABOVE_HIGH
from labkit.api.responses import NO_STORE, RETRY, to_json
from labkit.errors import UsageError

__all__ = [
    "BAD_HOST",
    "CLOSED",
    "INCOMPLETE_READ",
    "INVALID_PARAMETERS",
    "MEDIA_TYPE",
    "MISDIRECTED",
    "NOT_ACCEPTABLE",
    "NOT_READY",
    "NO_SUCH_ROW",
    "NO_SUCH_SHARD",
    "SHARD_UNAVAILABLE",
    "TOO_MANY_WINDOWS",
    "TOO_MUCH_UNSENT",
    "ProblemType",
    "clipped",
    "error_response",
    "install",
    "members",
    "problem",
    "raw_problem",
]

MEDIA_TYPE = "application/problem+json"
_MAX_ECHO = 100
"""Characters of a client's value that are echoed."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A type of problem. Without a name it means no more than its status (`about:blank`)."""

    status: int
    title: str
    name: str = ""

    @property
    def uri(self) -> str:
        """The URI by which a program recognises the type."""
        return f"urn:labkit:problem:{self.name}" if self.name else "about:blank"


INVALID_PARAMETERS = ProblemType(422, "Invalid parameters", "invalid-parameters")
INCOMPLETE_READ = ProblemType(503, "The read is incomplete", "incomplete-read")
SHARD_UNAVAILABLE = ProblemType(503, "The shard that owns this ID did not answer", "shard-unavailable")
NOT_READY = ProblemType(503, "Not ready", "not-ready")
NO_SUCH_ROW = ProblemType(404, "No such row", "no-such-row")
NO_SUCH_SHARD = ProblemType(404, "No such shard", "no-such-shard")
NOT_ACCEPTABLE = ProblemType(406, "Not Acceptable")
BAD_HOST = ProblemType(400, "Bad Request")
MISDIRECTED = ProblemType(421, "Misdirected Request")
CLOSED = ProblemType(503, "The reader is closed", "closed")
TOO_MANY_WINDOWS = ProblemType(503, "Too many windows are being watched", "too-many-windows")
TOO_MUCH_UNSENT = ProblemType(503, "Too much data is waiting for slow clients", "too-much-unsent")


def problem(
    request: Request, kind: ProblemType, detail: str, *, headers: Mapping[str, str] | None = None, **extensions: Any
) -> Response:
    """A problem document about this request; never stored."""
    instance = quote(request.scope["path"], errors="replace")
    body = to_json({**members(kind, detail, instance), **extensions})
    return Response(body, kind.status, {**NO_STORE, **(headers or {})}, MEDIA_TYPE)


def raw_problem(
    status: int, detail: str, headers: Mapping[str, str], more: Iterable[tuple[bytes, bytes]] = ()
) -> bytes:
    """A whole HTTP answer that is a problem document and announces that the connection closes."""
    title = HTTPStatus(status).phrase
    body = to_json(members(ProblemType(status, title), detail, ""))
    fields = {**headers, "Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {title}".encode(), *(b"%b: %b" % field for field in more)]
    return b"\r\n".join([*lines, *(f"{name}: {value}".encode() for name, value in fields.items()), b"", body])


def members(kind: ProblemType, detail: str, instance: str) -> dict[str, Any]:
    """The members that every problem document has."""
    return {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail, "instance": instance}


def install(app: FastAPI) -> None:
    """Turns every error that the framework answers itself into a problem document."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UsageError, _refused)
    app.add_exception_handler(Exception, _unexpected)


async def error_response(request: Request, error: Exception) -> Response:
    """The problem document for an endpoint's error; raises the error again if it is a defect."""
    if isinstance(error, RequestValidationError):
        return await _invalid(request, error)
    if isinstance(error, UsageError):
        return await _refused(request, error)
    raise error


def clipped(value: Any) -> str:
    """A client's value, short enough to echo."""
    text = str(value)
    return text if len(text) <= _MAX_ECHO else f"{text[: _MAX_ECHO - 3]}..."


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for these only
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = "nothing at this path; see /docs"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{clipped(request.method)} is not supported here; use GET"
    return problem(request, ProblemType(error.status_code, title), detail, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # registered for these only
    found = [_entries(each) for each in error.errors()]
    detail = "; ".join(_sentence(entries) for entries in found)
    return problem(request, INVALID_PARAMETERS, detail, errors=[entry for entries in found for entry in entries])


def _entries(error: Mapping[str, Any]) -> list[dict[str, str]]:
    """An entry for each parameter that the error concerns."""
    if error["type"] == LOW_ABOVE_HIGH:
        return [_entry("query", name, error["ctx"][name], error["msg"]) for name in ("low", "high")]
    where, name = error["loc"][:2]
    value = error["input"]
    return [_entry(where, name, ", ".join(value) if isinstance(value, list) else value, error["msg"])]


def _sentence(entries: list[dict[str, str]]) -> str:
    first = entries[0]
    return (
        first["detail"]
        if len(entries) > 1 or first["parameter"] == "&"
        else f"{first['parameter']}={first['value']}: {first['detail']}"
    )


def _entry(where: str, name: str, value: Any, detail: str) -> dict[str, str]:
    return {"in": where, "parameter": clipped(name), "value": clipped(value), "detail": detail}


async def _refused(request: Request, error: Exception) -> Response:
    """What only a read can tell: columns or filters that do not fit the table, or a reader that was closed early."""
    if request.app.state.reader.closed:
        detail = "the service is stopping, or its reader was closed first: no shard can be queried"
        return problem(request, CLOSED, detail, headers=RETRY)
    given = request.query_params
    about = "filter" if str(error).startswith(("a filter on ", "the filter on ")) else "columns"
    if about not in given:
        raise error
    entry = _entry("query", about, ", ".join(given.getlist(about)), str(error))
    return problem(request, INVALID_PARAMETERS, str(error), errors=[entry])


async def _unexpected(request: Request, _error: Exception) -> Response:
    """The server logs the error; the client learns nothing of the internals."""
    return problem(request, ProblemType(500, "Internal Server Error"), "internal error; see the service's log")
