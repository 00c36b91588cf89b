"""What a lab's proxies saw of the connections to its shards, on real servers."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from labkit import Lab, faults
from labkit.lab.proxy.proxy import MOST_TRACES, Proxy
from labkit.lab.proxy.trace import Trace

BACKENDS = pytest.mark.parametrize("backend", ["postgres", "redis"])


@BACKENDS
async def test_the_proxies_saw_who_asked_and_who_answered(backend: str) -> None:
    """A frozen shard was asked and said nothing; bytes are counted since the last call; times are in their order."""
    async with Lab(backend, timeout=0.5) as lab:
        await lab.read()
        before = await lab.connections()
        assert {one.shard for one in before} == {1, 2, 3}
        assert all(one.closed is None for one in before if one.shard == 2)
        started = monotonic()
        async with lab.fault(2, faults.Pause()):
            await lab.read()
            seen = {one.shard: one for one in await lab.connections()}
            ended = monotonic()
        for shard, one in seen.items():
            assert one.opened < started
            assert one.asked.count > 0
            assert one.asked.first is not None
            assert one.asked.last is not None
            assert started < one.asked.first <= one.asked.last < ended
            assert (one.answered.count > 0) == (shard != 2)
        assert (seen[2].answered.first, seen[2].answered.last) == (None, None)


@BACKENDS
async def test_whoever_ended_a_connection_is_known(backend: str) -> None:
    """A reader that closes, a server that dies, a fault that cuts after 50 bytes."""
    async with Lab(backend, timeout=0.5) as lab:
        await lab.read()
        await lab.connections()
        async with lab.fault({2: faults.Kill(), 3: faults.LimitData(50)}):
            await lab.read()
            seen = {one.shard: one for one in await lab.connections()}
        assert {shard: one.closed_by for shard, one in seen.items()} == {1: "", 2: "server", 3: "proxy"}
        assert seen[3].answered.count == 50
        _, writer = await asyncio.open_connection("127.0.0.1", int(lab.urls[1].rpartition(":")[2].partition("/")[0]))
        port = writer.get_extra_info("sockname")[1]
        writer.close()
        await writer.wait_closed()
        closed = None
        async with asyncio.timeout(5):
            while closed is None:
                closed = next((one for one in await lab.connections() if one.port == port and one.closed), None)
        assert (closed.shard, closed.closed_by) == (1, "client")


async def test_only_so_many_are_remembered() -> None:
    """Of closed connections that nobody asked for, the last 1,000 are kept; each is told once."""
    proxy = Proxy(("127.0.0.1", 1))
    for number in range(MOST_TRACES + 10):
        proxy._traces.append(Trace(number, float(number), float(number)))
    assert [trace.client for trace in proxy.traces()] == list(range(10, MOST_TRACES + 10))
    assert proxy.traces() == []
    await proxy.aclose()
