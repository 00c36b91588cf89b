"""The injector on targets that only record what is done to them: all or nothing, last in first out, nothing lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import Lab
from labkit.errors import LabError, NeverFired, UsageError
from labkit.faults import (
    BlackHole,
    Disconnect,
    Down,
    Empty,
    Fault,
    Fires,
    Kill,
    Latency,
    MissingRows,
    Pause,
    Timeout,
    Undo,
)
from labkit.faults.network.detector import Detector
from labkit.lab.injector import Injector, warn
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.rules import pairs
from labkit.lab.server import ServerHandle
from tests.support.mocks import turn_until

quick = settings(derandomize=True, database=None, deadline=None, max_examples=150)


class Target:
    """A shard that records what is done to it in the world's journal, and fails or hangs where the world says so."""

    only = ServerHandle.only

    def __init__(self, world: World, shard: int) -> None:
        self.world, self.shard = world, shard
        self.backend = "postgres"
        self.layers = frozenset({"network", "process", "server", "data"})
        self.foreign = (99,)
        self._handed: list[int] = []

    async def did(self, what: str) -> None:
        self.world.journal.append(f"{self.shard} {what}")
        await asyncio.sleep(0)
        if what in self.world.hanging:
            await asyncio.get_running_loop().create_future()
        if self.world.failing.get(f"{self.shard} {what}", 0) > 0:
            self.world.failing[f"{self.shard} {what}"] -= 1
            raise LabError(f"{self.shard} {what} failed")

    async def kill(self) -> None:
        await self.did("kill")
        self.world.gone.add(self.shard)

    async def restart(self) -> None:
        await self.did("restart")
        self.world.gone.discard(self.shard)
        self.world.frozen.discard(self.shard)  # a new process

    async def pause(self) -> None:
        await self.did("pause")
        self.world.frozen.add(self.shard)

    async def resume(self) -> None:
        await self.did("resume")
        self.world.frozen.discard(self.shard)

    async def disconnect(self) -> None:
        await self.did("disconnect")
        self.world.cut.add(self.shard)

    async def reconnect(self) -> None:
        await self.did("reconnect")
        self.world.cut.discard(self.shard)

    async def blackhole(self, on: bool) -> None:
        await self.did(f"blackhole {on}")

    async def down(self, on: bool) -> None:
        await self.did(f"down {on}")

    async def toxic(self, toxic: Any) -> Callable[[], Awaitable[None]]:
        number = next(self.world.numbers)
        await self.did(f"toxic {toxic!r}")
        self._handed.append(number)
        self.world.toxics[number] = (self.shard, toxic)

        async def remove() -> None:
            await self.did(f"remove {toxic!r}")
            del self.world.toxics[number]

        return remove

    def handed(self) -> list[int]:
        numbers, self._handed = self._handed, []
        return numbers

    def random(self, fault: Fault) -> Any:
        return SimpleNamespace(sample=lambda rows, count: list(rows)[:count])

    async def rows(self) -> list[Any]:
        return [(1, "Test 1")]

    async def stand_in(self, rows: Any) -> None:
        await self.inside("stand_in")

    async def bring_back(self) -> None:
        await self.inside("bring_back")

    async def inside(self, what: str) -> None:
        """A step that needs a server that can be reached."""
        assert self.shard not in self.world.gone | self.world.frozen | self.world.cut, f"{what}: unreachable"
        await self.did(what)

    def check(self, fault: Fault) -> None:
        pass

    def failed(self, fault: Fault, error: Exception) -> Exception:
        return error

    def release(self) -> None:
        self.world.journal.append(f"{self.shard} released")


