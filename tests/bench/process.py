"""The parent's end of a worker: starts the process, requests measurements, and always ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.bench.task import Task

__all__ = ["PATIENCE", "Absent", "Failed", "Worker", "worker"]

PATIENCE = 900.0
"""Seconds for one measurement or for the warm-up; a contestant that takes longer has failed."""
ROOT = Path(__file__).parents[2]
LINE = 1 << 24
"""The most bytes in an answer."""


class Absent(Exception):
    """Raised if a contestant is not installed; the message names what is missing."""


class Failed(Exception):
    """Raised if a contestant failed or was wrong; the message says how."""


class Worker:
    """A contestant that is ready to be measured."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, line: str) -> dict[str, Any]:
        """Sends a line and returns the answer; raises `Absent` or `Failed`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                self._process.stdin.write(line.encode() + b"\n")
                await self._process.stdin.drain()
                answer = await self._process.stdout.readline()
        except TimeoutError:
            raise Failed(f"no answer in {PATIENCE:.0f} s") from None
        except ConnectionError:
            answer = b""
        if not answer:
            raise Failed("its process died")
        return _heard(json.loads(answer))

    async def measure(self, count: int = 1) -> dict[str, Any]:
        """One measurement, or `count` short reads: seconds, peak, figures, proof."""
        return await self.tell(str(count))


def _heard(answer: dict[str, Any]) -> dict[str, Any]:
    if "absent" in answer:
        raise Absent(f"{answer['absent']} is not installed")
    if "failed" in answer:
        raise Failed(answer["failed"])
    return answer


@asynccontextmanager
async def worker(task: Task) -> AsyncIterator[Worker]:
    """A fresh process with the contestant of `task`, ready to be measured; killed after the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.worker",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE,
        start_new_session=True,  # Ctrl-C reaches only us, and we end it
    )
    try:
        ready = Worker(process)
        await ready.tell(task.to_json())
        yield ready
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # it has nothing to save, and its sockets end with it
        await process.wait()
