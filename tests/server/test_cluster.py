"""`Lab("redis-cluster")`: real nodes joined to a cluster, each shard on its own master."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from labkit import CLASSIC, Lab, RangeRouter, ShardReader, Status, errors, faults
from labkit.shards.redis.cluster.slots import key_slot
from tests.support.containers import LAUNCHERS
from tests.support.lateness import MARGIN, starved
from tests.support.watching import comes_true, footprint, frozen_from_outside, no_more_than

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIXTY = 3
"""How many margins sixty reads may take that end at the same moment on one event loop."""
GAPS = {2: ((11, 20), (41, 50)), 3: ((21, 30), (51, 60))}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=LAUNCHERS)
async def shared_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """Three masters."""
    async with Lab("redis-cluster", launcher=request.param) as lab:
        yield lab


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[Any]:
    """A plain client of one node."""
    from redis.asyncio import Redis

    async with Redis.from_url(url, decode_responses=True, protocol=2) as client:
        yield client


async def test_each_shard_is_on_a_master_of_its_own(lab: Lab) -> None:
    """Each shard's key is in a slot of that shard's master, and on no other node."""
    for shard, url in lab.urls.items():
        async with connection(url) as node:
            for other, key in lab.tables.items():
                assert await node.execute_command("CLUSTER", "KEYSLOT", key) == key_slot(key)
                if other == shard:
                    assert await node.zcard(key) == 20
            assert await node.dbsize() == 1
    view = await lab.cluster.view()
    assert view["node"].tolist() == ["1", "2", "3"]
    assert view["slots"].tolist() == ["0-5460", "5461-10921", "10922-16383"]


async def test_any_cluster_client_finds_all_nodes_at_their_proxies(lab: Lab) -> None:
    """Nodes announce their proxies' addresses, and redis-py's RedisCluster reads and writes through them."""
    from redis.asyncio import RedisCluster

    async with RedisCluster.from_url(lab.urls[3], protocol=2) as client:
        for shard, key in lab.tables.items():
            await client.set(f"{key}:note", f"for {shard}")
            assert await client.get(f"{key}:note") == f"for {shard}".encode()
            node = client.get_node_from_key(key)
            assert node is not None
            assert lab.urls[shard].endswith(f"@{node.host}:{node.port}/0")
            await client.delete(f"{key}:note")


async def test_one_frozen_master_delays_nobody(lab: Lab) -> None:
    """Each of 60 concurrent reads returns in time with the rows of the other masters, which answer at once."""
    assert all(result.complete for result in await asyncio.gather(*(lab.read() for _ in range(60))))
    before = footprint()
    with frozen_from_outside(lab, 2):
        results = await asyncio.gather(*(lab.read() for _ in range(60)))
        assert await comes_true(no_more_than(before)), (before, footprint())
    assert max(result.elapsed for result in results) <= 2.0 + SIXTY * MARGIN + starved()
    for result in results:
        assert result.missing == GAPS[2]
        assert result.frame["id"].tolist() == [i for i in range(1, 61) if CLASSIC.locate(i) != 2]
        assert result.reports[2].status is Status.TIMEOUT
        assert max(result.reports[shard].elapsed for shard in (1, 3)) < lab.timeout / 4


async def test_a_majority_that_is_gone_does_not_hide_the_one_that_lives(lab: Lab) -> None:
    """With two of three masters killed, or two frozen, the third one's rows are still read."""
    async with lab.fault({2: faults.Kill(), 3: faults.Kill()}):
        assert (await lab.read()).missing == ((11, 30), (41, 60))
    await lab.cluster.until_well()  # at their own addresses, though the last one to die started first
    assert (await lab.cluster.view("2"))["state"].tolist() == ["ok", "ok", "ok"]
    async with lab.fault({2: faults.Pause(), 3: faults.Pause()}):
        result = await lab.read()
        assert result.missing == ((11, 30), (41, 60))
        assert result.reports[1].elapsed < lab.timeout / 2


async def test_a_node_at_port_0_is_a_missing_shard_until_it_is_itself_again(lab: Lab) -> None:
    """A shard whose owner's address the cluster has lost is unreachable; no other node is asked for its rows."""
    async with lab.fault(2, faults.LostIdentity()):
        result = await lab.read()
        assert result.missing == GAPS[2]
        assert result.reports[2].status is Status.UNREACHABLE
        assert "(port 0)" in (result.reports[2].error or "")
        async with connection(lab.urls[1]) as node:
            [entry] = [entry for entry in await node.execute_command("CLUSTER", "SLOTS") if entry[0] == 5461]
            assert entry[2][1] == 0
        assert (await lab.cluster.view())["state"].tolist() == ["ok", "noaddr", "ok"]
    assert (await lab.read()).frame.equals(lab.rows)
    assert (await lab.cluster.view())["state"].tolist() == ["ok", "ok", "ok"]