class World:
    """An injector over three targets, and everything that happens to them."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.failing: dict[str, int] = {}
        """How many more times a step will fail."""
        self.hanging: set[str] = set()
        self.gone: set[int] = set()
        self.frozen: set[int] = set()
        self.cut: set[int] = set()
        self.toxics: dict[int, tuple[int, Any]] = {}
        self.numbers = itertools.count(1)
        self.fired: list[tuple[int, float]] = []
        self.targets = {shard: Target(self, shard) for shard in (1, 2, 3)}
        self.injector = Injector(self.targets, self._arm, self._firings, self._healthy)  # type: ignore[arg-type]

    async def _arm(self) -> None:
        self.journal.append("arm")
        await asyncio.sleep(0)
        if "arm" in self.hanging:
            await asyncio.get_running_loop().create_future()
        if self.failing.get("arm"):
            raise LabError("arm failed")

    async def _firings(self) -> list[tuple[int, float]]:
        fired, self.fired = self.fired, []
        return fired

    async def _healthy(self, shard: Any) -> None:
        self.journal.append(f"{shard} healthy?")
        if self.failing.get(f"{shard} healthy", 0) > 0:
            self.failing[f"{shard} healthy"] -= 1
            raise LabError(f"shard {shard} does not answer")

    def meets(self, kind: type[Any], at: float | None = None) -> None:
        """A client meets every toxic of that kind."""
        now = asyncio.get_running_loop().time() if at is None else at
        self.fired += [(number, now) for number, (_, toxic) in self.toxics.items() if isinstance(toxic, kind)]

    async def stop(self, wanted: list[tuple[int, Fault]]) -> None:
        """Stops those of the faults that are active now."""
        await self.injector.stop([a for pair in wanted for a in self.injector.active if (a.shard, a.fault) == pair])

    @property
    def active(self) -> list[tuple[int, Fault]]:
        return [(active.shard, active.fault) for active in self.injector.active]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.injector.recorder.events]

    @property
    def steps(self) -> list[str]:
        """The journal without health checks and releases."""
        return [step for step in self.journal if not step.endswith(("healthy?", "released"))]


@dataclass(frozen=True)
class Server(Fault):
    """A fault inside a server, made by the administrator."""

    layer: ClassVar[str] = "server"
    name: str = "a"

    async def start(self, target: Any, undo: Undo) -> None:
        undo.push(lambda: target.inside(f"right {self.name}"))
        await target.inside(f"wrong {self.name}")

    @classmethod
    def samples(cls, timeout: float) -> list[Any]:
        return []


@dataclass(frozen=True)
class HalfWay(Server):
    """A fault that hands the proxy a toxic and then fails."""

    async def start(self, target: Any, undo: Undo) -> None:
        undo.push(await target.toxic(Latency(7)))
        raise LabError("half-way")


@dataclass(frozen=True)
class Fleeting(Server):
    """A fault that does not survive the server's process."""

    volatile: ClassVar[bool] = True


@dataclass(frozen=True)
class Full(Server):
    """A fault that new connections meet."""

    fires: ClassVar[str] = Fires.ON_CONNECT


@dataclass(frozen=True)
class Locked(Server):
    """A fault that queries meet."""

    fires: ClassVar[str] = Fires.ON_DATA


@dataclass(frozen=True)
class OnlyRedis(Server):
    """A fault that does not exist for Postgres."""

    backends: ClassVar[tuple[str, ...]] = ("redis",)


@dataclass(frozen=True)
class Steps(Fault):
    """A fault that is undone in steps, and may fail between them."""

    layer: ClassVar[str] = "network"
    fail_after: int = 9

    async def start(self, target: Any, undo: Undo) -> None:
        for step in (1, 2, 3):
            undo.push(lambda step=step: target.did(f"undo {step}"))  # type: ignore[misc]
            await target.did(f"do {step}")
            if step == self.fail_after:
                raise LabError("half-way")

    @classmethod
    def samples(cls, timeout: float) -> list[Any]:
        return []


@pytest.fixture
def world() -> World:
    return World()


# all or nothing


async def test_all_start_and_are_armed_together(world: World) -> None:
    """The network is armed once, after every other fault on all shards is ready."""
    await world.injector.start([(1, Latency(5)), (2, Down()), (3, Pause()), (3, BlackHole())])
    assert world.journal == ["1 toxic Latency(5)", "2 down True", "3 pause", "3 blackhole True", "arm"]
    assert len(world.active) == 4


