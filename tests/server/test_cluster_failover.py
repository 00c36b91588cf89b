"""A Redis Cluster whose slots change owners: reads follow, and are either current or report what is missing."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import accumulate
from time import monotonic
from typing import Any

import pandas as pd
import pytest
import pytest_asyncio

from labkit import Lab, ReadResult, ShardReader, faults
from labkit.faults.base import Undo
from labkit.faults.network.detector import Detector
from labkit.lab.access import ADMIN
from labkit.shards.redis import member
from labkit.shards.redis.cluster.slots import key_slot, listed
from tests.server.test_watching import watching
from tests.support.containers import LAUNCHERS
from tests.support.watching import PATIENCE, comes_true, frozen_from_outside

pytestmark = pytest.mark.asyncio(loop_scope="module")

GAPS = ((11, 20), (41, 50))
IDLE = 8
"""Readers that read once before a master is frozen, and again at the moment it resumes."""

EMBEDDED = pytest.mark.parametrize("shared_lab", LAUNCHERS[:1], indirect=True, scope="module")
"""For tests to which containers make no difference."""


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=LAUNCHERS)
async def shared_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """Three masters, each with a replica."""
    async with Lab("redis-cluster", replicas=1, launcher=request.param) as lab:
        yield lab


def new_reader(lab: Lab) -> ShardReader:
    """A reader that knows nothing of this cluster yet."""
    return ShardReader(lab.router, lab.sources(), timeout=lab.timeout)


class Ledger:
    """Records what was true when, and what each read returned; `judge` compares them at the end.

    Only rows of `shard` are written. A write takes effect at some time between its start and its end.
    """

    def __init__(self, lab: Lab, shard: int) -> None:
        self.lab, self.shard = lab, shard
        self.truths = [(0.0, 0.0, lab.rows)]
        self.reads: list[tuple[float, float, ReadResult]] = []
        self.row = lab.router.prune()[shard][0][0]

    async def write(self) -> None:
        """Gives a row of the shard a name that it never had."""
        begun = monotonic()
        await self.lab.put(self.row, f"version {len(self.truths)}, written at {begun}")
        self.truths.append((begun, monotonic(), self.lab.rows))

    async def read(self, reader: ShardReader) -> ReadResult:
        begun = monotonic()
        result = await reader.read()
        self.reads.append((begun, monotonic(), result))
        return result

    def judge(self) -> list[ReadResult]:
        """Asserts that every read was current or had exactly the shard missing; returns the incomplete ones.

        "Current" is strict: no read is older than anything written or read before it began.
        """
        seen = []
        for begun, ended, result in self.reads:
            if result.complete:
                seen.append((ended, begun, self._version(result.frame)))
        seen.sort()
        ends = [ended for ended, _, _ in seen]
        newest = [-1, *accumulate((version for _, _, version in seen), max)]
        for ended, begun, version in seen:
            written = max(number for number, (_, by, _) in enumerate(self.truths) if by <= begun)
            known = max(number for number, (since, _, _) in enumerate(self.truths) if since <= ended)
            assert written <= version <= known
            assert newest[bisect_right(ends, begun)] <= version
        partial = [result for _, _, result in self.reads if not result.complete]
        others = self.lab.rows[[self.lab.router.locate(i) != self.shard for i in self.lab.rows["id"]]]
        for result in partial:
            assert result.missing == self.lab.router.prune()[self.shard], result
            assert result.frame.equals(others.reset_index(drop=True))
        return partial

    def _version(self, frame: pd.DataFrame) -> int:
        versions = [number for number, (_, _, rows) in enumerate(self.truths) if rows.equals(frame)]
        assert len(versions) == 1, frame
        return versions[0]


@asynccontextmanager
async def reading(ledger: Ledger) -> AsyncIterator[None]:
    """Reads continuously: two tasks with the lab's reader, one with a new reader each time."""
    over = asyncio.Event()

    async def with_the_same() -> None:
        while not over.is_set():
            await ledger.read(ledger.lab.reader)
            await asyncio.sleep(0.02)  # leave the servers some processor time

    async def with_a_new_one() -> None:
        while not over.is_set():
            async with new_reader(ledger.lab) as reader:
                await ledger.read(reader)
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        for read in (with_the_same, with_the_same, with_a_new_one):
            group.create_task(read())
        try:
            yield
        finally:
            over.set()


