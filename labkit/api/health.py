"""GET /healthz: the service is running. GET /readyz: its shards answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from labkit._types import ShardKey
from labkit.api import problems
from labkit.api.problems import clipped, problem
from labkit.api.responses import NO_STORE, RETRY, to_json
from labkit.reader import ShardReader

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The service is running", response_class=Response)
async def healthz() -> Response:
    """200 while the service answers at all; no shard is queried."""
    return _json({"status": "ok"})


@router.get("/readyz", summary="At least one shard answers", response_class=Response)
async def readyz(request: Request) -> Response:
    """Queries every shard for one of its IDs, all at once.

    200 if at least one answers, since this service exists to give partial answers; `shards` reports on each. 503 if
    none does.
    """
    reader: ShardReader = request.app.state.reader
    return await _ready(request, reader, reader.router.shards, "no shard answers")


@router.get("/readyz/{shard:path}", summary="This shard answers", response_class=Response)
async def readyz_shard(
    request: Request,
    shard: Annotated[str, Path(description="The shard's key as text, as in `shards` of an answer.", examples=["2"])],
) -> Response:
    """Queries the shard for one of its IDs: 200 if it answers, 503 if it does not."""
    reader: ShardReader = request.app.state.reader
    keys = [key for key in reader.router.shards if str(key) == shard]
    if not keys:
        known = ", ".join(str(key) for key in reader.router.shards)
        return problem(request, problems.NO_SUCH_SHARD, f"unknown shard {clipped(shard)!r}; expected one of {known}")
    return await _ready(request, reader, keys, f"shard {shard} does not answer")


async def _ready(request: Request, reader: ShardReader, shards: Iterable[ShardKey], detail: str) -> Response:
    reports = dict(await asyncio.gather(*(_probe(reader, shard) for shard in shards)))
    ready = any(report["status"] == "ok" for report in reports.values())
    if ready:
        return _json({"ready": ready, "shards": reports})
    return problem(request, problems.NOT_READY, detail, headers=RETRY, ready=ready, shards=reports)


async def _probe(reader: ShardReader, shard: ShardKey) -> tuple[str, dict[str, Any]]:
    """The shard's key as text, and its report on a read of the first ID it owns."""
    first = next(low for low, _, owner in reader.router.spans if owner == shard)
    result = await reader.read(first, first)
    return str(shard), result.to_dict()["shards"][str(shard)]


def _json(body: dict[str, Any]) -> Response:
    return Response(to_json(body), headers=NO_STORE, media_type="application/json")
