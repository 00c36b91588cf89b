"""Problem documents (RFC 9457): the body of every answer that is not 2xx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from labkit.api.bodies import to_json
from labkit.api.headers import NEVER_STORED, RETRY
from labkit.api.queries import LOW_ABOVE_HIGH
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
    "Kind",
    "answered",
    "install",
    "problem",
    "shortened",
]

MEDIA_TYPE = "application/problem+json"
LONGEST = 100
"""Characters of a client's value that are said back to it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem. Without a name it is no more than its status says (`about:blank`)."""

    status: int
    title: str
    name: str = ""

    @property
    def type(self) -> str:
        """The URI that a program can tell the kind by."""
        return f"urn:labkit:problem:{self.name}" if self.name else "about:blank"


INVALID_PARAMETERS = Kind(422, "A parameter is not valid", "invalid-parameters")
INCOMPLETE_READ = Kind(503, "The read is incomplete", "incomplete-read")
SHARD_UNAVAILABLE = Kind(503, "The shard that owns this ID did not answer", "shard-unavailable")
NOT_READY = Kind(503, "Not ready", "not-ready")
NO_SUCH_ROW = Kind(404, "There is no such row", "no-such-row")
NO_SUCH_SHARD = Kind(404, "There is no such shard", "no-such-shard")
NOT_ACCEPTABLE = Kind(406, "Not Acceptable")
BAD_HOST = Kind(400, "Bad Request")
MISDIRECTED = Kind(421, "Misdirected Request")
CLOSED = Kind(503, "The reader was closed", "closed")
TOO_MANY_WINDOWS = Kind(503, "Too many windows are watched", "too-many-windows")
TOO_MUCH_UNSENT = Kind(503, "Too much waits for slow clients", "too-much-unsent")


def problem(
    request: Request, kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **extensions: Any
) -> Response:
    """An answer that is a problem document about this request; it is not stored."""
    body = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": quote(request.scope["path"], errors="replace"),
        **extensions,
    }
    return Response(to_json(body), kind.status, {**NEVER_STORED, **(headers or {})}, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Makes problem documents of all that the framework answers by itself."""
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UsageError, _closed)
    app.add_exception_handler(Exception, _unexpected)


async def answered(request: Request, error: Exception) -> Response:
    """The problem that an endpoint's error is; raises one that is a defect."""
    if isinstance(error, RequestValidationError):
        return await _invalid(request, error)
    if isinstance(error, UsageError):
        return await _closed(request, error)
    raise error


def shortened(value: Any) -> str:
    """A client's value as it is said back to it."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # it is what this handler is for
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = "nothing is at this path; /docs says what there is"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{shortened(request.method)} is not served here; everything is read by GET"
    return problem(request, Kind(error.status_code, title), detail, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # it is what this handler is for
    found = [_entries(each) for each in error.errors()]
    detail = "; ".join(_sentence(entries) for entries in found)
    return problem(request, INVALID_PARAMETERS, detail, errors=[entry for entries in found for entry in entries])


def _entries(error: Mapping[str, Any]) -> list[dict[str, str]]:
    """One entry for each parameter that the error is about."""
    if error["type"] == LOW_ABOVE_HIGH:
        return [_entry("query", name, error["ctx"][name], error["msg"]) for name in ("low", "high")]
    where, name = error["loc"][:2]
    return [_entry(where, name, error["input"], error["msg"])]


def _sentence(entries: list[dict[str, str]]) -> str:
    first = entries[0]
    return (
        first["detail"]
        if len(entries) > 1 or first["parameter"] == "&"
        else f"{first['parameter']}={first['value']}: {first['detail']}"
    )


def _entry(where: str, name: str, value: Any, detail: str) -> dict[str, str]:
    return {"in": where, "parameter": shortened(name), "value": shortened(value), "detail": detail}


async def _closed(request: Request, error: Exception) -> Response:
    """What is asked is checked before, so that a reader which was closed too early is all that can be wrong here."""
    if not request.app.state.reader.closed:
        raise error
    detail = "the service is stopping, or its reader was closed before it: no shard can be asked"
    return problem(request, CLOSED, detail, headers=RETRY)


async def _unexpected(request: Request, _error: Exception) -> Response:
    """The server logs what happened; the client is told nothing of the inside."""
    return problem(request, Kind(500, "Internal Server Error"), "this is a defect of the service; its log says more")
