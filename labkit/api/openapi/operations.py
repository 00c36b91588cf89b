"""Parameters and responses of each operation. Bodies are sent pre-encoded, so the framework cannot describe them."""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import BaseModel

from labkit.api import ndjson, problems
from labkit.api.openapi import examples, models
from labkit.api.openapi.examples import OfRows
from labkit.api.queries import CountQuery, DataQuery, WatchQuery

__all__ = ["QUERIES", "REF", "responses"]

Responses: TypeAlias = dict[int, dict[str, Any]]
REF = "#/components/schemas/{model}"
_TEXT = {"type": "string"}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


def _media(schema: dict[str, Any], *, each: bool = False, **values: Any) -> dict[str, Any]:
    """The schema of a body, or of `each` item of a stream, with named examples; a name is also the summary."""
    return {
        "itemSchema" if each else "schema": schema,
        "examples": {name: {"summary": name.replace("_", " "), "value": value} for name, value in values.items()},
    }


def _json(model: type[BaseModel], **values: Any) -> dict[str, Any]:
    return {"application/json": _media(_ref(model), **values)}


def _problem(
    description: str, model: type[BaseModel], headers: dict[str, Any] | None = None, **values: Any
) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {**_headers(_NO_STORE), **(headers or {})},
        "content": {problems.MEDIA_TYPE: _media(_ref(model), **values)},
    }


def _headers(*described: tuple[str, str, dict[str, Any], Any]) -> dict[str, Any]:
    return {
        name: {"description": text, "schema": schema, "example": example} for name, text, schema, example in described
    }


_LINE = {"anyOf": [_ref(models.Row), _ref(models.StreamEnd)]}
_DATA_OF_EVENT = {"anyOf": [_ref(models.ReadResult), _ref(models.Delta)]}
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["result", "delta"]},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": _DATA_OF_EVENT},
        "id": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "required": ["event", "data", "id"],
}
# OpenAPI 3.1 cannot describe the items of a stream. `itemSchema` is from 3.2; the framework uses it too.

_NO_STORE = ("Cache-Control", "`no-store`: the next answer may differ.", _TEXT, "no-store")
_CACHED = (
    "Cache-Control",
    "`no-cache` for a complete answer; `no-store` for one with gaps and for a stream.",
    _TEXT,
    "no-cache",
)
_GAPS = ("Labkit-Missing", "If there are gaps: the missing IDs, cut short if there are many.", _TEXT, "11-20, 41-50")
_LINK = ("Link", "The URL of the next page, if there is one.", _TEXT, '</data?limit=2&after=10>; rel="next"')
_VARY = ("Vary", "`Accept`: there is more than one representation.", _TEXT, "Accept")
_RETRY = _headers(("Retry-After", "Seconds to wait before retrying.", {"type": "integer", "minimum": 0}, 1))


def _data(rows: OfRows) -> Responses:
    return {
        200: {
            "description": "The rows, and which are missing. As `application/x-ndjson` each line but the last is a "
            "`Row`, and the last is a `StreamEnd`.",
            "headers": _headers(_CACHED, _GAPS, _LINK, _VARY),
            "content": {
                **_json(
                    models.ReadResult,
                    complete=rows.complete,
                    partial=rows.partial,
                    a_page_with_a_next_one=rows.page,
                ),
                ndjson.MEDIA_TYPE: _media(_LINE, each=True, complete=rows.ndjson, partial=rows.ndjson_partial),
            },
        },
        406: _problem(
            "The Accept header allows no available representation.",
            models.NotAcceptable,
            html_only=examples.HTML_ONLY,
        ),
        422: _problem(
            "Invalid, unknown or repeated parameters; each is named.",
            models.InvalidParameters,
            not_an_integer=examples.invalid("/data", "low"),
            low_above_high=examples.low_above_high("/data"),
            a_typo=examples.TYPO,
            no_such_column=examples.NO_COLUMN,
        ),
        503: _problem(
            "A complete answer was required, and a shard failed.",
            models.IncompleteRead,
            _RETRY,
            a_shard_timed_out=examples.INCOMPLETE,
        ),
    }


