"""Jupyter's Interrupt and Restart, on a real kernel that owns a lab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from labkit.notebook.kernels import SocketKernelManager
from tests.support.containers import of_labs
from tests.support.watching import becomes_true, folders, keepers, running, tree

pytestmark = [
    pytest.mark.timeout(120),
    # raised by jupyter_client itself when it discards its event loop
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Notebook:
    """Runs cells in a kernel, as a notebook does."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str) -> str:
        """Returns what a cell prints; an error in the cell fails the test."""
        printed: list[str] = []
        reply = self.client.execute_interactive(code, timeout=60, output_hook=lambda m: printed.append(_text(m)))
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed)

    def start_lab(self, backend: str, launcher: str) -> list[psutil.Process]:
        """Starts a lab in the kernel; returns its keeper and the server processes below it (none for containers)."""
        self.run(f"from labkit import Lab, faults\nlab = await Lab({backend!r}, launcher={launcher!r}).start()")
        kernel = psutil.Process(json.loads(self.run("import os; print(os.getpid())")))
        [keeper] = keepers(kernel.children())
        return tree(keeper.pid)


def _text(message: dict[str, Any]) -> str:
    return str(message["content"].get("text", "")) if message["msg_type"] == "stream" else ""


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    """A kernel started the way Jupyter does, but on unix sockets."""
    manager = SocketKernelManager()
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# What a kernel does to containers does not depend on the server in them.
LABS = pytest.mark.parametrize(
    ("backend", "launcher"),
    [("postgres", "embedded"), ("redis", "embedded"), pytest.param("redis", "docker", marks=pytest.mark.docker)],
)
# ipykernel's SIGINT handler does not wake an idle event loop, which notices the signal only at its next event.
BEATING = """
import asyncio

async def beat():
    while True:
        await asyncio.sleep(0.1)

beating = asyncio.create_task(beat())
"""


@LABS
def test_after_interrupt_the_lab_still_works(notebook: Notebook, backend: str, launcher: str) -> None:
    """Interrupt during a read of a frozen shard ends the cell but no server, and later reads are right."""
    below = notebook.start_lab(backend, launcher)
    pids = json.loads(notebook.run("print(list(lab.pids.values()))"))
    notebook.run("await lab.inject(2, faults.Pause())")
    notebook.run("lab.reader._timeout = 30.0" + BEATING)
    cell = notebook.client.execute("print('reading', flush=True)\nawait lab.read()", stop_on_error=False)
    _await_print(notebook, cell, "reading")
    notebook.manager.interrupt_kernel()
    reply = notebook.client.get_shell_msg(timeout=30)
    assert reply["content"]["status"] == "error"
    assert reply["content"]["ename"] in ("KeyboardInterrupt", "CancelledError")
    # Postgres starts and ends children on its own, so compare only the servers.
    assert json.loads(notebook.run("print(list(lab.pids.values()))")) == pids
    assert not set(pids) - {process.pid for process in running(below)}
    notebook.run("lab.reader._timeout = 2.0\nresult = await lab.read()\nassert result.missing == ((11, 20), (41, 50))")
    notebook.run("await lab.heal()\nassert (await lab.read()).complete\nawait lab.stop()")
    notebook.run("assert lab.leftovers() == []")
    assert becomes_true(lambda: not running(below)), running(below)


@LABS
def test_after_restart_nothing_of_the_lab_runs(notebook: Notebook, backend: str, launcher: str) -> None:
    """Restart ends the servers of the old kernel, even frozen ones, and the new kernel can start another lab."""
    before, held = folders(), of_labs() if launcher == "docker" else set()
    below = notebook.start_lab(backend, launcher)
    assert launcher == "embedded" or len(of_labs() - held) == 7  # three containers, three volumes, a network
    notebook.run("await lab.inject(2, faults.Pause())")
    notebook.manager.restart_kernel(now=False)
    notebook.client.wait_for_ready(timeout=60)
    assert becomes_true(lambda: not running(below)), running(below)
    assert becomes_true(lambda: folders() <= before), folders() - before
    assert launcher == "embedded" or of_labs() <= held
    notebook.start_lab(backend, launcher)
    notebook.run("assert (await lab.read()).complete\nawait lab.stop()")


def _await_print(notebook: Notebook, cell: str, text: str) -> None:
    while True:
        message = notebook.client.get_iopub_msg(timeout=30)
        if message["parent_header"].get("msg_id") == cell and text in _text(message):
            return
