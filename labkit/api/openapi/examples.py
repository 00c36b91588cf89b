"""Example answers for the OpenAPI document: three shards, of which shard 2 times out where an answer says so."""

from __future__ import annotations

import json
from typing import Any

from labkit.api import problems
from labkit.api.problems import ProblemType, members

__all__ = [
    "COUNT",
    "COUNT_PARTIAL",
    "HEALTHY",
    "HTML_ONLY",
    "IDS",
    "INCOMPLETE",
    "NONE_READY",
    "NO_COLUMN",
    "NO_OWNER",
    "NO_ROW",
    "ONE_NOT_READY",
    "ONE_READY",
    "READY",
    "TOO_MANY_WINDOWS",
    "TYPO",
    "UNAVAILABLE",
    "UNKNOWN_SHARD",
    "OfRows",
    "invalid",
    "low_above_high",
]

Body = dict[str, Any]


def _report(low: int | None, high: int | None, rows: int = 0, error: str | None = None) -> Body:
    """A report on one range; skipped without one."""
    queried = low is not None
    status = "timeout" if error else "ok" if queried else "skipped"
    elapsed = 2.001 if error else 0.004 if queried else 0.0
    ranges = [[low, high]] if queried else []
    return {"status": status, "rows": rows, "started": 0.0, "elapsed": elapsed, "error": error, "ranges": ranges}


def _problem(kind: ProblemType, instance: str, detail: str, **extensions: Any) -> Body:
    return {**members(kind, detail, instance), **extensions}


def _lines(*bodies: Body) -> str:
    return "".join(json.dumps(body) + "\n" for body in bodies)


def _events(*events: tuple[str, Body]) -> str:
    return "".join(
        f"event: {kind}\ndata: {json.dumps(body)}\nid: {number}\n\n" for number, (kind, body) in enumerate(events, 1)
    )


_SKIPPED = _report(None, None)
_NO_ANSWER = "no answer before the deadline"
IDS = range(9, 13)
"""Of the rows in the examples."""
_ALL_OK = {"1": _report(9, 10, rows=2), "2": _report(11, 12, rows=2), "3": _SKIPPED}
_ONE_TIMED_OUT = {"1": _report(9, 10, rows=2), "2": _report(11, 12, error=_NO_ANSWER), "3": _SKIPPED}
_GAP = [[11, 12]]


class OfRows:
    """The examples that have rows: four, with the IDs `IDS`, in these columns."""

    def __init__(self, columns: list[Body], rows: list[Body]) -> None:
        self.complete: Body = {
            "columns": columns, "rows": rows, "complete": True, "missing": [], "next": None, "elapsed": 0.005,
            "timeout": 2.0, "shards": _ALL_OK,
        }  # fmt: skip
        self.partial: Body = {
            **self.complete, "rows": rows[:2], "complete": False, "missing": _GAP, "elapsed": 2.002,
            "shards": _ONE_TIMED_OUT,
        }  # fmt: skip
        self.page: Body = {**self.complete, "rows": rows[:2], "next": 10, "shards": {**_ALL_OK, "2": _SKIPPED}}
        self.ndjson = _lines(*rows, {"complete": True, "missing": [], "next": None, "shards": _ALL_OK})
        end = {"complete": False, "missing": _GAP, "next": None, "shards": _ONE_TIMED_OUT}
        self.ndjson_partial = _lines(*rows[:2], end)
        state = {key: self.partial[key] for key in ("complete", "missing", "elapsed", "timeout", "shards")}
        lost: Body = {"added": [], "changed": [], "removed": [], "lost": [11, 12], **state}
        self.events = _events(("result", self.complete), ("result", self.partial))
        self.delta_events = _events(("result", self.complete), ("delta", lost))
        self.row: Body = rows[3]


_COUNTED: Body = {"aggregate": "count()", "value": 4, "at_least": 4, "at_most": 4}
COUNT: Body = {**_COUNTED, "complete": True, "missing": [], "shards": _ALL_OK}
COUNT_PARTIAL: Body = {
    **_COUNTED, "value": 2, "at_least": 2, "complete": False, "missing": _GAP, "shards": _ONE_TIMED_OUT,
}  # fmt: skip

NO_OWNER = _problem(problems.NO_SUCH_ROW, "/data/61", "no shard owns ID 61")
NO_ROW = _problem(problems.NO_SUCH_ROW, "/data/12", "the shard that owns ID 12 has no such row")
UNAVAILABLE = _problem(
    problems.SHARD_UNAVAILABLE,
    "/data/12",
    f"cannot tell whether row 12 exists: shard 2 is timeout: {_NO_ANSWER}",
    shards={"2": _report(12, 12, error=_NO_ANSWER)},
)
INCOMPLETE = _problem(
    problems.INCOMPLETE_READ,
    "/data",
    "a complete answer was required, but these IDs are missing: 11-12",
    missing=_GAP,
    shards=_ONE_TIMED_OUT,
)

_INT64 = "must be an integer from -9223372036854775808 to 9223372036854775807"
_SWAP = "low must not be above high: got low=12, high=9; swap them"


def _wrong(parameter: str, value: str, detail: str, where: str = "query") -> Body:
    return {"in": where, "parameter": parameter, "value": value, "detail": detail}


def invalid(instance: str, parameter: str, where: str = "query") -> Body:
    """A value that is not an ID."""
    errors = [_wrong(parameter, "twelve", _INT64, where)]
    return _problem(problems.INVALID_PARAMETERS, instance, f"{parameter}=twelve: {_INT64}", errors=errors)


def low_above_high(instance: str) -> Body:
    """A window with its bounds swapped."""
    errors = [_wrong("low", "12", _SWAP), _wrong("high", "9", _SWAP)]
    return _problem(problems.INVALID_PARAMETERS, instance, _SWAP, errors=errors)


_KNOWN = "unknown parameter; expected one of low, high, filter, columns, after, limit, require"
TYPO = _problem(problems.INVALID_PARAMETERS, "/data", f"lmit=5: {_KNOWN}", errors=[_wrong("lmit", "5", _KNOWN)])
_COLUMN = "unknown column 'nmae'; did you mean name?"
NO_COLUMN = _problem(problems.INVALID_PARAMETERS, "/data", _COLUMN, errors=[_wrong("columns", "nmae", _COLUMN)])
HTML_ONLY = _problem(
    problems.NOT_ACCEPTABLE,
    "/data",
    "available representations: application/json, application/x-ndjson",
    available=["application/json", "application/x-ndjson"],
)

TOO_MANY_WINDOWS = _problem(
    problems.TOO_MANY_WINDOWS,
    "/data/watch",
    "200 different windows are being watched, which is the limit; retry later, or watch one of those",
)

HEALTHY: Body = {"status": "ok"}
_UP, _DOWN = _report(11, 11, rows=1), _report(11, 11, error=_NO_ANSWER)
READY: Body = {"ready": True, "shards": {"1": _report(1, 1, rows=1), "2": _DOWN, "3": _report(21, 21, rows=1)}}
ONE_READY: Body = {"ready": True, "shards": {"2": _UP}}
NONE_READY = _problem(
    problems.NOT_READY,
    "/readyz",
    "no shard answers",
    ready=False,
    shards={str(i + 1): _report(low, low, error=_NO_ANSWER) for i, low in enumerate((1, 11, 21))},
)
ONE_NOT_READY = _problem(problems.NOT_READY, "/readyz/2", "shard 2 does not answer", ready=False, shards={"2": _DOWN})
UNKNOWN_SHARD = _problem(problems.NO_SUCH_SHARD, "/readyz/7", "unknown shard '7'; expected one of 1, 2, 3")
