"""Runs a notebook from top to bottom in a fresh kernel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from labkit.errors import LabkitError
from labkit.notebook.book import Book, Cell
from labkit.notebook.kernels import QUESTION, AsyncSocketKernelManager, answer

__all__ = ["CellFailed", "Run", "running"]

STARTUP = 60.0
"""Seconds a kernel gets to start, and to answer at the end."""


class CellFailed(LabkitError):
    """A cell raised an error and is not tagged so, did not end in time, or ended its kernel."""


def _raised(error: CellExecutionError) -> str:
    """The error in one line, with the line of the cell that raised it."""
    words = [error.ename, *str(error.evalue).splitlines()[:1]]
    lines = re.findall(r"^-+> *\d+ *(.+)$", re.sub(r"\x1b\[[\d;]*m", "", error.traceback), re.MULTILINE)
    place = f" in {lines[0]!r}" if lines else ""
    return f"it raises {': '.join(words)}{place}: correct it, or tag it 'raises-exception' if that is the point"


class Run:
    """A kernel that runs the cells of one notebook."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def run(self, cell: Cell) -> None:
        """Runs a cell and stores its outputs in it, which later cells may still update; raises `CellFailed`.

        Compared outputs are asked for as nbval does, out of the kernel's history: what labkit then shows is the same on
        every run. Others are as a person sees them.
        """
        self._client.allow_errors = cell.may_raise
        index = self._client.nb.cells.index(cell.node)
        try:
            await self._client.async_execute_cell(cell.node, index, cell.number, store_history=not cell.compared)
        except CellExecutionError as error:
            raise CellFailed(_raised(error)) from None
        except CellTimeoutError:
            raise CellFailed(f"it did not end within {self._client.timeout:g} s (--timeout)") from None
        except DeadKernelError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError from None  # nbclient takes that for a dead kernel
            raise CellFailed("its kernel died") from None

    async def ask(self) -> dict[str, list[str]]:
        """What is `left` of labs, and which faults are `unfired`; `LabkitError` if the kernel does not answer."""
        try:
            reply = await self._client.kc.execute(
                "", silent=True, user_expressions=QUESTION, reply=True, timeout=STARTUP
            )
        except TimeoutError:
            raise LabkitError(f"the kernel does not answer within {STARTUP:g} s of its last cell") from None
        return answer(reply)


@asynccontextmanager
async def running(book: Book, seconds: float) -> AsyncIterator[Run]:
    """A fresh kernel in the notebook's folder, which ends with the block; a cell may take that many `seconds`."""
    manager = AsyncSocketKernelManager(kernel_name="python3")
    client = NotebookClient(
        book.node,
        km=manager,
        timeout=seconds,
        startup_timeout=int(STARTUP),
        record_timing=False,
        resources={"metadata": {"path": str(book.path.absolute().parent)}},
    )
    try:
        await client.async_start_new_kernel()
        await client.async_start_new_kernel_client()
        manager.cleanup_connection_file()  # both ends have read it; whoever kills this process leaves no file
        yield Run(client)
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)
        manager.cleanup_connection_file()
