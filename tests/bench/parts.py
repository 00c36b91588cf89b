"""The parts of the benchmark: what each reads, from which servers and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from labkit import Lab, faults
from tests.bench import loading, servers
from tests.bench.lateness import FROZEN
from tests.bench.process import Absent, Failed, worker
from tests.bench.results import FAILED, FLOOR, Part, Results, Score
from tests.bench.rounds import bursts, fresh
from tests.bench.serving import CLIENTS
from tests.bench.small import ROWS
from tests.bench.task import Task, contestants

__all__ = ["PARTS", "Plan", "run"]

PARTS = ("bulk", "wide", "count", "small", "redis", "stream", "router", "late", "serve", "proxy")
LARGE = 5_000_000
"""From this many rows on: `LARGE_ROUNDS` rounds, but one for `SLOW` contestants, which take ten times as long."""
LARGE_ROUNDS = 3
SLOW = ("read_sql", "dask")
COUNTED = "counted"
"""A small table for the warm-up of counts."""
SERVED = "served"
"""The table served over HTTP."""
TURNS = 10
"""At most this many visits of `Plan.requests`, which take a second or two each."""
TINY = "tiny"
"""A small table for the warm-up of contestants that cannot read just one row of the large table."""


@dataclass(frozen=True)
class Plan:
    """The parts to run, with their sizes and rounds."""

    parts: tuple[str, ...]
    rows: tuple[int, ...]
    """Bulk reads use all sizes, Redis the smallest, streams and deadlines the largest."""
    rounds: int
    shards: tuple[int, ...] = (3, 10, 30, 100)
    visits: int = 20
    """Rounds of small reads, each of `burst` reads."""
    burst: int = 20
    requests: int = 2_000
    """HTTP requests in each visit to a server."""
    seed: str = "0"
    only: tuple[str, ...] = ()
    """Contestants to run; () means all."""

    def has(self, *parts: str) -> bool:
        return any(part in self.parts for part in parts)

    def tasks(self, part: str, **fields: Any) -> dict[str, Task]:
        """A task for each contestant of a part."""
        return {name: Task(part, name, **fields) for name in contestants(part) if not self.only or name in self.only}

    def rounds_of(self, rows: int) -> int:
        return min(self.rounds, LARGE_ROUNDS) if rows >= LARGE else self.rounds


@dataclass(frozen=True)
class Run:
    """A plan being executed."""

    plan: Plan
    results: Results
    say: Callable[[str], None]

    async def fresh(self, part: Part, tasks: dict[str, Task], rounds: int, **fewer: int) -> None:
        self.results.parts.append(await fresh(part, tasks, rounds, self.plan.seed, self.say, fewer))

    async def postgres(self) -> dict[str, str]:
        """Runs all parts that read from Postgres; returns the servers' versions."""
        plan, sizes = self.plan, self._sizes()
        servers.enough_room(sum(sizes))
        async with servers.postgres_servers() as places:
            for rows in sizes:
                self.say(f"loading {rows:,} rows into Postgres")
                await loading.load_table(places, table(rows), rows)
            said = await loading.versions(places[0], None, None)
            if plan.has("bulk"):
                said |= await self._bulk(places)
            if plan.has("wide"):
                await self._wide(places)
            if plan.has("count"):
                await self._count(places)
            if plan.has("small"):
                await self._small(places)
            if plan.has("stream"):
                await self._stream(places)
            if plan.has("late"):
                await self._late(places)
            if plan.has("serve"):
                await self._serve(places)
        return said

    async def redis(self) -> dict[str, str]:
        rows = min(self.plan.rows)
        async with servers.redis_servers() as places:
            self.say(f"loading {rows:,} rows into Redis")
            await loading.load_redis(places, "rows", rows)
            part = Part("redis", rows, f"Redis: {rows:,} rows of three shards to one sorted DataFrame")
            tasks = self.plan.tasks("redis", places=places, table="rows", rows=rows)
            await self.fresh(part, tasks, self.plan.rounds)
            return await loading.versions(None, None, places[0])

    async def router(self) -> None:
        part = Part("router", 100_000, "Router: 1,000 shards, 100,000 ranges")
        await self.fresh(part, self.plan.tasks("router"), self.plan.rounds)

    def _sizes(self) -> list[int]:
        plan = self.plan
        last = {max(plan.rows)} if plan.has("stream", "late", "count") else set()
        used = set(plan.rows) if plan.has("bulk") else last
        return sorted(used)

    async def _bulk(self, places: list[str]) -> dict[str, str]:
        async with servers.federating() as federated:
            await loading.load_table(places, TINY, 60)
            for rows in self.plan.rows:
                if federated:
                    await loading.federate(federated, places, table(rows))
                part = Part("bulk", rows, f"Bulk: {rows:,} rows of three Postgres shards to one sorted DataFrame")
                extra = {"federated": federated, "tiny": TINY}
                tasks = self.plan.tasks("bulk", places=places, table=table(rows), rows=rows, extra=extra)
                without = [] if federated else [tasks.pop("fdw", None)]
                await _warm(tasks.values())
                fewer = dict.fromkeys(SLOW, 1) if rows >= LARGE else {}
                await self.fresh(part, tasks, self.plan.rounds_of(rows), **fewer)
                if any(without):
                    part.scores["fdw"] = Score("fdw", note="no Postgres with postgres_fdw is installed", out=True)
            return await loading.versions(None, federated, None)

    async def _wide(self, places: list[str]) -> None:
        rows = min(self.plan.rows)
        self.say(f"loading {rows:,} wide rows into Postgres")
        await loading.load_wide(places, "wide", rows)
        part = Part("wide", rows, f"Wide: {rows:,} rows of eight columns of three Postgres shards, to one DataFrame")
        tasks = self.plan.tasks("wide", places=places, table="wide", rows=rows)
        for absent in ("fdw", "dask"):
            tasks.pop(absent, None)
        await _warm(tasks.values())
        await self.fresh(part, tasks, self.plan.rounds, **dict.fromkeys(SLOW, 1))

    async def _count(self, places: list[str]) -> None:
        rows = max(self.plan.rows)
        await loading.load_table(places, COUNTED, 60)
        part = Part("count", rows, f"Count: {rows:,} rows of three Postgres shards")
        tasks = self.plan.tasks("count", places=places, table=table(rows), rows=rows, extra={"tiny": COUNTED})
        await _warm(tasks.values())
        await self.fresh(part, tasks, self.plan.rounds)

    async def _small(self, places: list[str]) -> None:
        plan = self.plan
        for shards in plan.shards:
            rows, name = ROWS * shards, f"small_{shards}"
            await loading.load_many(places, name, rows, shards)
            part = Part("small", shards, f"Small read: {rows:,} rows of {shards} Postgres shards")
            tasks = plan.tasks("small", places=places, table=name, rows=rows, shards=shards)
            if shards > 3:
                tasks.pop("read_sql", None)  # it reads one by one: its time just grows with the number of shards
            self.results.parts.append(await bursts(part, tasks, plan.visits, plan.burst, plan.seed, self.say))

    async def _stream(self, places: list[str]) -> None:
        rows = max(self.plan.rows)
        part = Part("stream", rows, f"Stream: {rows:,} rows of three Postgres shards in Arrow batches")
        tasks = self.plan.tasks("stream", places=places, table=table(rows), rows=rows)
        await self.fresh(part, tasks, self.plan.rounds_of(rows))

    async def _serve(self, places: list[str]) -> None:
        """Both endpoints run all the time, and take turns to be measured."""
        rows = ROWS * len(places)
        await loading.load_table(places, SERVED, rows)
        part = Part("serve", CLIENTS, f"GET /data: {rows} rows of three Postgres shards for {CLIENTS} clients at once")
        tasks = self.plan.tasks("serve", places=places, table=SERVED, rows=rows)
        visits = min(self.plan.visits, TURNS)
        self.results.parts.append(await bursts(part, tasks, visits, self.plan.requests, self.plan.seed, self.say))

    async def _late(self, places: list[str]) -> None:
        """Measures each contestant in turn, with one lab whose shard is frozen once the contestant is ready."""
        rows = max(self.plan.rows)
        part = Part("late", rows, f"Deadline of 2 s, a frozen shard, beside reads of {rows:,} rows on the same loop")
        self.results.parts.append(part)
        async with Lab("postgres", launcher="embedded") as lab:
            extra = {"urls": list(lab.urls.values())}
            tasks = self.plan.tasks("late", places=places, table=table(rows), rows=rows, extra=extra)
            part.scores = {name: Score(name) for name in tasks}
            for number in range(self.plan.rounds_of(rows)):
                for name, task in tasks.items():
                    if not part.scores[name].out:
                        self.say(f"{part.kind} {part.size:,}: round {number + 1}, {name}")
                        await _frozen(lab, task, part.scores[name])


async def _frozen(lab: Lab, task: Task, score: Score) -> None:
    try:
        async with worker(task) as ready, lab.fault(FROZEN, faults.Pause()):
            for name, value in (await ready.measure())["figures"].items():
                score.add(name, [value])
    except (Absent, Failed) as error:
        score.note, score.samples, score.out = f"{FAILED}{error}", {}, True


async def _warm(tasks: Iterable[Task]) -> None:
    """Has the servers read all of their tables once, unmeasured."""
    for task in tasks:
        if task.contestant == FLOOR:
            with suppress(Absent, Failed):  # the rounds will report it
                async with worker(task) as ready:
                    await ready.measure()


def table(rows: int) -> str:
    """The name of the table with this many rows."""
    return f"rows_{rows}"


async def run(plan: Plan, results: Results, say: Callable[[str], None]) -> dict[str, str]:
    """Runs all parts except the proxy's; returns the servers' versions."""
    runner, said = Run(plan, results, say), dict[str, str]()
    if plan.has("bulk", "wide", "count", "small", "stream", "late", "serve"):
        said |= await runner.postgres()
    if plan.has("redis"):
        said |= await runner.redis()
    if plan.has("router"):
        await runner.router()
    return said
