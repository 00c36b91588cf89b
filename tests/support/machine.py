"""A state machine that breaks a lab in any order, writes to it and reads it, and checks each read against the model."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from inspect import getcoroutinelocals
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from labkit import Lab, RangeRouter, ReadResult, ShardReader, errors, faults
from labkit.faults import Fault, Sample
from labkit.lab.reading import LabReader
from labkit.shards.redis import member
from tests.support.lateness import MARGIN, kept, mark, pressed
from tests.support.model import COLD, WARM, Acting, Model, Window
from tests.support.watching import PATIENCE, footprint

__all__ = ["EXAMPLES", "Bench", "bench_for", "machine_for", "run_machine"]

SEED = int(os.environ.get("LABKIT_TEST_SEED", "0"))
EXAMPLES = int(os.environ.get("LABKIT_TEST_EXAMPLES", "10"))
SETTINGS = settings(
    derandomize=False,  # the seed decides
    database=None,
    deadline=None,
    print_blob=True,
    max_examples=EXAMPLES,
    stateful_step_count=40,
    phases=[Phase.generate],  # shrinking takes too long on real servers
    suppress_health_check=list(HealthCheck),
)
TIMEOUT = 0.4
"""Seconds per read; a new Postgres connection through added latency takes half of it."""
ROUTER = RangeRouter({1: [(1, 10), (31, 40)], 2: [(11, 20), (41, 50)], 3: [(21, 30), (55, 64)]})
"""Adjacent ranges, and one apart."""
ROWS = {i: f"Test {i} " + "·" * 40 for low, high, _ in ROUTER.spans for i in range(low, high + 1)}
"""Names long enough for a shard's answer to exceed what a fault lets through."""
TEXT = st.characters(codec="utf-8", exclude_characters="\0")
"""Characters that Postgres accepts."""
EDGES = sorted({edge for low, high, _ in ROUTER.spans for edge in (low - 1, low, high, high + 1)})
BOUNDS = st.none() | st.sampled_from(EDGES) | st.integers(-1, 66)
WINDOWS = st.tuples(BOUNDS, BOUNDS).map(lambda pair: pair if None in pair else tuple(sorted(pair)))
NAMES = st.none() | st.sampled_from(["", "null", "O'Brien\n%s", "数据 🎲"]) | st.text(TEXT, max_size=60)
STARVED = 0.5
"""Fraction of a read's time in which some process lacked a CPU or the disk; from here on any shard may be late."""
TAIL = 20
"""Number of events that a failure shows."""
NOBODY = "a shard that is none"
CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'labkit'"


class Bench:
    """A lab and its event loop, shared by all examples; the lab is restarted after an example that left it broken."""

    def __init__(self, backend: str, test: str, runner: asyncio.Runner, reader: type[ShardReader]) -> None:
        self.backend, self.reader = backend, reader
        self._runner = runner
        more = f" LABKIT_TEST_EXAMPLES={EXAMPLES}" if "LABKIT_TEST_EXAMPLES" in os.environ else ""
        self.again = f"again: LABKIT_TEST_SEED={SEED}{more} python -m pytest '{test}'"
        """The command that reproduces the run."""
        self._lab: Lab | None = None

    @property
    def lab(self) -> Lab:
        assert self._lab is not None
        return self._lab

    @property
    def events(self) -> list[Any]:
        return self._lab.events if self._lab else []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", errors.NeverFired)  # not every fault is met by a read
            return self._runner.run(work)

    async def ready(self) -> None:
        """Ensures a healthy lab with exactly the rows of `ROWS`."""
        if self._lab is None:
            self._lab = await Lab(self.backend, router=ROUTER, rows=ROWS, launcher="embedded", timeout=TIMEOUT).start()
            recorded = type("Recorded", (LabReader, self.reader), {})
            injector, sources = self.lab._started(), self.lab.reader.shards
            self._lab._reader = recorded(ROUTER, sources, TIMEOUT, lambda: injector.recorder)
        for shard in ROUTER.shards:
            held = dict(await self.lab._shards[shard].rows())
            mine = {i: name for i, name in ROWS.items() if ROUTER.locate(i) == shard}
            for row_id in (held.items() ^ mine.items()) and held.keys() | mine.keys():
                await self.write(shard, row_id, mine)

    async def give_up(self) -> None:
        """Stops the lab; the next example starts a new one."""
        lab, self._lab = self._lab, None
        if lab is not None:
            await lab.stop()

    async def write(self, shard: Any, row_id: int, rows: dict[int, str | None]) -> None:
        """Writes the row as in `rows` to the server, past the proxy; deletes it if `rows` does not have it."""
        admin, table = await self.lab._shards[shard].admin(), self.lab.tables[shard]
        there, name = row_id in rows, rows.get(row_id)
        if self.backend == "postgres":
            await admin.execute(f'DELETE FROM "{table}" WHERE id = $1', row_id)
            if there:
                await admin.execute(f'INSERT INTO "{table}" VALUES ($1, $2)', row_id, name)
        else:
            await admin.zremrangebyscore(table, row_id, row_id)
            if there:
                await admin.zadd(table, {member(row_id, name): row_id})

    async def clients(self, shard: Any) -> int:
        """The number of the server's connections without the administrator's."""
        admin = await self.lab._shards[shard].admin()
        if self.backend == "postgres":
            return int(await admin.fetchval(CLIENTS))
        return sum(client["name"] != "labkit-admin" for client in await admin.client_list())