def _row(rows: OfRows) -> Responses:
    return {
        200: {
            "description": "The row.",
            "headers": _headers(("Cache-Control", "`no-cache`: revalidate each time.", _TEXT, "no-cache")),
            "content": _json(models.Row, a_row=rows.row),
        },
        404: _problem(
            "No such row.", models.Problem, not_on_its_shard=examples.NO_ROW, no_shard_owns_it=examples.NO_OWNER
        ),
        422: _problem(
            "The ID is not a 64-bit integer.",
            models.InvalidParameters,
            not_an_integer=examples.invalid("/data/twelve", "id", "path"),
        ),
        503: _problem(
            "The shard that owns the ID failed, so whether the row exists is unknown.",
            models.ShardUnavailable,
            _RETRY,
            its_shard_timed_out=examples.UNAVAILABLE,
        ),
    }


def _watch(rows: OfRows) -> Responses:
    return {
        200: {
            "description": "Events, until the client leaves or the service stops: `result`, whose data is a "
            "`ReadResult`, and with `deltas=true` `delta`, whose data is a `Delta`. Comments in between keep the "
            "connection alive.",
            "headers": _headers(_NO_STORE),
            "content": {
                "text/event-stream": _media(
                    _EVENT, each=True, a_shard_fails=rows.events, the_same_with_deltas=rows.delta_events
                )
            },
        },
        422: _problem(
            "Invalid, unknown or repeated parameters; each is named.",
            models.InvalidParameters,
            not_an_integer=examples.invalid("/data/watch", "low"),
            low_above_high=examples.low_above_high("/data/watch"),
        ),
        503: _problem(
            "Too many different windows are being watched.",
            models.Problem,
            _RETRY,
            one_too_many=examples.TOO_MANY_WINDOWS,
        ),
    }


_COUNT: Responses = {
    200: {
        "description": "The number of rows, with bounds.",
        "headers": _headers(_CACHED, _GAPS),
        "content": _json(models.Count, complete=examples.COUNT, partial=examples.COUNT_PARTIAL),
    },
    422: _problem(
        "Invalid, unknown or repeated parameters; each is named.",
        models.InvalidParameters,
        not_an_integer=examples.invalid("/data/count", "low"),
    ),
    503: _problem(
        "A complete answer was required, and a shard failed.",
        models.IncompleteRead,
        _RETRY,
        a_shard_timed_out=examples.INCOMPLETE,
    ),
}
_HEALTHZ: Responses = {
    200: {
        "description": "The service is running.",
        "headers": _headers(_NO_STORE),
        "content": _json(models.Health, running=examples.HEALTHY),
    }
}
_READYZ: Responses = {
    200: {
        "description": "At least one shard answers.",
        "headers": _headers(_NO_STORE),
        "content": _json(models.Readiness, all_but_one=examples.READY),
    },
    503: _problem("No shard answers.", models.NotReady, _RETRY, none=examples.NONE_READY),
}
_READYZ_SHARD: Responses = {
    200: {
        "description": "The shard answers.",
        "headers": _headers(_NO_STORE),
        "content": _json(models.Readiness, it_answers=examples.ONE_READY),
    },
    404: _problem("No such shard.", models.Problem, unknown=examples.UNKNOWN_SHARD),
    503: _problem("The shard does not answer.", models.NotReady, _RETRY, it_timed_out=examples.ONE_NOT_READY),
}

QUERIES: dict[str, type[BaseModel]] = {"/data": DataQuery, "/data/count": CountQuery, "/data/watch": WatchQuery}
"""Query parameters by path."""


def responses(rows: OfRows) -> dict[str, Responses]:
    """Responses by path and status, with examples of these rows."""
    return {
        "/data": _data(rows),
        "/data/count": _COUNT,
        "/data/{id}": _row(rows),
        "/data/watch": _watch(rows),
        "/healthz": _HEALTHZ,
        "/readyz": _READYZ,
        "/readyz/{shard}": _READYZ_SHARD,
    }
