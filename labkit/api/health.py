"""/healthz: the service runs. /readyz: its shards answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from labkit._types import ShardKey
from labkit.api import problems
from labkit.api.bodies import to_json
from labkit.api.headers import NEVER_STORED, RETRY
from labkit.api.problems import problem, shortened
from labkit.reader import ShardReader

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The service runs", response_class=Response)
async def healthz() -> Response:
    """200 as long as the service answers at all; no shard is asked."""
    return _answer({"status": "ok"})


@router.get("/readyz", summary="Its shards answer", response_class=Response)
async def readyz(request: Request) -> Response:
    """Each shard is asked for one of its IDs, all at once.

    200 while one of them answers, since a partial answer is what this service is for; `shards` says which do.
    503 when none does.
    """
    reader: ShardReader = request.app.state.reader
    return await _ready(request, reader, reader.router.shards, "no shard answers")


@router.get("/readyz/{shard:path}", summary="One of its shards answers", response_class=Response)
async def readyz_shard(
    request: Request,
    shard: Annotated[str, Path(description="The shard's key as text, as in `shards` of an answer.", examples=["2"])],
) -> Response:
    """The shard is asked for one of its IDs: 200 when it answers, 503 when it does not."""
    reader: ShardReader = request.app.state.reader
    meant = [key for key in reader.router.shards if str(key) == shard]
    if not meant:
        known = ", ".join(str(key) for key in reader.router.shards)
        return problem(request, problems.NO_SUCH_SHARD, f"no shard {shortened(shard)!r}; there are {known}")
    return await _ready(request, reader, meant, f"shard {shard} does not answer")


async def _ready(request: Request, reader: ShardReader, shards: Iterable[ShardKey], otherwise: str) -> Response:
    reports = dict(await asyncio.gather(*(_probe(reader, shard) for shard in shards)))
    ready = any(report["status"] == "ok" for report in reports.values())
    if ready:
        return _answer({"ready": ready, "shards": reports})
    return problem(request, problems.NOT_READY, otherwise, headers=RETRY, ready=ready, shards=reports)


async def _probe(reader: ShardReader, shard: ShardKey) -> tuple[str, dict[str, Any]]:
    """The shard's key as text, and its report in a read of the first ID that it owns."""
    first = next(low for low, _, owner in reader.router.spans if owner == shard)
    result = await reader.read(first, first)
    return str(shard), result.to_dict()["shards"][str(shard)]


def _answer(body: dict[str, Any]) -> Response:
    return Response(to_json(body), headers=NEVER_STORED, media_type="application/json")
