"""The columns shown for each part, and the labels of contestants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tests.bench.results import OURS, Part, percentile

__all__ = ["COLUMNS", "LABELS", "Column", "cells", "label"]

Column: TypeAlias = tuple[str, Callable[[Part, str], str]]
"""A heading, and a function that gives a contestant's cell."""

LABELS = {
    "bulk": {
        "floor": "three raw sockets, COPY BINARY",
        "adbc": "ADBC ×3, concat, sort",
        "read_sql_adbc": "pandas.read_sql on ADBC ×3, concat, sort",
        "polars": "polars.read_database_uri ×3, sort",
        "connectorx": "connectorx ×3, concat, sort",
        "fdw": "postgres_fdw, ORDER BY, ADBC",
        "read_sql": "pandas.read_sql ×3, concat, sort",
        "dask": "dask read_sql_table ×3, compute, sort",
    },
    "count": {"floor": "SELECT count(*) ×3, raw sockets", "labkit": "labkit aggregate(count())"},
    "small": {
        "floor": "raw asyncpg, gather",
        "labkit": "labkit read()",
        "labkit_frame": "labkit read().frame",
        "sqlalchemy": "SQLAlchemy on asyncpg, gather",
        "read_sql": "pandas.read_sql one by one, concat, sort",
    },
    "redis": {
        "floor": "three raw sockets, ZRANGE",
        "redis_py": "redis-py ×3, json.loads, DataFrame, sort",
    },
    "stream": {"floor": "three raw sockets, COPY BINARY", "labkit": "labkit reader.stream()"},
    "router": {
        "floor": "bisect, numpy.searchsorted",
        "interval_index": "pandas IntervalIndex",
        "loop": "a loop over the ranges",
    },
    "serve": {"floor": "FastAPI, asyncpg pools, gather: by hand", "labkit": "labkit serve"},
    "late": {"floor": "nothing else on the event loop", "labkit": "beside bulk reads of labkit"},
}
LABELS["wide"] = LABELS["bulk"]


def label(kind: str, contestant: str) -> str:
    """A contestant's display name."""
    return LABELS.get(kind, {}).get(contestant, contestant)


def cells(part: Part, contestant: str) -> list[str]:
    """A contestant's row, without its name."""
    return [cell(part, contestant) for _, cell in COLUMNS[part.kind]]


def _metric(name: str, scale: float, form: str) -> Callable[[Part, str], str]:
    def cell(part: Part, contestant: str) -> str:
        value = part.median(contestant, name)
        return "" if value is None else form.format(value * scale)

    return cell


def _ratio(part: Part, contestant: str) -> str:
    value = part.ratio(contestant)
    return "" if value is None else f"{value:.2f}"


def _spread(part: Part, contestant: str) -> str:
    values = part.scores[contestant].samples.get("seconds")
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""


def _p95(part: Part, contestant: str) -> str:
    values = part.scores[contestant].samples.get("seconds")
    return f"{percentile(values, 95) * 1e3:.2f}" if values else ""


def _p99(part: Part, contestant: str) -> str:
    values = part.scores[contestant].samples.get("seconds")
    return f"{percentile(values, 99) * 1e3:.1f}" if values else ""


def _worst(name: str) -> Callable[[Part, str], str]:
    def cell(part: Part, contestant: str) -> str:
        values = part.scores[contestant].samples.get(name)
        return f"{max(values) * 1e3:.1f}" if values else ""

    return cell


def _times_frame(part: Part, contestant: str) -> str:
    """Peak memory ÷ labkit's frame for all contestants, so that a smaller frame of its own does not look worse."""
    peak, frame = part.median(contestant, "peak"), part.median(OURS, "bytes")
    return f"{peak / frame:.2f}" if peak is not None and frame and contestant != "floor" else ""


SECONDS: Column = ("s", _metric("seconds", 1, "{:.3f}"))
RATIO: Column = ("× floor", _ratio)
SPREAD: Column = ("s, from to", _spread)
PEAK: Column = ("peak MB", _metric("peak", 1e-6, "{:.0f}"))
FRAME: Column = ("× frame", _times_frame)

COLUMNS: dict[str, list[Column]] = {
    "bulk": [SECONDS, RATIO, SPREAD, PEAK, FRAME],
    "wide": [SECONDS, RATIO, SPREAD, PEAK, FRAME],
    "count": [SECONDS, RATIO, SPREAD],
    "small": [("p50 ms", _metric("seconds", 1e3, "{:.2f}")), RATIO, ("p95 ms", _p95)],
    "redis": [SECONDS, RATIO, SPREAD, PEAK, FRAME],
    "stream": [SECONDS, RATIO, SPREAD, PEAK, ("first batch s", _metric("first", 1, "{:.3f}"))],
    "router": [("look-up µs", _metric("look_up", 1e6, "{:.3f}")), ("1M IDs s", _metric("many", 1, "{:.3f}"))],
    "serve": [
        ("p50 ms", _metric("seconds", 1e3, "{:.1f}")),
        ("p99 ms", _p99),
        ("requests/s", _metric("rate", 1, "{:.0f}")),
        ("CPU ms/request", _metric("work", 1e3, "{:.2f}")),
    ],
    "late": [("late ms, worst", _worst("late")), ("loop blocked ms, worst", _worst("blocked"))],
}
