"""The event loop on which a lab does its own work: from any loop or thread, when cancelled, forked or ended."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import pytest

from labkit.lab.control import Control, at_the_caller


async def where() -> tuple[asyncio.AbstractEventLoop, str]:
    """The loop and the thread on which this runs."""
    return asyncio.get_running_loop(), threading.current_thread().name


def test_work_runs_on_one_loop_whoever_asks() -> None:
    """While the control lasts, all work runs on one loop; the thread ends with the last work after that."""
    control = Control()
    control.lasting = True
    first, second = (asyncio.run(control.run(where)) for _ in range(2))
    assert first == second
    assert first[1] == "labkit-lab"
    control.lasting = False
    assert asyncio.run(control.run(where)) == first
    assert first[0].is_closed()
    assert "labkit-lab" not in {thread.name for thread in threading.enumerate()}


async def test_work_within_work_stays_where_it_is() -> None:
    """Work started from work runs on the same loop and does not deadlock."""
    control = Control()
    assert (await control.run(lambda: control.run(where)))[1] == "labkit-lab"


async def test_an_error_is_the_callers() -> None:
    """Any error is raised in the caller, even one that would end the loop."""
    control = Control()
    for error in (KeyError("x"), SystemExit(3)):

        async def fail(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            await control.run(fail)
    assert (await control.run(where))[1] == "labkit-lab"


async def test_who_is_cancelled_leaves_once_the_work_has_ended() -> None:
    """A cancelled caller returns only after the work has cleaned up."""
    control, begun, undone = Control(), threading.Event(), []

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            undone.append(True)

    task = asyncio.create_task(control.run(work))
    assert await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == [True]


async def test_work_may_turn_to_its_callers_loop() -> None:
    """Work can run a step on its caller's loop, where the reader's connections are."""
    control, here = Control(), asyncio.get_running_loop()
    loop, _ = await control.run(lambda: at_the_caller(where))
    assert loop is here


async def test_a_fork_in_the_middle_changes_nothing_for_the_parent() -> None:
    """After a fork the work goes on in the parent only; the child can start its own."""
    control, begun, go_on = Control(), threading.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    async def release() -> None:
        go_on.set()

    task = asyncio.create_task(control.run(work))
    assert await asyncio.to_thread(begun.wait, 5)
    child = os.fork()
    if child == 0:
        name = asyncio.run(control.run(where))[1]
        os._exit(0 if name == "labkit-lab" else 1)
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
    await control.run(release)
    assert await task == "done"


def test_a_control_that_is_forgotten_leaves_no_thread() -> None:
    """The thread ends when the control is garbage-collected, as with a lab that was never stopped."""
    control = Control()
    control.lasting = True
    asyncio.run(control.run(where))
    thread = control._thread
    assert thread is not None
    del control
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
