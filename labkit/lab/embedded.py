"""The embedded launcher: real server processes on this machine, with neither Docker nor root."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.errors import LabError
from labkit.lab.backends import Backend
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.progress import READY, Progress
from labkit.router import ShardKey

__all__ = ["EmbeddedLauncher", "EmbeddedShard"]

PATIENCE = 30.0
"""Seconds a server may take to answer after it was started; a slow disk is no fault."""
POLL = 0.01


class EmbeddedShard:
    """One server and the proxy in front of it; a `faults.Target`."""

    def __init__(self, keeper: KeeperClient, backend: Backend, name: str, folder: str) -> None:
        self._keeper = keeper
        self._backend = backend
        self._name = name
        self.folder = folder
        self.pids: list[int] = []
        """Its server processes, the running one last."""
        self.port = 0

    async def start(self) -> None:
        """Starts the server and returns when it answers; `LabError` with its last words when it does not."""
        pid = await self._keeper.ask(
            "spawn",
            name=self._name,
            argv=self._backend.command(self.folder),
            cwd=self.folder,
            drop=self._backend.drop,
            farewell=int(self._backend.farewell),
        )
        self.pids.append(pid)
        loop = asyncio.get_running_loop()
        patience_ends = loop.time() + PATIENCE
        while True:
            try:
                async with asyncio.timeout_at(patience_ends):
                    return await self._backend.ping(self.folder)
            except (OSError, TimeoutError) as error:
                status = await self._keeper.ask("status", name=self._name)
                if status["exited"] is not None:
                    raise LabError(f"a server did not start (exit {status['exited']}): {status['log']}") from None
                if loop.time() >= patience_ends:
                    raise LabError(f"a server gives no answer after {PATIENCE:.0f} s: {error}") from None
            await asyncio.sleep(POLL)

    async def expose(self) -> int:
        """Puts the proxy in front; returns its port."""
        upstream = self._backend.upstream(self.folder)
        self.port = await self._keeper.ask("proxy", name=self._name, upstream=upstream)
        return self.port

    async def kill(self) -> None:
        await self._keeper.ask("kill", name=self._name)

    async def restart(self) -> None:
        if (await self._keeper.ask("status", name=self._name))["exited"] is not None:
            await self.start()
        await self._keeper.ask("accept", name=self._name)

    async def pause(self) -> None:
        await self._keeper.ask("pause", name=self._name)

    async def resume(self) -> None:
        await self._keeper.ask("resume", name=self._name)

    async def blackhole(self, on: bool) -> None:
        await self._keeper.ask("blackhole", name=self._name, on=on)


class EmbeddedLauncher:
    """Starts one server a shard, all at once, and ends them."""

    name = "embedded"

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._keeper: KeeperClient | None = None
        self._shards: dict[ShardKey, EmbeddedShard] = {}

    async def start(
        self,
        rows: Mapping[Any, Sequence[tuple[int, str | None]]],
        tables: Mapping[Any, str],
        progress: Progress,
    ) -> dict[ShardKey, EmbeddedShard]:
        """Running shards, loaded with `rows`, behind their proxies."""
        keeper = self._keeper = KeeperClient()
        await keeper.greet()
        folders = await self._backend.prepare(keeper, len(rows))
        shards = self._shards = {
            shard: EmbeddedShard(keeper, self._backend, str(i), folder)
            for i, (shard, folder) in enumerate(zip(rows, folders, strict=True))
        }

        async def bring_up(shard: ShardKey) -> None:
            progress.step(shard, "starting")
            await shards[shard].start()
            progress.step(shard, "loading")
            await self._backend.load(shards[shard].folder, tables[shard], rows[shard])
            await shards[shard].expose()
            progress.step(shard, READY)

        async with asyncio.TaskGroup() as group:
            for shard in shards:
                group.create_task(bring_up(shard))
        return shards

    async def aclose(self) -> None:
        """Ends all servers and proxies; returns when they are gone."""
        if self._keeper is not None:
            await self._keeper.aclose()

    def leftovers(self) -> list[str]:
        """What still runs or lies about of the servers that were started last; [] once they are stopped."""
        import psutil

        pids = [pid for shard in self._shards.values() for pid in shard.pids if psutil.pid_exists(pid)]
        keeper = self._keeper.leftovers() if self._keeper else []
        return keeper + [f"server process {pid}" for pid in pids]
