"""`Lab.sync()`: a lab for code without an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from labkit import CLASSIC, Lab, Status, faults
from labkit.errors import UsageError


def test_a_plain_test_reads_breaks_and_writes() -> None:
    """Every method waits; what needs no waiting is there as it is; nothing is left afterwards."""
    threads = threading.active_count()
    plain = Lab("redis", timeout=0.5)
    with plain.sync() as lab:
        assert len(lab.read().frame) == 60
        with lab.fault(2, faults.Pause()):
            broken = lab.read()
        assert broken.reports[2].status is Status.TIMEOUT
        assert broken.missing == ((11, 20), (41, 50))
        lab.inject(3, faults.Kill())
        assert lab.read(21, 30).missing == ((21, 30),)
        lab.heal()
        lab.put(7, "seven")
        assert lab.call(lab.reader.get, 7) == {"id": 7, "name": "seven"}
        assert lab.read().frame["name"].equals(lab.rows["name"])
        assert list(lab.urls) == list(CLASSIC.shards)
        assert [event.shard for event in lab.record() if event.kind == "fired"] == [2, 3]
        running = lab.pids
    assert running
    assert lab.leftovers() == []
    assert threading.active_count() == threads


def test_a_fault_is_undone_however_the_block_ends() -> None:
    """An exception, also KeyboardInterrupt, undoes the fault and stops the lab."""
    with Lab("redis", timeout=0.5).sync() as lab:
        with pytest.raises(KeyboardInterrupt), lab.fault(1, faults.Kill()):
            raise KeyboardInterrupt
        assert lab.read().complete
    with pytest.raises(ZeroDivisionError), Lab("redis", timeout=0.5).sync() as lab:
        raise ZeroDivisionError
    assert lab.leftovers() == []


def test_a_lab_that_is_not_running_says_so() -> None:
    """Before `start` and after `stop` the error is one line with the fix; both may be called twice."""
    lab = Lab("redis").sync()
    for _ in range(2):
        for use in (lab.read, lab.heal, lambda: lab.fault(1, faults.Kill())):
            with pytest.raises(UsageError, match="not running"):
                use()
        assert lab.start().start() is lab
        assert lab.read().complete
        lab.stop()
        lab.stop()
    assert repr(lab).endswith("not running).sync()")


async def test_it_works_where_a_loop_is_running() -> None:
    """As in Jupyter: the lab's loop is another one, in a thread."""
    with Lab("redis").sync() as lab:
        assert lab.read().complete
        await asyncio.sleep(0)