async def test_rows_are_written_through_the_cluster(lab: Lab) -> None:
    """Writes succeed right after a master restarts, though it refuses them for a while, and beside a frozen one."""
    async with lab.fault(2, faults.Kill()):
        with pytest.raises(errors.UsageError, match="takes no writes while Kill acts on it"):
            await lab.put(12, "never")
    await lab.put(12, "renamed")
    await lab.delete(13)
    assert (await lab.read()).frame.equals(lab.rows)
    async with lab.fault(1, faults.Pause()):  # the master of the lowest slots, which clients ask first
        await lab.put(12, "Test 12")
        await lab.put(13, "Test 13")
    assert (await lab.read()).frame.equals(lab.rows)


async def test_what_one_waits_for_is_waited_for_in_time(lab: Lab) -> None:
    """An unknown node or shard, a dead node and a missing replica each give a one-line error; no wait hangs."""
    with pytest.raises(errors.UsageError, match="unknown node '9': this cluster has 1, 2, 3"):
        await lab.cluster.view("9")
    with pytest.raises(errors.UsageError, match="unknown shard 9: this lab has"):
        await lab.cluster.until_moved(9)
    async with lab.fault(2, faults.Kill()):
        await lab.cluster.until_failed(2)
        assert (await lab.cluster.view())["state"].tolist() == ["ok", "fail", "ok"]
        with pytest.raises(errors.LabError, match="node 2 does not answer"):
            await lab.cluster.view("2")
    with pytest.raises(errors.UsageError, match=r"Failover needs a replica.*replicas=1"):
        await lab.inject(2, faults.Failover())


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_five_masters_and_a_router_of_ones_own(launcher: str) -> None:
    """Masters without a shard hold slots but no rows, and shards may have text names."""
    router = RangeRouter({"eu": [(1, 10)], "us": [(11, 20)]})
    async with Lab("redis-cluster", router=router, masters=5, launcher=launcher) as lab:
        assert (await lab.read()).frame.equals(lab.rows)
        assert (await lab.cluster.view())["node"].tolist() == ["eu", "us", "3", "4", "5"]
        assert [int(span.split("-")[0]) for span in (await lab.cluster.view())["slots"]] == [0, 3276, 6553, 9830, 13107]
        async with ShardReader(router, lab.sources()) as reader, lab.fault("us", faults.Kill()):
            assert (await reader.read()).missing == ((11, 20),)
    assert lab.leftovers() == []


async def test_nodes_listen_on_this_machine_only(shared_lab: Lab) -> None:
    """The client and bus ports of server processes listen on 127.0.0.1 only."""
    listening = {
        entry.laddr.ip
        for pid in shared_lab.pids.values()
        for entry in psutil.Process(pid).net_connections()
        if entry.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"masters": 2}, "masters must be an integer, at least 3 and one per shard (3 here), not 2"),
        ({"masters": True}, "not True"),
        ({"replicas": -1}, "replicas must be an integer, 0 or more for each master, not -1"),
        (
            {"router": RangeRouter({"{a}": [(1, 2)]})},
            "shard '{a}' cannot have a hash tag: leave braces out of its name",
        ),
        (
            {"router": RangeRouter({i: [(i, i)] for i in range(1, 6)}), "masters": 4},
            "masters must be an integer, at least 3 and one per shard (5 here), not 4",
        ),
    ],
)
async def test_a_cluster_that_cannot_be_is_refused_before_anything_starts(arguments: Any, words: str) -> None:
    """The error is one line that names the value and the fix."""
    with pytest.raises(errors.UsageError) as error:
        Lab("redis-cluster", **arguments)
    assert words in str(error.value)


async def test_what_only_a_cluster_has_is_refused_elsewhere() -> None:
    """`masters=`, `lab.cluster` and LostIdentity are refused on labs that are not clusters."""
    with pytest.raises(errors.UsageError, match=r"masters=5: only a cluster has that; start Lab\('redis-cluster'\)"):
        Lab("redis", masters=5)
    with pytest.raises(errors.UsageError, match="this lab is not running"):
        _ = Lab("redis-cluster").cluster
    async with Lab("redis", launcher="embedded") as lab:
        with pytest.raises(errors.UsageError, match="a redis lab is not a cluster"):
            _ = lab.cluster
        with pytest.raises(errors.UsageError, match="LostIdentity acts on redis-cluster, and shard 2 is redis"):
            await lab.inject(2, faults.LostIdentity())
