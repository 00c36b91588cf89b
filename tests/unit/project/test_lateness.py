"""The tests' clock: a late read fails its test, unless it had no processor."""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import pytest

from labkit.matrix.evidence import waited
from tests.support.lateness import CROWDED, MARGIN, kept, mark, shared_processor
from tests.support.mocks import in_time

pytestmark = pytest.mark.slow

LATE = CROWDED + 1.0
"""Seconds too many to excuse: half a second of crowding plus a garbage collection stay below."""


async def test_a_late_read_fails_its_test():
    """A read that only waits is not excused: its thread was not ready to run."""
    with pytest.raises(AssertionError, match=r"^took \d+\.\d+ s, of which \d+\.\d+ s without a processor"):
        await in_time(asyncio.sleep(LATE), within=0.0)


async def test_a_read_that_keeps_the_loop_busy_fails_its_test():
    """The read's own computing is not excused either."""

    async def busy():
        ends = time.thread_time() + LATE
        while time.thread_time() < ends:
            pass

    with pytest.raises(AssertionError, match=r"^took"):
        await in_time(busy(), within=0.0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long a thread waited for a processor")
def test_time_without_a_processor_is_known():
    """Two processes that share one processor wait for each other."""
    with shared_processor():
        before, ends = waited(), time.monotonic() + 10
        while waited() < before + MARGIN and time.monotonic() < ends:
            pass
    assert waited() >= before + MARGIN


def test_a_collection_of_what_other_tests_left_does_not_count():
    """A full collection visits every object; it is excused for as long as it took."""
    before, began = mark(), time.perf_counter()
    gc.collect()
    assert 0 < kept(before) < time.perf_counter() - began + CROWDED