@contextmanager
def bench_for(backend: str, test: str, reader: type[ShardReader] = ShardReader) -> Iterator[Bench]:
    """A bench for that test; `reader` is the class under test, possibly a wrong one."""
    gc.collect()
    gc.freeze()  # scanning all that pytest and Hypothesis hold takes longer than a read may be late
    with asyncio.Runner() as runner:
        bench = Bench(backend, test, runner, reader)
        try:
            yield bench
        finally:
            runner.run(bench.give_up())


def run_machine(bench: Bench) -> None:
    """Runs the machine on the bench with the seed LABKIT_TEST_SEED."""
    run_state_machine_as_test(seed(SEED)(machine_for(bench)), settings=SETTINGS)


def machine_for(bench: Bench) -> type[RuleBasedStateMachine]:
    """The machine for this bench; every fault of `faults.ALL` that its lab can have is included automatically."""
    samples, others = _samples(bench.backend)
    shards, some_fault = st.sampled_from(ROUTER.shards), st.sampled_from(list(samples))
    wanted = st.dictionaries(shards, st.lists(some_fault, min_size=1, max_size=2, unique=True), min_size=1)
    inside = [name for name, sample in samples.items() if sample.fault.layer in ("server", "data")]
    impossible: dict[str, Any] = {**others, "faults.Kill": faults.Kill, "'Pause()'": "Pause()", "None": None}

    class Machine(RuleBasedStateMachine):
        """The steps; each is applied to lab and model alike. Faults are named by their repr, such as "Latency(20)"."""

        def __init__(self) -> None:
            super().__init__()
            self.scopes: list[tuple[AbstractAsyncContextManager[None], list[Acting]]] = []
            self.steps: list[str] = []
            self.failed = False
            self.acting: list[Acting] = []
            self.do(self._begin())

        def do(self, work: Coroutine[Any, Any, Any]) -> None:
            """Runs a step; adds to its error how to reproduce it. This is also printed, since Hypothesis hides an error
            that does not recur.
            """
            given = getcoroutinelocals(work)
            told = (f"{name}={given[name]!r}" for name in work.cr_code.co_varnames[1 : work.cr_code.co_argcount])
            self.steps.append(f"{work.__name__}({', '.join(told)})")
            try:
                bench.run(work)
                self._events_agree()
            except BaseException as error:
                self.failed = True
                for line in self.story():
                    error.add_note(line)
                print("", *self.steps, f"{type(error).__name__}: {error}", *self.story(), sep="\n")  # noqa: T201
                raise

        def story(self) -> list[str]:
            acting = ", ".join(f"{one.fault!r} on {one.shard}" for one in self.acting)
            tail = [f"  {e.at:8.3f} s  {e.kind:7} {e.fault!r} on {e.shard}" for e in bench.events[-TAIL:]]
            return [bench.again, f"acting: {acting or 'nothing'}", "last events:", *tail]

        async def _begin(self) -> None:
            await bench.ready()
            self.lab, self.model = bench.lab, Model(bench.lab)
            self.acting = self.model.acting
            self.origin = len(self.lab.events)
            await self._read(WARM, (None, None))
            self.before = footprint()

        @rule(shard=shards, fault=some_fault, scoped=st.booleans())
        def breaks_one(self, shard: Any, fault: str, scoped: bool) -> None:
            self.do(self._start({shard: [fault]}, scoped))

        @rule(wanted=wanted, scoped=st.booleans())
        def breaks_some(self, wanted: dict[Any, list[str]], scoped: bool) -> None:
            self.do(self._start(wanted, scoped))

        @rule(shard=shards, fault=st.sampled_from(inside), scoped=st.booleans())
        def breaks_inside(self, shard: Any, fault: str, scoped: bool) -> None:
            self.do(self._start({shard: [fault]}, scoped))

        @rule(shard=shards, fault=st.sampled_from(["Kill()", "Pause()"]), scoped=st.booleans())
        def takes_the_server(self, shard: Any, fault: str, scoped: bool) -> None:
            """What is stopped inside the server meanwhile is undone later."""
            self.do(self._start({shard: [fault]}, scoped))

        @rule(shard=shards, fault=some_fault, wrong=st.sampled_from([*impossible, NOBODY]))
        def tries_what_cannot_be(self, shard: Any, fault: str, wrong: str) -> None:
            """All or nothing: the possible fault is not started either."""
            wanted = {shard: [fault], NOBODY: [fault]} if wrong == NOBODY else {shard: [fault, wrong]}
            self.do(self._start(wanted, False))

        @precondition(lambda self: self.scopes)
        @rule(number=st.integers(0, 9))
        def leaves_a_scope(self, number: int) -> None:
            self.do(self._leave(self.scopes.pop(number % len(self.scopes))))

        @precondition(lambda self: len(self.acting) > 2)
        @rule()
        def heals(self) -> None:
            self.do(self._heal())

        @rule(row_id=st.sampled_from(sorted(ROWS)), row=st.lists(NAMES, max_size=1))
        def writes(self, row_id: int, row: list[str | None]) -> None:
            """An empty list deletes the row."""
            self.do(self._write(row_id, {row_id: row[0]} if row else {}))

        @rule(window=WINDOWS, who=st.sampled_from([WARM, COLD]))
        def reads(self, window: Window, who: str) -> None:
            self.do(self._read(who, window))

        @precondition(lambda self: self.acting)
        @rule(who=st.sampled_from([WARM, COLD]))
        def reads_all(self, who: str) -> None:
            self.do(self._read(who, (None, None)))

        @rule(window=WINDOWS)
        def reads_twice_at_once(self, window: Window) -> None:
            self.do(self._read_both(window))

        def _events_agree(self) -> None:
            """The active faults are those that the events started and did not stop."""
            lasting: Counter[Any] = Counter()
            events = self.lab.events[self.origin :]
            for event in events:
                lasting[event.shard, event.fault] += {"start": 1, "stop": -1}.get(event.kind, 0)
            assert +lasting == Counter((one.shard, one.fault) for one in self.acting), "events and active faults differ"
            assert all(earlier.at <= later.at for earlier, later in pairwise(events))

        def teardown(self) -> None:
            if not self.failed:
                self.do(self._heal())
            else:
                bench.run(self._abandon())

        async def _start(self, wanted: dict[Any, list[str]], scoped: bool) -> None:
            told = {shard: [_meant(name, samples, impossible) for name in names] for shard, names in wanted.items()}
            pairs = [(shard, fault) for shard, some in told.items() for fault in some]
            events, may = self.lab.events, not self.model.refuses(pairs)
            since, scope = asyncio.get_running_loop().time(), self.lab.fault(told)
            refusal = None
            try:
                await (scope.__aenter__() if scoped else self.lab.inject(told))
            except errors.UsageError as error:
                refusal = error
            assert (refusal is None) == may, refusal or "it should have been refused"
            if not may:
                assert self.lab.events == events
                return
            for shard, names in wanted.items():
                for name in names:
                    self.model.start(shard, samples[name], since)
            if scoped:
                self.scopes.append((scope, self.acting[-len(pairs) :]))

        async def _leave(self, scope: tuple[AbstractAsyncContextManager[None], list[Acting]]) -> None:
            await scope[0].__aexit__(None, None, None)
            self.model.stop(scope[1])

        async def _heal(self) -> None:
            await self.lab.heal()
            self.model.stop(list(self.acting))
            while self.scopes:
                await self._leave(self.scopes.pop())  # has nothing left to undo
            assert (await self._read(WARM, (None, None))).complete
            await self._left_nothing()

        async def _abandon(self) -> None:
            for scope, _ in self.scopes:
                with suppress(Exception):
                    await scope.__aexit__(None, None, None)
            await bench.give_up()

        async def _left_nothing(self) -> None:
            """No task, thread or socket more than before, and no client on any server but the lab's reader."""
            loop = asyncio.get_running_loop()
            ends = loop.time() + PATIENCE
            while True:
                now = footprint()
                clients = {shard: await bench.clients(shard) for shard in ROUTER.shards}
                if all(n <= b for n, b in zip(now, self.before, strict=True)) and max(clients.values()) <= 1:
                    return
                assert loop.time() < ends, f"left: {now}, before {self.before}; clients by shard {clients}"
                await asyncio.sleep(0.01)

        async def _write(self, row_id: int, row: dict[int, str | None]) -> None:
            shard = ROUTER.locate(row_id)
            if not self.model.writable(shard):
                return
            await bench.write(shard, row_id, row)
            self.model.rows[shard].pop(row_id, None)
            self.model.rows[shard].update(row)

        async def _read_both(self, window: Window) -> None:
            await asyncio.gather(self._read(WARM, window), self._read(COLD, window))

        async def _read(self, who: str, window: Window) -> ReadResult:
            if who == WARM:
                return await self._judged(who, window, self.lab.read(*window))
            sources = {s: self.lab._backend.source(url, self.lab.tables[s]) for s, url in self.lab.urls.items()}
            async with bench.reader(ROUTER, sources, timeout=TIMEOUT) as reader:
                result = await self._judged(who, window, reader.read(*window))
            await self._see_fired(window)
            return result

        async def _judged(self, who: str, window: Window, reading: Awaitable[ReadResult]) -> ReadResult:
            clock = asyncio.get_running_loop().time
            started, before, others = clock(), mark(), pressed()
            result = await reading
            ended = clock()
            lost, took = kept(before), ended - started
            self.model.judge(result, who, window, ended, starved=pressed() - others > took * STARVED)
            assert took - lost <= TIMEOUT + MARGIN, f"took {took:.3f} s, of which {lost:.3f} s without a processor"
            if who == WARM:
                shown = Counter((bar.shard, bar.label) for bar in result.windows)
                assert shown == Counter((one.shard, type(one.fault).__name__) for one in self.acting)
            return result

        async def _see_fired(self, window: Window) -> None:
            """A shard's only fault has fired when a new connection queried the shard."""
            wanted = [self.model.must_fire(shard, window) for shard in ROUTER.prune(*window)]
            loop = asyncio.get_running_loop()
            ends = loop.time() + PATIENCE
            for one in filter(None, wanted):
                while not _fired(await self.lab.record(), one):
                    assert loop.time() < ends, f"{one.fault!r} on {one.shard} never fired"
                    await asyncio.sleep(0.01)

    return Machine


def _samples(backend: str) -> tuple[dict[str, Sample], dict[str, Fault]]:
    """By repr: the samples for faults that an embedded lab can have, and the faults that it cannot."""
    able: dict[str, Sample] = {}
    others: dict[str, Fault] = {}
    for entry in faults.ALL.values():
        if entry.kind is faults.SchemaDrift:
            continue  # whose columns hold depends on the other shards and their faults: `test_drift.py` tries it
        for sample in entry.samples(TIMEOUT):
            if backend in entry.backends and entry.layer != "container":
                able[repr(sample.fault)] = sample
            else:
                others[repr(sample.fault)] = sample.fault
    return able, others


def _meant(name: str, samples: dict[str, Sample], impossible: dict[str, Any]) -> Any:
    return samples[name].fault if name in samples else impossible[name]


def _fired(events: Sequence[Any], acting: Acting) -> bool:
    """Whether the fault has fired since its last start."""
    mine = [event.kind for event in events if (event.shard, event.fault) == (acting.shard, acting.fault)]
    return "fired" in mine[len(mine) - 1 - mine[::-1].index("start") :]
