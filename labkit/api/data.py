"""GET /data: the merged rows of a window, a page of them, a stream of them. GET /data/{id}: one row."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from labkit._types import INT64_MAX, INT64_MIN
from labkit.api import ndjson, problems
from labkit.api.accept import choose
from labkit.api.bodies import PIECE, result_json, to_json
from labkit.api.headers import NEVER_STORED, RETRY, for_result, next_page
from labkit.api.limits import SMALL, Unsent
from labkit.api.problems import problem, shortened
from labkit.api.queries import DataQuery, Int64, asked
from labkit.api.streaming import During, Stream, Whole
from labkit.reader import ShardReader
from labkit.result import ReadResult
from labkit.router import RangeRouter

__all__ = ["router"]

router = APIRouter(tags=["data"])
JSON = "application/json"
OFFERS = (JSON, ndjson.MEDIA_TYPE)
VARY = {"Vary": "Accept"}
AROUND = 30
"""Bytes that JSON has for a row besides its columns."""


@router.get("/data", summary="The rows of all shards, merged", response_class=Response)
async def data(request: Request) -> Response:
    """Rows with `low` <= id <= `high`, ascending by ID, and what of them is missing.

    All shards that can hold such rows are asked at once. One that fails, or does not answer in time, makes a gap:
    the answer is 200 all the same, with `complete: false`, the exact ID ranges in `missing`, and the headers
    `Labkit-Missing` and `Cache-Control: no-store`. With `limit` it is one page: `next`, and the `Link`
    header, say where the next one begins; a page that meets a failed shard may be shorter.

    With `Accept: application/x-ndjson` the rows come one a line, page by page, so that no more than a page is in
    memory; the last line has no `id` but `complete`, `missing`, `next` and `shards` of all that was sent.
    """
    reader: ShardReader = request.app.state.reader
    query = asked(DataQuery, request)
    # Header fields of one name are one list (RFC 9110, section 5.3).
    chosen = choose(", ".join(request.headers.getlist("accept")), OFFERS)
    if chosen is None:
        detail = f"available representations: {', '.join(OFFERS)}"
        return problem(request, problems.NOT_ACCEPTABLE, detail, headers=VARY, available=OFFERS)
    if chosen == ndjson.MEDIA_TYPE and query.require is None and not reader.closed:
        stopping: asyncio.Event = request.app.state.stopping
        return _streamed(ndjson.paged(reader, query, stopping))
    unsent: Unsent = request.app.state.unsent
    wide = _is_wide(reader.router, query)
    expected = unsent.expected if wide else 0
    if not unsent.take(expected):
        return _crowded(request)  # before any shard is asked
    try:
        result = await _read(reader, query)
    finally:
        unsent.give(expected)
    if wide:
        unsent.expected = _size(result)
    if query.require == "complete" and not result.complete:
        return _incomplete(request, result)
    if chosen == ndjson.MEDIA_TYPE:
        return _counted(request, int(result.table.nbytes), _streamed(ndjson.pieces(result)))
    link = {} if result.next is None else next_page(request, result.next)
    headers = {**VARY, **for_result(result), **link}
    if result.table.num_rows <= PIECE:
        return _encoded(request, to_json(result.to_dict()), headers)
    # So many are encoded only where there is room for them.
    return _counted(request, _size(result), Whole(partial(result_json, result), headers, JSON))


@router.get("/data/{id}", summary="One row", response_class=Response)
async def row(
    request: Request,
    row_id: Annotated[Int64, Path(alias="id", description="The row's ID, an integer of 64 bits.", examples=[12])],
) -> Response:
    """The row with this ID. Only the shard that owns the ID is asked.

    404 means that there is no such row; it comes at once, and from no shard, where no shard owns the ID. A shard that
    does not answer cannot say that: then it is 503.
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
        detail = f"whether there is a row {row_id} is unknown: {causes}"
        return problem(request, problems.SHARD_UNAVAILABLE, detail, headers=RETRY, shards=failed)
    if not body["rows"]:
        return problem(request, problems.NO_SUCH_ROW, f"the shard that owns ID {row_id} has no such row")
    return _encoded(request, to_json(body["rows"][0]), {"Cache-Control": "no-cache"})


async def _read(reader: ShardReader, query: DataQuery) -> ReadResult:
    """The page that is asked for; without a limit all of it in one read."""
    low, high, after = query.low, query.high, query.after
    if query.limit is not None:
        return await reader.page(query.limit, after, low, high)
    if after is None:
        return await reader.read(low, high)
    if after >= (INT64_MAX if high is None else high):
        return await reader.page(1, after, low, high)  # nothing can follow, and no window can say so
    return await reader.read(after + 1 if low is None else max(low, after + 1), high)


def _encoded(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    """The answer with this body; a large one is counted while it is sent."""
    if len(body) <= SMALL:
        return Response(body, headers=headers, media_type=JSON)

    async def made() -> bytes:
        return body

    return _counted(request, len(body), Whole(made, headers, JSON))


def _counted(request: Request, size: int, answer: Response) -> Response:
    """The answer, unless as much waits for other clients as may."""
    unsent: Unsent = request.app.state.unsent
    if unsent.take(size):
        return During(answer, partial(unsent.give, size))
    return _crowded(request)


def _crowded(request: Request) -> Response:
    detail = "as much as may be is on its way to clients, or waits for slow ones; ask again, or for a page (limit=1000)"
    return problem(request, problems.TOO_MUCH_UNSENT, detail, headers={**VARY, **RETRY})


def _is_wide(router: RangeRouter, query: DataQuery) -> bool:
    """Whether there can be more rows than are encoded at once."""
    if query.limit is not None:
        return query.limit > PIECE
    first = max(bound for bound in (query.low, query.after, INT64_MIN) if bound is not None)
    last = INT64_MAX if query.high is None else query.high
    ids = 0
    for low, high, _ in router.spans:
        ids += max(0, min(high, last) - max(low, first) + 1)
        if ids > PIECE:
            return True
    return False


def _size(result: ReadResult) -> int:
    """About the bytes of its JSON; 0 where it is nothing to count."""
    rows = int(result.table.num_rows)
    return int(result.table.nbytes) + AROUND * rows if rows > PIECE else 0


def _streamed(results: ndjson.Results) -> Response:
    """What will be missing is not known yet when the headers go out."""
    return Stream(ndjson.lines(results), {**VARY, **NEVER_STORED}, ndjson.MEDIA_TYPE)


def _incomplete(request: Request, result: ReadResult) -> Response:
    body = result.to_dict()
    gaps = shortened(", ".join(f"{low}-{high}" for low, high in result.missing))
    detail = f"rows with these IDs are missing, and a complete answer was required: {gaps}"
    missing, shards = body["missing"], body["shards"]
    return problem(request, problems.INCOMPLETE_READ, detail, headers={**VARY, **RETRY}, missing=missing, shards=shards)