@asynccontextmanager
async def idle_readers(lab: Lab, shard: int) -> AsyncIterator[list[ShardReader]]:
    """Readers that know the shard's owner as of their last read."""
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(new_reader(lab)) for _ in range(IDLE)]
        for reader in readers:
            assert await reader.get(lab.router.prune()[shard][0][0])
        yield readers


async def admin_of(lab: Lab, name: str) -> Any:
    """An administrator's connection to a node, past the proxy."""
    return await lab.cluster._nodes[name].admin()


@asynccontextmanager
async def far_away(lab: Lab, shard: int, milliseconds: int) -> AsyncIterator[None]:
    """Adds latency to all nodes but the shard's first master, where requests are counted instead."""
    undo = Undo()
    try:
        for name, node in lab.cluster._nodes.items():
            near = name == str(shard)
            undo.push(await node.toxic(Detector(False, stream="upstream") if near else faults.Latency(milliseconds)))
        await lab._servers.arm()
        await lab._servers.firings()
        yield
    finally:
        await undo.run()


async def migrate(lab: Lab, shard: int, source: str, target: str) -> AsyncIterator[str]:
    """Moves the slot of a shard's rows, yielding after every step."""
    key = lab.tables[shard]
    slot = key_slot(key)
    admins = {name: await admin_of(lab, name) for name in (source, target)}
    ids = {name: (await admin.execute_command("CLUSTER", "MYID")).decode() for name, admin in admins.items()}
    view = listed((await admins[source].execute_command("CLUSTER", "NODES")).decode())
    address = next(line.address for line in view if line.id == ids[target])
    host, _, port = address.partition("@")[0].rpartition(":")
    await admins[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    await admins[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    yield "the slot is to move"
    administrator = ("AUTH2", ADMIN, lab.cluster._access.admin)
    await admins[source].execute_command("MIGRATE", host, port, key, 0, 5000, *administrator)
    yield "the key has moved"
    await admins[target].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    yield "the new owner knows"
    await admins[source].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    yield "both know"


async def wait_for_requests(lab: Lab, times: int) -> None:
    """Returns once `times` connections have brought a request to the master without latency."""
    near = 0
    async with asyncio.timeout(PATIENCE):
        while near < times:
            near += len(await lab._servers.firings())


async def test_reads_follow_a_failover(shared_lab: Lab) -> None:
    """Continuous readers, new readers and watches are right as soon as the replica has taken over from a killed master,
    and again when the first master is back.
    """
    lab, ledger = shared_lab, Ledger(shared_lab, 2)
    async with watching(lab) as latest, reading(ledger), new_reader(lab) as idle:
        await ledger.read(idle)
        async with lab.fault(2, faults.Kill()):
            assert await comes_true(lambda: latest.result is not None and latest.result.missing == GAPS)
            assert await lab.cluster.until_moved(2) == "2 replica"
            async with new_reader(lab) as new:
                for reader in (lab.reader, idle, new):
                    assert (await ledger.read(reader)).complete
            assert await comes_true(lambda: latest.is_truth(lab))
            await ledger.write()
            assert await comes_true(lambda: latest.is_truth(lab))
        assert (await ledger.read(lab.reader)).complete
        await ledger.write()
        assert await comes_true(lambda: latest.is_truth(lab))
    assert ledger.judge()


async def test_a_master_that_was_frozen_never_answers_from_old_rows(shared_lab: Lab) -> None:
    """A master that resumes after its replica took over and was written to never answers with its old rows. For a
    moment it still believes that it is the master, and it answers before all other nodes. That holds for continuous
    and new readers, for reads sent while it was frozen, and for reads sent at the moment it resumes.
    """
    lab, ledger = shared_lab, Ledger(shared_lab, 3)
    async with idle_readers(lab, 3) as idle, AsyncExitStack() as network:
        before, after = idle[::2], idle[1::2]
        with frozen_from_outside(lab, 3):
            async with reading(ledger):
                assert await lab.cluster.until_moved(3) == "3 replica"
                await ledger.write()
            await network.enter_async_context(far_away(lab, 3, milliseconds=300))
            early = [asyncio.create_task(ledger.read(reader)) for reader in before]
            await wait_for_requests(lab, times=len(before))
        async with reading(ledger):
            await asyncio.gather(*early, *(ledger.read(reader) for reader in after))
            await network.aclose()
            await ledger.write()
            await lab.cluster.put_right(3)
            assert (await ledger.read(lab.reader)).complete
    ledger.judge()


@EMBEDDED
async def test_reads_follow_a_failover_that_was_asked_for(shared_lab: Lab) -> None:
    """After CLUSTER FAILOVER, as for maintenance, every read is complete once the nodes agree; before that, at most
    this shard is missing.
    """
    lab, ledger = shared_lab, Ledger(shared_lab, 2)
    async with reading(ledger), idle_readers(lab, 2) as idle:
        await (await admin_of(lab, "2 replica")).execute_command("CLUSTER", "FAILOVER")
        assert await lab.cluster.until_moved(2) == "2 replica"
        for reader in (lab.reader, *idle):
            assert (await ledger.read(reader)).complete
        await ledger.write()
        await lab.cluster.put_right(2)
        await ledger.write()
        assert (await ledger.read(lab.reader)).complete
    ledger.judge()


async def test_an_acknowledged_write_can_be_gone_and_the_read_is_complete(shared_lab: Lab) -> None:
    """What "complete" does not promise: an acknowledged write that never reached the replica is lost in a failover."""
    lab, key = shared_lab, shared_lab.tables[1]
    async with await lab.admin(1) as master:
        await master.execute_command("ACL", "SETUSER", "labkit_replica", "-psync")
        await master.execute_command("CLIENT", "KILL", "TYPE", "replica")
        async with master.pipeline(transaction=True) as step:
            step.zremrangebyscore(key, 5, 5)
            step.zadd(key, {member(5, "acknowledged"): 5})
            assert await step.execute() == [1, 1]
        assert await master.wait(1, 100) == 0
    assert await lab.reader.get(5) == {"id": 5, "name": "acknowledged"}
    async with lab.fault(1, faults.Failover()):
        overtaken = await lab.read()
    assert overtaken.complete
    assert overtaken.frame.equals(lab.rows)  # in which the row is unchanged
    assert (await lab.read()).frame.equals(lab.rows)


@EMBEDDED
async def test_one_failover_after_the_other(shared_lab: Lab) -> None:
    """Two failovers of one master in a row both succeed, the second as soon as the first is undone."""
    for _ in range(2):
        async with shared_lab.fault(2, faults.Failover()):
            assert (await shared_lab.read()).complete
            assert await shared_lab.cluster.until_moved(2) == "2 replica"
        assert (await shared_lab.read()).complete


@EMBEDDED
async def test_reads_follow_a_slot_that_moves(shared_lab: Lab) -> None:
    """Reads follow MOVED and ASK: they are complete after every step of a slot migration, there and back."""
    lab, ledger = shared_lab, Ledger(shared_lab, 2)
    async with reading(ledger):
        for way in (("2", "3"), ("3", "2")):
            async for step in migrate(lab, 2, *way):
                async with new_reader(lab) as new:
                    for reader in (lab.reader, new):
                        assert (await ledger.read(reader)).complete, step
            await ledger.write()
    assert ledger.judge() == []