async def test_when_the_third_fails_the_first_two_are_undone(world: World) -> None:
    """The third's error is raised; the others are undone, latest first; nothing stays active, armed or recorded."""
    world.failing = {"3 kill": 1}
    with pytest.raises(LabError, match="3 kill failed"):
        await world.injector.start([(1, Latency(5)), (2, Pause()), (3, Kill())])
    assert world.steps == ["1 toxic Latency(5)", "2 pause", "3 kill", "3 restart", "2 resume", "1 remove Latency(5)"]
    assert (world.active, world.injector.recorder.events, world.toxics) == ([], [], {})
    assert {f"{shard} healthy?" for shard in (1, 2, 3)} <= set(world.journal)


async def test_when_arming_fails_all_is_undone(world: World) -> None:
    """If arming, the last step, fails, all faults are undone."""
    world.failing = {"arm": 1}
    with pytest.raises(LabError, match="arm failed"):
        await world.injector.start([(1, Latency(5)), (2, Down())])
    assert world.steps[-2:] == ["2 down False", "1 remove Latency(5)"]
    assert world.active == []


async def test_a_fault_that_fails_half_way_is_undone_from_there(world: World) -> None:
    """The undo steps registered before the failure run, latest first, and no others."""
    with pytest.raises(LabError, match="half-way"):
        await world.injector.start([(1, Steps(fail_after=2))])
    assert world.steps == ["1 do 1", "1 do 2", "1 undo 2", "1 undo 1"]


