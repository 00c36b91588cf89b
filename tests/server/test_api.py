"""The access point in front of real shards: they freeze, die and heal, and it stops while answers are in flight."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from labkit import CLASSIC, Lab, faults
from labkit.api import Server
from labkit.api.openapi import models
from labkit.topology import ShardPlace, Topology
from tests.support.events import watching
from tests.support.lateness import starved
from tests.support.watching import PATIENCE, close_pools, cold, comes_true, footprint, frozen_from_outside, no_more_than

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITHIN = 2.1
"""Seconds an answer may take while a shard is frozen and the timeout is 2 s, as the issue requires."""
GAPS = [[11, 20], [41, 50]]
OTHERS = [i for i in range(1, 61) if CLASSIC.locate(i) != 2]


@asynccontextmanager
async def served(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an access point that reads the lab's shards with its own reader."""
    async with cold(lab) as reader, httpx.AsyncClient(timeout=PATIENCE) as client, Server(reader) as server:
        client.base_url = server.url
        yield client


async def timed(
    client: httpx.AsyncClient, path: str, sent: asyncio.Event | None = None
) -> tuple[httpx.Response, float]:
    """The response and the seconds it took; `sent` is set once the request has been sent."""

    async def trace(event: str, _info: Any) -> None:
        if sent is not None and event == "http11.send_request_body.complete":
            sent.set()

    started = time.monotonic()
    answer = await client.get(path, extensions={"trace": trace})
    return answer, time.monotonic() - started


async def test_a_frozen_shard_over_http(lab: Lab) -> None:
    """It gives 200 within 2.1 s, 40 rows and exact gaps; `require=complete` and a row of that shard give 503."""
    before = footprint()
    async with served(lab) as client:
        assert (await client.get("/data")).json()["complete"] is True
        with frozen_from_outside(lab, 2):
            (partial, seconds), (strict, _), (row, _), (other, _) = await asyncio.gather(
                *(timed(client, path) for path in ("/data", "/data?require=complete", "/data/12", "/data/1"))
            )
        assert (await client.get("/data")).json()["complete"] is True
    assert partial.status_code == 200
    assert seconds < WITHIN + starved()
    models.ReadResult.model_validate(body := partial.json())
    assert [row["id"] for row in body["rows"]] == OTHERS
    assert (body["complete"], body["missing"], body["shards"]["2"]["status"]) == (False, GAPS, "timeout")
    assert (strict.status_code, strict.json()["missing"]) == (503, GAPS)
    assert (row.status_code, other.status_code) == (503, 200)
    assert await comes_true(no_more_than(before)), (before, footprint())


async def test_all_shards_down_over_http(lab: Lab) -> None:
    """The answer is 200, empty and incomplete; /readyz gives 503, and a shard that is back is ready again."""
    async with served(lab) as client:
        async with lab.fault({shard: faults.Kill() for shard in (1, 2, 3)}):
            answer = await client.get("/data")
            assert (answer.status_code, answer.json()["rows"], answer.json()["complete"]) == (200, [], False)
            assert answer.json()["missing"] == [[1, 60]]
            assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/readyz/2")).status_code == 200


async def test_a_watch_over_http_while_a_shard_dies_and_comes_back(lab: Lab) -> None:
    """The stream shows the gap, the recovery and a write, and ends when its client leaves."""
    await close_pools(lab)
    before = footprint()
    async with served(lab) as client, watching(client, "?high=40") as events:
        await events.until(lambda data: data["complete"])
        async with lab.fault(2, faults.Kill()):
            assert (await events.until(lambda data: not data["complete"]))["missing"] == [[11, 20]]
        assert len((await events.until(lambda data: data["complete"]))["rows"]) == 40
        await lab.put(12, "new")
        await events.until(lambda data: {"id": 12, "name": "new"} in data["rows"])
        await lab.put(12, "Test 12")
    await close_pools(lab)
    assert await comes_true(no_more_than(before)), (before, footprint())


def topology_of(lab: Lab) -> str:
    """The topology file that describes the lab."""
    places = {shard: ShardPlace(url, lab.tables[shard]) for shard, url in lab.urls.items()}
    return Topology(lab.timeout, lab.router, places).to_toml()


@asynccontextmanager
async def command(topology: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`labkit serve` in a separate process, and its URL, taken from the first line that it prints."""
    serving = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labkit", "serve", "--topology", str(topology), "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert serving.stdout is not None
        async with asyncio.timeout(PATIENCE):
            words = (await serving.stdout.readline()).decode().split()
        yield serving, next(word for word in words if word.startswith("http://127.0.0.1:"))
    finally:
        if serving.returncode is None:
            serving.kill()
        await serving.communicate()


async def test_sigterm_with_answers_under_way(tmp_path: Path) -> None:
    """`labkit serve` finishes the read of a frozen shard by its deadline, ends the watch, and silently exits 0."""
    async with Lab("redis", launcher="embedded", timeout=2.0) as lab, httpx.AsyncClient(timeout=PATIENCE) as client:
        file = tmp_path / "lab.toml"
        file.write_text(topology_of(lab))
        async with command(file) as (serving, url):
            client.base_url = url
            assert (await client.get("/data")).json()["complete"] is True
            async with watching(client) as events:
                await events.next()
                with frozen_from_outside(lab, 2):
                    sent = asyncio.Event()
                    reading = asyncio.create_task(timed(client, "/data", sent))
                    await sent.wait()
                    await client.get("/healthz")  # sent later, yet answered
                    serving.send_signal(signal.SIGTERM)
                    while await events.next() is not None:
                        pass
                    answer, seconds = await reading
                async with asyncio.timeout(PATIENCE):
                    left = await serving.communicate()
        assert (answer.status_code, answer.json()["missing"]) == (200, GAPS)
        assert seconds < WITHIN + starved()
        assert (serving.returncode, left) == (0, (b"", b""))
        with pytest.raises(httpx.ConnectError):
            await client.get("/healthz")
