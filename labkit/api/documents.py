"""What the OpenAPI document says of answers; they are sent as they are, so the framework does not see them."""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from labkit.api import examples, models, ndjson, problems
from labkit.api.queries import DataQuery, WatchQuery, documented

__all__ = ["ANSWERS", "add_answers"]

Answers: TypeAlias = dict[int, dict[str, Any]]
_REF = "#/components/schemas/{model}"
_TEXT = {"type": "string"}


def add_answers(document: dict[str, Any]) -> None:
    """Puts the query parameters and answers of each operation, and the schemas of bodies, into an OpenAPI document."""
    # Parameters are not found by the framework either: what it does for each request takes longer than the read.
    for path, query in QUERIES.items():
        document["paths"][path]["get"]["parameters"] = documented(query)
    # Not by the framework's `responses`: it leaves out of examples what is null.
    for path, answers in ANSWERS.items():
        document["paths"][path]["get"]["responses"] = {str(status): answer for status, answer in answers.items()}
    every: list[type[BaseModel]] = [getattr(models, name) for name in models.__all__]
    _, schemas = models_json_schema([(model, "validation") for model in every], ref_template=_REF)
    document["components"] = {"schemas": schemas["$defs"]}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _shown(schema: dict[str, Any], *, each: bool = False, **shown: Any) -> dict[str, Any]:
    """The schema of a body, or of `each` item of a stream; and examples by name, which is their summary too."""
    return {
        "itemSchema" if each else "schema": schema,
        "examples": {name: {"summary": name.replace("_", " "), "value": value} for name, value in shown.items()},
    }


def _json(model: type[BaseModel], **shown: Any) -> dict[str, Any]:
    return {"application/json": _shown(_ref(model), **shown)}


def _problem(
    description: str, model: type[BaseModel], headers: dict[str, Any] | None = None, **shown: Any
) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {**_headers(_STORED), **(headers or {})},
        "content": {problems.MEDIA_TYPE: _shown(_ref(model), **shown)},
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
# For OpenAPI 3.1 a sequence is opaque; `itemSchema`, by which 3.2 describes it, is what the framework uses too.

_STORED = ("Cache-Control", "`no-store`: the next answer may be another.", _TEXT, "no-store")
_ASKED_AGAIN = (
    "Cache-Control",
    "`no-cache` for a complete answer; `no-store` for one with gaps, and for a stream.",
    _TEXT,
    "no-cache",
)
_GAPS = ("Labkit-Missing", "Of an answer with gaps: the missing IDs, cut where there are many.", _TEXT, "11-20, 41-50")
_LINK = ("Link", "Of a page that another follows: where that is.", _TEXT, '</data?limit=2&after=10>; rel="next"')
_VARY = ("Vary", "`Accept`: there is more than one representation.", _TEXT, "Accept")
_SOON = _headers(("Retry-After", "Seconds after which to ask again.", {"type": "integer", "minimum": 0}, 1))

_DATA: Answers = {
    200: {
        "description": "The rows, and what of them is missing. As `application/x-ndjson` each line but the last is a "
        "`Row`, and the last is a `StreamEnd`.",
        "headers": _headers(_ASKED_AGAIN, _GAPS, _LINK, _VARY),
        "content": {
            **_json(
                models.ReadResult,
                complete=examples.COMPLETE,
                partial=examples.PARTIAL,
                a_page_that_another_follows=examples.PAGE,
            ),
            ndjson.MEDIA_TYPE: _shown(_LINE, each=True, complete=examples.NDJSON, partial=examples.NDJSON_PARTIAL),
        },
    },
    406: _problem(
        "The Accept header allows nothing that there is.", models.NotAcceptable, nothing_of_it=examples.NOT_WANTED
    ),
    422: _problem(
        "Parameters are not valid, unknown, or there twice; each is named.",
        models.InvalidParameters,
        not_an_integer=examples.invalid("/data", "low"),
        low_above_high=examples.low_above_high("/data"),
        a_typo=examples.UNKNOWN,
    ),
    503: _problem(
        "A complete answer was required, and shards failed.",
        models.IncompleteRead,
        _SOON,
        a_shard_is_late=examples.INCOMPLETE,
    ),
}
_ROW: Answers = {
    200: {
        "description": "The row.",
        "headers": _headers(("Cache-Control", "`no-cache`: ask again each time.", _TEXT, "no-cache")),
        "content": _json(models.Row, a_row=examples.ROW),
    },
    404: _problem(
        "There is no such row.", models.Problem, not_there=examples.NOT_THERE, no_shard_owns_it=examples.NO_OWNER
    ),
    422: _problem(
        "The ID is not an integer of 64 bits.",
        models.InvalidParameters,
        not_an_integer=examples.invalid("/data/twelve", "id", "path"),
    ),
    503: _problem(
        "The shard that owns the ID failed, so that nobody knows.",
        models.ShardUnavailable,
        _SOON,
        its_shard_is_late=examples.UNAVAILABLE,
    ),
}
_WATCH: Answers = {
    200: {
        "description": "Events, until the client leaves or the service stops: `result`, whose data is a `ReadResult`, "
        "and with `deltas=true` `delta`, whose data is a `Delta`. Comments in between keep the connection alive.",
        "headers": _headers(_STORED),
        "content": {
            "text/event-stream": _shown(
                _EVENT, each=True, a_shard_fails=examples.EVENTS, the_same_with_deltas=examples.DELTA_EVENTS
            )
        },
    },
    422: _problem(
        "Parameters are not valid, unknown, or there twice; each is named.",
        models.InvalidParameters,
        not_an_integer=examples.invalid("/data/watch", "low"),
        low_above_high=examples.low_above_high("/data/watch"),
    ),
    503: _problem("As many windows are watched as may be.", models.Problem, _SOON, one_too_many=examples.MANY_WINDOWS),
}
_HEALTHZ: Answers = {
    200: {
        "description": "It runs.",
        "headers": _headers(_STORED),
        "content": _json(models.Health, it_runs=examples.OK),
    }
}
_READYZ: Answers = {
    200: {
        "description": "At least one shard answers.",
        "headers": _headers(_STORED),
        "content": _json(models.Readiness, all_but_one=examples.READY),
    },
    503: _problem("No shard answers.", models.NotReady, _SOON, none=examples.NONE_READY),
}
_READYZ_SHARD: Answers = {
    200: {
        "description": "The shard answers.",
        "headers": _headers(_STORED),
        "content": _json(models.Readiness, it_answers=examples.ONE_READY),
    },
    404: _problem("There is no such shard.", models.Problem, unknown=examples.UNKNOWN_SHARD),
    503: _problem("The shard does not answer.", models.NotReady, _SOON, it_is_late=examples.ONE_NOT_READY),
}

QUERIES: dict[str, type[BaseModel]] = {"/data": DataQuery, "/data/watch": WatchQuery}
ANSWERS: dict[str, Answers] = {
    "/data": _DATA,
    "/data/{id}": _ROW,
    "/data/watch": _WATCH,
    "/healthz": _HEALTHZ,
    "/readyz": _READYZ,
    "/readyz/{shard}": _READYZ_SHARD,
}
"""By path and status."""