@pytest.mark.parametrize("where", ["kill", "toxic Latency(5)", "arm"])
async def test_a_start_that_is_cancelled_is_undone(world: World, where: str, no_task_left: None) -> None:
    """A start cancelled at any step leaves nothing active."""
    world.hanging = {where}
    task = asyncio.create_task(world.injector.start([(1, Pause()), (2, Latency(5)), (3, Kill())]))
    await turn_until(lambda: any(step.endswith(where) for step in world.journal))
    await turn_until(lambda: False, turns=5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (world.active, world.frozen, world.gone, world.toxics) == ([], set(), set(), {})
    assert "1 resume" in world.journal
    assert world.injector.recorder.events == []
    world.hanging = set()
    await world.injector.start([(1, Pause())])
    assert world.active == [(1, Pause())]


# undoing


async def test_faults_are_undone_the_youngest_first(world: World) -> None:
    """heal() undoes faults step by step, latest first, and then checks once that each shard answers."""
    await world.injector.start([(1, Steps()), (2, Pause())])
    await world.injector.start([(1, Kill())])
    world.journal.clear()
    await world.injector.heal()
    assert world.steps == ["1 restart", "2 resume", "1 undo 3", "1 undo 2", "1 undo 1"]
    assert sorted(set(world.journal) - set(world.steps)) == ["1 healthy?", "1 released", "2 healthy?", "2 released"]
    assert world.active == []


async def test_a_shard_is_seen_to_once_its_last_fault_is_undone(world: World) -> None:
    """While another fault is active on a shard, no answer is awaited and its administrator is not released."""
    await world.injector.start([(1, Pause()), (1, Down())])
    world.journal.clear()
    await world.stop([(1, Down())])
    assert world.journal == ["1 down False"]
    await world.stop([(1, Pause())])
    assert world.journal == ["1 down False", "1 resume", "1 healthy?", "1 released"]


async def test_stopping_what_heal_undid_does_nothing(world: World) -> None:
    """The end of a scope after heal() is not an error."""
    await world.injector.start([(1, Pause())])
    await world.injector.heal()
    world.journal.clear()
    await world.stop([(1, Pause())])
    await world.injector.heal()
    assert world.journal == []


async def test_an_undo_that_fails_is_tried_again_where_it_failed(world: World) -> None:
    """Its error is raised and the fault stays active; heal() continues with the step that failed."""
    await world.injector.start([(1, Steps())])
    world.failing = {"1 undo 2": 1}
    with pytest.raises(LabError, match="1 undo 2 failed"):
        await world.stop([(1, Steps())])
    assert world.active == [(1, Steps())]
    assert "1 healthy?" not in world.journal
    world.journal.clear()
    await world.injector.heal()
    assert world.journal == ["1 undo 2", "1 undo 1", "1 healthy?", "1 released"]
    assert world.kinds == ["start", "fired", "stop"]


async def test_an_undo_that_fails_keeps_no_other_from_being_undone(world: World) -> None:
    """All other faults are undone before the first error is raised, with the second as a note."""
    await world.injector.start([(1, Kill()), (2, Pause()), (3, Kill())])
    world.failing = {"3 restart": 1, "2 resume": 1}
    with pytest.raises(LabError, match="3 restart failed") as caught:
        await world.injector.heal()
    assert caught.value.__notes__ == ["and: 2 resume failed"]
    assert (world.active, world.gone) == ([(2, Pause()), (3, Kill())], {3})
    await world.injector.heal()
    assert (world.active, world.gone, world.frozen) == ([], set(), set())


async def test_a_shard_that_did_not_answer_is_asked_again_by_heal(world: World) -> None:
    """heal() checks a shard again that did not answer before, even with no fault left to undo."""
    await world.injector.start([(1, Pause()), (2, Pause())])
    world.failing = {"2 healthy": 2}
    with pytest.raises(LabError, match="shard 2 does not answer"):
        await world.stop([(1, Pause()), (2, Pause())])
    assert "1 healthy?" in world.journal
    with pytest.raises(LabError, match="shard 2 does not answer"):
        await world.injector.heal()
    world.journal.clear()
    await world.injector.heal()
    assert world.journal == ["2 healthy?", "2 released"]


async def test_an_interrupted_undo_is_finished_by_heal(world: World) -> None:
    """After a cancelled undo, heal() finishes the remaining steps."""
    await world.injector.start([(1, Pause()), (2, Kill())])
    world.hanging = {"restart"}
    task = asyncio.create_task(world.injector.heal())
    await turn_until(lambda: "2 restart" in world.journal)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.hanging = set()
    await world.injector.heal()
    assert (world.active, world.gone, world.frozen) == ([], set(), set())


async def test_starts_and_stops_take_turns(world: World) -> None:
    """Concurrent calls neither undo anything twice nor start faults that exclude each other."""
    await world.injector.start([(1, Steps()), (2, Pause())])
    await asyncio.gather(world.injector.heal(), world.stop([(1, Steps())]), world.injector.heal())
    assert [step for step in world.steps if "undo" in step] == ["1 undo 3", "1 undo 2", "1 undo 1"]
    outcomes = await asyncio.gather(
        *(world.injector.start([(3, Latency(5)), (3, fault)]) for fault in (Pause(), Pause())), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [list, UsageError]


# faults inside a server that is down


OUT = {"kill": Kill(), "pause": Pause()}
IN = {"server": Server(), "full": Full("b"), "data": Empty()}


async def test_what_is_inside_is_undone_when_the_server_is_back(world: World) -> None:
    """A server fault stopped during Kill ends at once for the caller; its undo runs when the server is back."""
    await world.injector.start([(2, Server())])
    await world.injector.start([(2, Kill())])
    world.journal.clear()
    await world.stop([(2, Server())])
    assert world.journal == []
    assert world.active == [(2, Kill())]
    await world.stop([(2, Kill())])
    assert world.journal == ["2 restart", "2 right a", "2 healthy?", "2 released"]


async def test_disconnect_keeps_the_administrator_out_too(world: World) -> None:
    """An undo is postponed while a container is off its network, too."""
    world.targets[2].layers |= {"container"}
    await world.injector.start([(2, Empty()), (2, Disconnect())])
    await world.stop([(2, Empty())])
    await world.stop([(2, Disconnect())])
    assert world.steps[-2:] == ["2 reconnect", "2 bring_back"]


async def test_a_fault_of_another_shard_postpones_nothing(world: World) -> None:
    """An undo waits only for its own server."""
    await world.injector.start([(1, Server()), (2, Kill())])
    await world.stop([(1, Server())])
    assert "1 right a" in world.journal


async def test_a_postponed_undo_that_fails_is_tried_again(world: World) -> None:
    """Its error is raised at the end of Kill; heal() retries it without starting the server again."""
    await world.injector.start([(2, Server()), (2, Kill())])
    await world.stop([(2, Server())])
    world.failing = {"2 right a": 1}
    with pytest.raises(LabError, match="2 right a failed"):
        await world.stop([(2, Kill())])
    await world.injector.heal()
    assert [step for step in world.steps if step in ("2 restart", "2 right a")] == [
        "2 restart",
        "2 right a",
        "2 right a",
    ]
    assert world.active == []


async def test_a_server_that_was_started_again_is_paused_again(world: World) -> None:
    """Pause is still active when Kill ends, so the new process is paused too."""
    for first, second in ((Pause(), Kill()), (Kill(), Pause())):
        await world.injector.start([(2, first)])
        await world.injector.start([(2, second)])
        world.journal.clear()
        await world.stop([(2, Kill())])
        assert (world.steps, world.frozen) == (["2 restart", "2 pause"], {2})
        await world.stop([(2, Pause())])
        assert (world.active, world.frozen) == ([], set())


async def test_an_old_scope_leaves_alone_what_came_after_it(world: World) -> None:
    """Stopping a fault that heal() has undone leaves a later, equal fault active."""
    begun = await world.injector.start([(2, Pause())])
    await world.injector.heal()
    await world.injector.start([(2, Pause())])
    await world.injector.stop(begun)
    assert (world.active, world.frozen) == ([(2, Pause())], {2})


async def test_toxics_of_a_start_that_failed_are_nobody_elses(world: World) -> None:
    """The shard's next fault does not count the firings of a failed start's toxics as its own."""
    with pytest.raises(LabError):
        await world.injector.start([(2, HalfWay())])
    [latency] = await world.injector.start([(2, Latency(5))])
    assert latency.toxics == set(world.toxics)


@quick
@given(
    inside=st.sampled_from(sorted(IN)),
    outside=st.lists(st.sampled_from(sorted(OUT)), unique=True, min_size=1, max_size=2),
    order=st.permutations([0, 1, 2]),
    heals=st.integers(0, 3),
)
def test_whatever_the_order_of_stops_all_is_undone(
    inside: str, outside: list[str], order: list[int], heals: int
) -> None:
    """A fault inside the server and faults that keep the administrator out, stopped in any order and healed at any
    point: no step needs a server that is down (the target checks), and nothing is left.
    """

    async def go() -> None:
        world = World()
        faults = [IN[inside], *(OUT[name] for name in outside)]
        for fault in faults:
            await world.injector.start([(2, fault)])
        world.meets(Detector)
        for step, i in enumerate(order):
            if step == heals:
                await world.injector.heal()
            if i < len(faults):
                await world.stop([(2, faults[i])])
        assert (world.active, world.gone, world.frozen, world.toxics) == ([], set(), set(), {})
        done = [step for step in world.journal if step in ("2 right a", "2 right b", "2 bring_back")]
        assert len(done) == 1
        assert world.journal[-2:] == ["2 healthy?", "2 released"]

    asyncio.run(go())


# what cannot start


@pytest.mark.parametrize(
    ("before", "wanted", "words"),
    [
        ([], [(9, Pause())], "unknown shard 9: choose one of [1, 2, 3]"),
        ([], [([1, 2], Pause())], "unknown shard [1, 2]: choose one of [1, 2, 3]"),
        ([], [(1, Pause)], "not a fault: <class 'labkit.faults.process.Pause'>; pass one such as faults.Pause()"),
        ([], [(1, "pause")], "not a fault: 'pause'; pass one such as faults.Pause()"),
        (
            [],
            [(1, Disconnect())],
            "Disconnect acts on a container, and shard 1 is not one: start the lab with",
        ),
        ([], [(1, OnlyRedis())], "OnlyRedis acts on redis, and shard 1 is postgres"),
        ([(1, Pause())], [(1, Pause())], "Pause already acts on shard 1: heal() it first"),
        ([], [(1, Kill()), (1, Kill())], "Kill already acts on shard 1: heal() it first"),
        ([(1, Latency(5))], [(1, Latency(5))], "Latency already acts on shard 1: heal() it first"),
        ([(1, Server())], [(1, Server("b"))], "Server already acts on shard 1: heal() it first"),
        ([(1, Fleeting())], [(1, Kill())], "Kill would end Fleeting, which acts on shard 1: heal() it first"),
        ([(1, Kill())], [(1, Server())], "Server cannot start while Kill acts on shard 1: heal() it first"),
        ([(1, Pause())], [(1, Empty())], "Empty cannot start while Pause acts on shard 1: heal() it first"),
        ([], [(1, Kill()), (1, Empty())], "Empty cannot start while Kill acts on shard 1: heal() it first"),
        ([(1, Empty())], [(1, MissingRows())], "MissingRows cannot start while Empty acts on shard 1: heal() it first"),
        ([(1, Server())], [(1, Empty())], "Empty cannot start while Server acts on shard 1: heal() it first"),
    ],
)
async def test_what_cannot_start_is_refused_before_anything_does(
    world: World, before: list[Any], wanted: list[Any], words: str
) -> None:
    """One error names shard, fault and fix; earlier faults of the same call are not started either."""
    await world.injector.start(before)
    world.journal.clear()
    with pytest.raises(UsageError) as caught:
        await world.injector.start([(3, Down()), *wanted])
    assert str(caught.value).startswith(words)
    assert world.journal == []
    assert world.active == before


@pytest.mark.parametrize(
    "wanted",
    [
        [(1, Latency(5)), (1, Latency(6)), (1, Timeout(5))],
        [(1, Latency(5)), (1, Latency(5, stream="upstream")), (2, Latency(5))],
        [(1, Pause()), (1, Kill()), (1, Down()), (1, BlackHole())],
        [(1, Server()), (1, Kill()), (1, Latency(5))],
        [(1, Empty()), (1, BlackHole())],
    ],
)
async def test_what_can_stack_does(world: World, wanted: list[Any]) -> None:
    """Toxics stack, as do faults of different layers, and network faults do not keep the administrator out."""
    await world.injector.start(wanted)
    assert world.active == wanted


# what is reported


async def test_a_fault_that_fires_at_its_start_says_so(world: World) -> None:
    """Kill records start, fired and stop without a client meeting it."""
    await world.injector.start([(2, Kill())])
    await world.injector.heal()
    events = world.injector.recorder.events
    assert [(e.kind, e.shard, e.fault) for e in events] == [(kind, 2, Kill()) for kind in ("start", "fired", "stop")]
    assert events[0].at == events[1].at <= events[2].at


@pytest.mark.parametrize(("fault", "kind"), [(Latency(5), Latency), (Full(), Detector), (Locked(), Detector)])
async def test_a_firing_is_told_with_its_time(world: World, fault: Fault, kind: type[Any]) -> None:
    """A firing is recorded with the time that the proxy reports, at the latest when the fault ends."""
    await world.injector.start([(2, fault)])
    assert world.kinds == ["start"]
    world.meets(kind)
    world.meets(kind)
    await world.injector.collect()
    assert world.kinds == ["start", "fired", "fired"]
    world.meets(kind)
    await world.injector.heal()
    assert world.kinds == ["start", "fired", "fired", "fired", "stop"]


async def test_a_witness_knows_what_it_waits_for(world: World) -> None:
    """A fault that connections meet gets a connection detector, one that queries meet a data detector."""
    await world.injector.start([(1, Full()), (2, Locked()), (3, Server())])
    assert [toxic for _, toxic in world.toxics.values()] == [
        Detector(connects=True, stream="upstream"),
        Detector(stream="upstream"),
    ]
    world.meets(Detector)
    await world.injector.heal()


async def test_a_firing_belongs_to_its_own_fault(world: World) -> None:
    """Of two toxics the one that was met has fired; the other is reported as never fired."""
    await world.injector.start([(2, Latency(5)), (2, Timeout(5))])
    world.meets(Timeout)
    with pytest.warns(NeverFired) as caught:
        warn(await world.injector.heal())
    assert [str(warning.message) for warning in caught] == [
        "Latency(5) never fired on shard 2: no client met it",
    ]
    assert [(e.kind, e.fault) for e in world.injector.recorder.events if "fired" in e.kind] == [
        ("fired", Timeout(5)),
        ("unfired", Latency(5)),
    ]


@dataclass(frozen=True)
class Idle(Server):
    """A fault that finds nothing to act on."""

    async def start(self, target: Any, undo: Undo) -> bool:
        await super().start(target, undo)
        return False


async def test_a_fault_that_finds_nothing_to_act_on_never_fired(world: World) -> None:
    """A start that says so is undone like any other, and warned of with the reason."""
    await world.injector.start([(2, Idle()), (3, Server())])
    with pytest.warns(NeverFired) as caught:
        warn(await world.injector.heal())
    assert [str(warning.message) for warning in caught] == [
        "Idle() never fired on shard 2: there was nothing to act on"
    ]
    assert [event.kind for event in world.injector.recorder.events if event.shard == 2] == ["start", "stop", "unfired"]
    assert world.steps[-2:] == ["3 right a", "2 right a"]


async def test_a_warning_that_is_an_error_leaves_nothing_undone(world: World) -> None:
    """With warnings as errors, the first is raised only once all faults are undone and all shards answer."""
    await world.injector.start([(1, Latency(5)), (2, Latency(5)), (3, Pause())])
    with pytest.raises(NeverFired, match="shard 1"):
        warn(await world.injector.heal())
    assert (world.active, world.toxics, world.frozen) == ([], {}, set())
    assert {"1 healthy?", "2 healthy?", "3 healthy?"} <= set(world.journal)
    assert world.kinds.count("unfired") == 2


async def test_a_fault_that_did_not_start_is_not_said_to_have_never_fired(world: World) -> None:
    """Undoing a failed start warns of nothing (warnings are errors here)."""
    world.failing = {"2 kill": 1}
    with pytest.raises(LabError):
        await world.injector.start([(1, Latency(5)), (2, Kill())])


# through the lab


@pytest.fixture
def lab(world: World) -> Lab:
    """A lab whose shards are the world's."""
    lab = Lab("postgres")
    lab._injector, lab._reader = world.injector, SimpleNamespace()  # type: ignore[assignment]
    return lab


def line_of(words: str) -> int:
    """The number of the only line of this file that ends with that comment."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.endswith(f"# {words}"))
    return number


async def test_the_warning_points_at_the_end_of_the_scope(lab: Lab) -> None:
    """The warning points at its `async with`."""
    with pytest.warns(NeverFired) as caught:
        async with lab.fault(2, Latency(5)):  # the scope
            pass
    assert (caught[0].filename, caught[0].lineno) == (__file__, line_of("the scope"))


async def test_the_warning_points_at_heal(lab: Lab) -> None:
    """For an injected fault the warning points at the call of heal()."""
    await lab.inject(2, Latency(5))
    with pytest.warns(NeverFired) as caught:
        await lab.heal()  # the call
    assert (caught[0].filename, caught[0].lineno) == (__file__, line_of("the call"))


async def test_the_warning_points_at_a_scope_inside_another(lab: Lab) -> None:
    """Inside a user's context manager the warning points at the inner `async with`."""

    @asynccontextmanager
    async def mine() -> Any:
        async with lab.fault(2, Latency(5)):  # the inner scope
            yield

    with pytest.warns(NeverFired) as caught:
        async with mine():
            pass
    assert (caught[0].filename, caught[0].lineno) == (__file__, line_of("the inner scope"))


async def test_an_error_inside_a_scope_is_not_hidden_by_a_warning(lab: Lab, world: World) -> None:
    """The body's own error is raised even if warnings are errors; the missing firing is recorded as an event."""
    with pytest.raises(KeyError, match="mine"):
        async with lab.fault(2, Latency(5), Pause()):
            raise KeyError("mine")
    assert (world.active, world.frozen) == ([], set())
    assert "unfired" in world.kinds


async def test_a_scope_that_is_cancelled_is_undone(lab: Lab, world: World, no_task_left: None) -> None:
    """A task cancelled inside `async with` leaves the shard as it was."""

    async def hang() -> None:
        async with lab.fault({2: Pause(), 3: [Kill(), Latency(5)]}):
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(hang())
    await turn_until(lambda: "start" in world.kinds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (world.active, world.gone, world.frozen, world.toxics) == ([], set(), set(), {})


async def test_heal_inside_a_scope_ends_it(lab: Lab, world: World) -> None:
    """A scope whose fault was healed ends silently."""
    async with lab.fault(2, Pause()):
        await lab.heal()
        assert world.active == []
    assert world.journal.count("2 resume") == 1


async def test_a_lab_that_does_not_run_has_no_faults() -> None:
    """Every call on a lab that is not running is one error that says what to do first."""
    lab = Lab("redis")
    calls = (lab.fault(2, Pause()).__aenter__, lambda: lab.inject(2, Pause()), lab.heal, lab.record)
    for call in calls:
        with pytest.raises(UsageError, match=r"this lab is not running: await lab\.start\(\) first"):
            await call()


# how a lab's shard hands over a toxic


class FakeKeeper:
    """Records its requests; never answers the one that adds a toxic."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def ask(self, do: Any, _name: str, number: int, **_: Any) -> None:
        self.asked.append((do.__name__, number))
        if do is Keeper.add_toxic:
            await asyncio.get_running_loop().create_future()


class Shard(ServerHandle):
    async def launch(self) -> None:
        """Nothing to start."""


async def test_a_toxic_whose_answer_nobody_waited_for_is_taken_back() -> None:
    """A cancelled hand-over removes the toxic: the proxy may have it by then and would arm it with the next fault."""
    keeper = FakeKeeper()
    shard = Shard(keeper, None, "2")  # type: ignore[arg-type]
    task = asyncio.create_task(shard.toxic(Latency(5)))
    await turn_until(lambda: bool(keeper.asked))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [do for do, _ in keeper.asked] == ["add_toxic", "remove_toxic"]
    assert len({number for _, number in keeper.asked}) == 1
    assert shard.handed() == []


# how faults are given


@pytest.mark.parametrize(
    ("where", "faults", "wanted"),
    [
        (2, [Pause()], [(2, Pause())]),
        ("a", [Pause(), Latency(5)], [("a", Pause()), ("a", Latency(5))]),
        ({1: Pause(), 2: [Kill(), Down()]}, [], [(1, Pause()), (2, Kill()), (2, Down())]),
        ({1: (Kill(), Down()), 3: []}, [], [(1, Kill()), (1, Down())]),
        ({}, [], []),
    ],
)
def test_faults_are_given_of_one_shard_or_by_shard(where: Any, faults: list[Fault], wanted: list[Any]) -> None:
    """Faults are given as a shard and its faults, or as a mapping of shards to faults; the order is kept."""
    assert pairs(where, faults) == wanted


def test_faults_given_twice_or_not_at_all_are_refused() -> None:
    """A mapping takes no further faults, and a shard needs at least one."""
    with pytest.raises(UsageError) as caught:
        pairs({1: Pause()}, [Kill()])
    assert str(caught.value).startswith("faults are given by shard: leave out [Kill()]")
    with pytest.raises(UsageError, match=r"no fault for shard 2: pass one such as faults.Pause\(\)"):
        pairs(2, [])
