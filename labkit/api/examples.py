"""Answers as they look, for the OpenAPI document: three shards, of which shard 2 does not answer where it says so."""

from __future__ import annotations

import json
from typing import Any

from labkit.api.problems import (
    INCOMPLETE_READ,
    INVALID_PARAMETERS,
    NO_SUCH_ROW,
    NO_SUCH_SHARD,
    NOT_ACCEPTABLE,
    NOT_READY,
    SHARD_UNAVAILABLE,
    TOO_MANY_WINDOWS,
    Kind,
)

__all__ = [
    "COMPLETE",
    "DELTA_EVENTS",
    "EVENTS",
    "INCOMPLETE",
    "MANY_WINDOWS",
    "NDJSON",
    "NDJSON_PARTIAL",
    "NONE_READY",
    "NOT_THERE",
    "NOT_WANTED",
    "NO_OWNER",
    "OK",
    "ONE_NOT_READY",
    "ONE_READY",
    "PAGE",
    "PARTIAL",
    "READY",
    "ROW",
    "UNAVAILABLE",
    "UNKNOWN",
    "UNKNOWN_SHARD",
    "invalid",
    "low_above_high",
]

Body = dict[str, Any]


def _report(low: int | None, high: int | None, rows: int = 0, error: str | None = None) -> Body:
    """A report on one range; without a range it was skipped."""
    asked = low is not None
    status = "timeout" if error else "ok" if asked else "skipped"
    elapsed = 2.001 if error else 0.004 if asked else 0.0
    ranges = [[low, high]] if asked else []
    return {"status": status, "rows": rows, "started": 0.0, "elapsed": elapsed, "error": error, "ranges": ranges}


def _problem(kind: Kind, instance: str, detail: str, **extensions: Any) -> Body:
    head = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": detail, "instance": instance}
    return {**head, **extensions}


def _lines(*bodies: Body) -> str:
    return "".join(json.dumps(body) + "\n" for body in bodies)


def _events(*events: tuple[str, Body]) -> str:
    return "".join(
        f"event: {kind}\ndata: {json.dumps(body)}\nid: {number}\n\n" for number, (kind, body) in enumerate(events, 1)
    )


_SKIPPED = _report(None, None)
_LATE = "no answer before the deadline"
_ROWS = [{"id": i, "name": f"Test {i}"} for i in range(9, 13)]
_ALL_WELL = {"1": _report(9, 10, rows=2), "2": _report(11, 12, rows=2), "3": _SKIPPED}
_ONE_LATE = {"1": _report(9, 10, rows=2), "2": _report(11, 12, error=_LATE), "3": _SKIPPED}
_GAP = [[11, 12]]

COMPLETE: Body = {
    "rows": _ROWS, "complete": True, "missing": [], "next": None, "elapsed": 0.005, "timeout": 2.0, "shards": _ALL_WELL,
}  # fmt: skip
PARTIAL: Body = {
    **COMPLETE, "rows": _ROWS[:2], "complete": False, "missing": _GAP, "elapsed": 2.002, "shards": _ONE_LATE,
}  # fmt: skip
PAGE: Body = {
    **COMPLETE, "rows": _ROWS[:2], "next": 10, "shards": {**_ALL_WELL, "2": _SKIPPED},
}  # fmt: skip
NDJSON = _lines(*_ROWS, {"complete": True, "missing": [], "next": None, "shards": _ALL_WELL})
NDJSON_PARTIAL = _lines(*_ROWS[:2], {"complete": False, "missing": _GAP, "next": None, "shards": _ONE_LATE})

_STATE = {key: PARTIAL[key] for key in ("complete", "missing", "elapsed", "timeout", "shards")}
_LOST: Body = {"added": [], "changed": [], "removed": [], "lost": [11, 12], **_STATE}
EVENTS = _events(("result", COMPLETE), ("result", PARTIAL))
DELTA_EVENTS = _events(("result", COMPLETE), ("delta", _LOST))

ROW: Body = _ROWS[3]
NO_OWNER = _problem(NO_SUCH_ROW, "/data/61", "no shard owns ID 61")
NOT_THERE = _problem(NO_SUCH_ROW, "/data/12", "the shard that owns ID 12 has no such row")
UNAVAILABLE = _problem(
    SHARD_UNAVAILABLE,
    "/data/12",
    f"whether there is a row 12 is unknown: shard 2 is timeout: {_LATE}",
    shards={"2": _report(12, 12, error=_LATE)},
)
INCOMPLETE = _problem(
    INCOMPLETE_READ,
    "/data",
    "rows with these IDs are missing, and a complete answer was required: 11-12",
    missing=_GAP,
    shards=_ONE_LATE,
)

_INT64 = "must be an integer from -9223372036854775808 to 9223372036854775807"
_SWAP = "low must not be above high: got low=12, high=9; swap them"


def _wrong(parameter: str, value: str, detail: str, where: str = "query") -> Body:
    return {"in": where, "parameter": parameter, "value": value, "detail": detail}


def invalid(instance: str, parameter: str, where: str = "query") -> Body:
    """A value that is no ID."""
    errors = [_wrong(parameter, "twelve", _INT64, where)]
    return _problem(INVALID_PARAMETERS, instance, f"{parameter}=twelve: {_INT64}", errors=errors)


def low_above_high(instance: str) -> Body:
    """A window the wrong way round."""
    errors = [_wrong("low", "12", _SWAP), _wrong("high", "9", _SWAP)]
    return _problem(INVALID_PARAMETERS, instance, _SWAP, errors=errors)


UNKNOWN = _problem(
    INVALID_PARAMETERS,
    "/data",
    "lmit=5: unknown parameter; expected one of low, high, after, limit, require",
    errors=[_wrong("lmit", "5", "unknown parameter; expected one of low, high, after, limit, require")],
)
NOT_WANTED = _problem(
    NOT_ACCEPTABLE,
    "/data",
    "available representations: application/json, application/x-ndjson",
    available=["application/json", "application/x-ndjson"],
)

MANY_WINDOWS = _problem(
    TOO_MANY_WINDOWS,
    "/data/watch",
    "all 200 windows that may be watched at a time are; ask again, or for one of those",
)

OK: Body = {"status": "ok"}
_UP, _DOWN = _report(11, 11, rows=1), _report(11, 11, error=_LATE)
READY: Body = {"ready": True, "shards": {"1": _report(1, 1, rows=1), "2": _DOWN, "3": _report(21, 21, rows=1)}}
ONE_READY: Body = {"ready": True, "shards": {"2": _UP}}
NONE_READY = _problem(
    NOT_READY,
    "/readyz",
    "no shard answers",
    ready=False,
    shards={str(i + 1): _report(low, low, error=_LATE) for i, low in enumerate((1, 11, 21))},
)
ONE_NOT_READY = _problem(NOT_READY, "/readyz/2", "shard 2 does not answer", ready=False, shards={"2": _DOWN})
UNKNOWN_SHARD = _problem(NO_SUCH_SHARD, "/readyz/7", "no shard '7'; there are 1, 2, 3")
