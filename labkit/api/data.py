"""GET /data: the merged rows of a window, a page of them, or a stream of them. GET /data/count: how many there are.
GET /data/{id}: one row.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from labkit._types import INT64_MAX, INT64_MIN
from labkit.aggregates import count
from labkit.api import ndjson, problems
from labkit.api.accept import choose
from labkit.api.limits import SMALL, UnsentBytes
from labkit.api.problems import clipped, problem
from labkit.api.queries import CountQuery, DataQuery, Int64, WatchQuery, parsed
from labkit.api.responses import (
    BATCH,
    NO_STORE,
    RETRY,
    LargeResponse,
    ReleasingResponse,
    StreamedResponse,
    next_link,
    result_headers,
    result_json,
    to_json,
)
from labkit.reader import ShardReader
from labkit.result import AggregateResult, ReadResult
from labkit.router import RangeRouter, as_window

__all__ = ["accepted", "router"]

router = APIRouter(tags=["data"])
_JSON = "application/json"
_OFFERS = (_JSON, ndjson.MEDIA_TYPE)
_VARY = {"Vary": "Accept"}


@router.get("/data", summary="The rows of all shards, merged", response_class=Response)
async def data(request: Request) -> Response:
    """Rows with `low` <= ID <= `high`, ascending by ID, and which of them are missing. The first column is the ID.

    All shards that can hold such rows are queried at once. One that fails or times out leaves a gap: the answer is
    still 200, with `complete: false`, the exact ID ranges in `missing`, and the headers `Labkit-Missing` and
    `Cache-Control: no-store`. With `limit` the answer is one page: `next` and the `Link` header lead to the next one; a
    page that meets a failed shard may be shorter.

    With `Accept: application/x-ndjson` rows are sent one per line, page by page, so that only one page is in memory;
    the last line is a summary of everything that was sent: `complete`, `missing`, `next` and `shards`.
    """
    reader: ShardReader = request.app.state.reader
    query = parsed(DataQuery, request)
    # Header fields of the same name are one list (RFC 9110, section 5.3).
    chosen = choose(", ".join(request.headers.getlist("accept")), _OFFERS)
    if chosen is None:
        detail = f"available representations: {', '.join(_OFFERS)}"
        return problem(request, problems.NOT_ACCEPTABLE, detail, headers=_VARY, available=_OFFERS)
    if chosen == ndjson.MEDIA_TYPE and query.require is None and not reader.closed:
        await accepted(reader, query)
        stopping: asyncio.Event = request.app.state.stopping
        return _streamed(ndjson.paged(reader, query, stopping))
    unsent: UnsentBytes = request.app.state.unsent
    large = _can_be_large(reader.router, query)
    expected = unsent.expected if large else 0
    if not unsent.reserve(expected):
        return _too_much_unsent(request)  # before any shard is queried
    try:
        result = await _read(reader, query)
    finally:
        unsent.release(expected)
    if large:
        unsent.expected = _size(result)
    if query.require == "complete" and not result.complete:
        return _incomplete(request, result)
    if chosen == ndjson.MEDIA_TYPE:
        return _counted(request, int(result.table.nbytes), _streamed(ndjson.single(result)))
    link = {} if result.next is None else next_link(request, result.next)
    headers = {**_VARY, **result_headers(result), **link}
    if result.table.num_rows <= BATCH:
        return _encoded(request, to_json(result.to_dict()), headers)
    # A large result is encoded only if there is room for it.
    return _counted(request, _size(result), LargeResponse(partial(result_json, result), headers, _JSON))


@router.get("/data/count", summary="How many rows there are", response_class=Response)
async def counted(request: Request) -> Response:
    """The number of rows, with bounds while a shard is missing: each ID in `missing` may be a row or not, so the true
    number is from `at_least` to `at_most`. `value` is that of the shards that answered.

    Servers that can do so count themselves; no row is sent.
    """
    reader: ShardReader = request.app.state.reader
    query = parsed(CountQuery, request)
    [result] = await reader.aggregate(count(), low=query.low, high=query.high, filters=query.filter)
    if query.require == "complete" and not result.complete:
        return _incomplete(request, result)
    return _encoded(request, to_json(result.to_dict()), result_headers(result))


@router.get("/data/{id}", summary="One row", response_class=Response)
async def row(
    request: Request,
    row_id: Annotated[Int64, Path(alias="id", description="The row's ID, a 64-bit integer.", examples=[12])],
) -> Response:
    """The row with this ID. Only the shard that owns the ID is queried.

    404: no such row. If no shard owns the ID, the answer is immediate and no shard is queried. 503: the owner failed,
    so whether the row exists is unknown.
    """
    reader: ShardReader = request.app.state.reader
    if reader.router.locate(row_id) is None:
        return problem(request, problems.NO_SUCH_ROW, f"no shard owns ID {row_id}")
    result = await reader.read(row_id, row_id)
    body = result.to_dict()
    if not result.complete:
        failed = {shard: report for shard, report in body["shards"].items() if report["status"] != "skipped"}
        causes = "; ".join(
            f"shard {shard} is {report['status']}: {report['error']}" for shard, report in failed.items()
        )
        detail = f"cannot tell whether row {row_id} exists: {causes}"
        return problem(request, problems.SHARD_UNAVAILABLE, detail, headers=RETRY, shards=failed)
    if not body["rows"]:
        return problem(request, problems.NO_SUCH_ROW, f"the shard that owns ID {row_id} has no such row")
    return _encoded(request, to_json(body["rows"][0]), {"Cache-Control": "no-cache"})


async def accepted(reader: ShardReader, query: DataQuery | WatchQuery) -> None:
    """Raises `UsageError` for columns and filters that do not fit the table, before a stream has begun."""
    low = next((start for start, _, _ in reader.router.within(*as_window(query.low, query.high))), None)
    if low is not None and (query.columns is not None or query.filter):
        await reader.read(low, low, columns=query.columns, filters=query.filter)


async def _read(reader: ShardReader, query: DataQuery) -> ReadResult:
    """The requested page; without a limit all rows in one read."""
    low, high, after = query.low, query.high, query.after
    wanted: dict[str, Any] = {"columns": query.columns, "filters": query.filter}
    if query.limit is not None:
        return await reader.page(query.limit, after, low, high, **wanted)
    if after is None:
        return await reader.read(low, high, **wanted)
    if after >= (INT64_MAX if high is None else high):
        return await reader.page(1, after, low, high, **wanted)  # nothing can follow, and a window cannot be empty
    return await reader.read(after + 1 if low is None else max(low, after + 1), high, **wanted)


def _encoded(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    """A response with this body; a large one counts as unsent until the client has it."""
    if len(body) <= SMALL:
        return Response(body, headers=headers, media_type=_JSON)

    async def build() -> bytes:
        return body

    return _counted(request, len(body), LargeResponse(build, headers, _JSON))


def _counted(request: Request, size: int, response: Response) -> Response:
    """The response, counted as unsent while it is sent; 503 if there is no room for it."""
    unsent: UnsentBytes = request.app.state.unsent
    if unsent.reserve(size):
        return ReleasingResponse(response, partial(unsent.release, size))
    return _too_much_unsent(request)


def _too_much_unsent(request: Request) -> Response:
    detail = "too much data is waiting for slow clients; retry later, or request pages (limit=1000)"
    return problem(request, problems.TOO_MUCH_UNSENT, detail, headers={**_VARY, **RETRY})


def _can_be_large(router: RangeRouter, query: DataQuery) -> bool:
    """Whether the answer can have more rows than one batch."""
    if query.limit is not None:
        return query.limit > BATCH
    first = max(bound for bound in (query.low, query.after, INT64_MIN) if bound is not None)
    last = INT64_MAX if query.high is None else query.high
    ids = 0
    for low, high, _ in router.spans:
        ids += max(0, min(high, last) - max(low, first) + 1)
        if ids > BATCH:
            return True
    return False


def _size(result: ReadResult) -> int:
    """Approximate bytes of its JSON; 0 if it is one batch, which is not counted."""
    rows = int(result.table.num_rows)
    return (
        int(result.table.nbytes) + rows * sum(len(name) + 10 for name in result.table.schema.names)
        if rows > BATCH
        else 0
    )


def _streamed(results: ndjson.Results) -> Response:
    """Never stored: what will be missing is not known when the headers are sent."""
    return StreamedResponse(ndjson.lines(results), {**_VARY, **NO_STORE}, ndjson.MEDIA_TYPE)


def _incomplete(request: Request, result: ReadResult | AggregateResult) -> Response:
    body = result.to_dict()
    gaps = clipped(", ".join(f"{low}-{high}" for low, high in result.missing))
    detail = f"a complete answer was required, but these IDs are missing: {gaps}"
    missing, shards = body["missing"], body["shards"]
    return problem(
        request, problems.INCOMPLETE_READ, detail, headers={**_VARY, **RETRY}, missing=missing, shards=shards
    )
