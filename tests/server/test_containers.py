"""Shards in containers: stable addresses, single and stacked faults, and nothing left however the owner ends."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from itertools import permutations

import pytest

from labkit import Lab, RangeRouter, Status, errors, faults
from labkit.lab.launchers.docker import ContainerShard, Recipe, recipe
from tests.support.containers import engine_client, of_labs, status_of
from tests.support.owning import owner_of, told
from tests.support.watching import becomes_true, cold, comes_true, folders, keepers, running, tree

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def engine_is_left_as_it_was() -> Iterator[None]:
    """Asserts that a test leaves no new container, volume, network or folder."""
    before, lying = of_labs(), folders()
    yield
    assert of_labs() <= before
    assert becomes_true(lambda: folders() <= lying), folders() - lying  # a keeper removes its folder last


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_addresses_stay_while_containers_move(backend: str) -> None:
    """Docker maps a new port at every start, yet `lab.urls` stay the same and open readers keep working."""
    async with Lab(backend, launcher="docker") as lab, cold(lab) as reader:
        urls, seen = lab.urls, {lab._shards[2].place}
        for fault in (faults.Kill(), faults.Disconnect(), faults.Kill()):
            async with lab.fault(2, fault):
                assert (await reader.read()).reports[2].status is Status.UNREACHABLE
            assert lab.urls == urls
            assert (await reader.read()).complete
            seen.add(lab._shards[2].place)
        assert len(seen) == 4


async def test_only_this_machine_can_dial_a_container() -> None:
    """Containers publish their ports on loopback only."""
    async with Lab("redis", launcher="docker") as lab:
        with engine_client() as client:
            for name in lab.containers.values():
                ports = client.containers.get(name).attrs["NetworkSettings"]["Ports"]
                assert [binding["HostIp"] for bindings in ports.values() for binding in bindings] == ["127.0.0.1"]


async def test_more_shards_than_are_started_at_once() -> None:
    """A lab of twelve containers, started eight at a time, is read whole; one dead shard is one gap."""
    router = RangeRouter({f"s{i}": [(10 * i + 1, 10 * i + 10)] for i in range(12)})
    async with Lab("redis", launcher="docker", router=router) as lab:
        assert len(lab.containers) == 12
        assert (await lab.read()).frame.equals(lab.rows)
        async with lab.fault("s7", faults.Kill()):
            assert (await lab.read()).missing == ((71, 80),)


async def test_each_lab_has_a_private_network() -> None:
    """Two labs at once use two networks, each named after its lab."""
    async with Lab("redis", launcher="docker") as one, Lab("redis", launcher="docker") as two:
        with engine_client() as client:
            networks = {
                name: list(client.containers.get(name).attrs["NetworkSettings"]["Networks"])
                for lab in (one, two)
                for name in lab.containers.values()
            }
        assert networks == {name: [name.rpartition("-")[0]] for name in networks}
        assert len({network for [network] in networks.values()}) == 2


async def test_a_disconnected_server_runs_on() -> None:
    """Disconnect makes the port refuse at once, while the container keeps running and is never restarted."""
    async with Lab("redis", launcher="docker", timeout=30.0) as lab:
        (await lab.read()).raise_for_missing()
        started = _started_at(lab.containers[3])
        async with lab.fault(3, faults.Disconnect()):
            async with asyncio.timeout(5.0):
                result = await lab.read()
            assert result.missing == ((21, 30), (51, 60))
            assert (result.reports[3].status, result.reports[3].error) == (Status.UNREACHABLE, "connection refused")
            assert status_of(lab.containers[3]) == "running"
        assert (await lab.read()).complete
        assert _started_at(lab.containers[3]) == started


async def test_a_paused_container_is_paused_on_the_engine() -> None:
    """`Pause` is `docker pause`, `Kill` is `docker kill`."""
    async with Lab("redis", launcher="docker", timeout=0.3) as lab:
        async with lab.fault(1, faults.Pause()), lab.fault(2, faults.Kill()):
            assert [status_of(name) for name in lab.containers.values()] == ["paused", "exited", "running"]
        assert [status_of(name) for name in lab.containers.values()] == ["running"] * 3


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_any_stack_of_faults_is_undone(backend: str) -> None:
    """Kill, Pause, Disconnect and BlackHole stacked in any order leave one gap, and undone, a complete read."""
    kinds = [faults.Kill(), faults.Pause(), faults.Disconnect(), faults.BlackHole()]
    async with Lab(backend, launcher="docker", timeout=0.8) as lab:
        stacks = [*permutations(kinds, 2), *random.Random(7).sample([*permutations(kinds, 3)], 8)]
        for stack in stacks:
            async with lab.fault(2, *stack):
                assert (await lab.read()).missing == ((11, 20), (41, 50)), stack
            assert (await lab.read()).frame.equals(lab.rows), stack


async def test_disconnect_is_for_containers() -> None:
    """On server processes Disconnect is one clear error and changes nothing."""
    async with Lab("redis", launcher="embedded") as lab:
        with pytest.raises(errors.UsageError, match="Disconnect acts on a container, and shard 2 is not one: start"):
            await lab.inject(2, faults.Disconnect())
        await lab.heal()
        assert lab.events == []
        assert (await lab.read()).complete


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_a_broken_lab_stops_and_leaves_nothing(backend: str) -> None:
    """stop() removes paused, killed and disconnected containers, volumes and network, which leftovers() listed."""
    before = of_labs()
    lab = await Lab(backend, launcher="docker").start()
    with engine_client() as client:
        mounts = [mount for name in lab.containers.values() for mount in client.containers.get(name).attrs["Mounts"]]
    volumes = {mount["Name"] for mount in mounts}
    assert len(volumes) == 3
    await lab.inject(1, faults.Pause())
    await lab.inject(2, faults.Kill())
    await lab.inject(3, faults.Disconnect())
    held = {item.rpartition(" ")[2] for item in lab.leftovers()}
    assert len(of_labs() - before) == 7  # three containers, three volumes, a network
    assert of_labs() - before <= held
    assert volumes | set(lab.containers.values()) <= held
    await lab.stop()
    assert lab.leftovers() == []
    assert of_labs() <= before
    with engine_client() as client:
        assert not volumes & {volume.name for volume in client.volumes.list()}


@pytest.mark.parametrize(
    ("backend", "end"),
    [("postgres", "SIGKILL"), *(("redis", end) for end in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"))],
)
def test_a_signal_that_ends_the_owner_ends_its_containers(backend: str, end: str) -> None:
    """Even after SIGKILL, without Ryuk, no container, volume or network of the lab remains."""
    before = of_labs()
    with owner_of(backend, "wait", "docker") as owner:
        names = told(owner)
        assert len(names) == 3
        assert set(names) <= of_labs()
        owner.send_signal(signal.Signals[end])
        owner.wait()
        assert becomes_true(lambda: of_labs() <= before), of_labs() - before


@pytest.mark.parametrize("seed", range(5))
def test_an_owner_killed_while_it_starts_leaves_nothing(seed: int) -> None:
    """After SIGKILL at any moment of the start, even what was only just requested from the engine is removed."""
    wanted = random.Random(seed).randrange(4)  # how many networks, containers or volumes there are by then
    before = of_labs()
    with owner_of("postgres", "early", "docker") as owner:
        assert told(owner) == ["starting"]
        assert becomes_true(lambda: len(of_labs() - before) >= wanted)
        keeper = keepers(tree(owner.pid))
        owner.kill()
        owner.wait()
        assert becomes_true(lambda: not running(keeper))
        assert of_labs() <= before


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    """A lab cancelled while its containers start has cleaned up by the time the cancellation completes."""
    before = of_labs()
    lab = Lab("postgres", launcher="docker")
    start = asyncio.create_task(lab.start())
    while not of_labs() - before:
        await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert lab.leftovers() == []
    assert of_labs() <= before


async def test_what_a_killed_keeper_left_is_removed() -> None:
    """Containers of a SIGKILLed keeper are removed without the help of another lab, and other labs keep theirs."""
    before = of_labs()
    async with Lab("redis", launcher="docker") as living:
        with owner_of("redis", "wait", "docker") as owner:
            orphans = set(told(owner))
            [keeper] = keepers(tree(owner.pid))
            keeper.kill()
            assert becomes_true(lambda: not running([keeper]))
            assert await comes_true(lambda: not orphans & of_labs())
        assert (await living.read()).complete
    assert of_labs() <= before


async def test_auto_takes_docker_where_the_image_is() -> None:
    """With an engine that answers and has the image, "auto" starts containers and gives no reason for a fallback."""
    async with Lab("redis") as embedded:
        assert embedded.launcher == "embedded"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LABKIT_LAUNCHER")
        lab = Lab("redis")
        assert lab.launcher == "auto"
        async with lab:
            assert (lab.launcher, lab.launcher_reason, len(lab.containers)) == ("docker", "", 3)
            assert (await lab.read()).complete
            assert "launcher='docker', running" in repr(lab)


SILENT = ["sh", "-c", "echo still thinking; exec sleep 1000"]
ENDING = ["sh", "-c", "echo no luck today >&2; exit 3"]
NO_SUCH = ["no-such-program"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (SILENT, "does not answer after 2 s .*still thinking"),
        (ENDING, r"did not start \(exit 3\): no luck today"),
        (NO_SUCH, "did not start: .*no-such-program.* not found"),
    ],
    ids=["silent", "ending", "no such program"],
)
async def test_a_container_that_does_not_become_ready(
    command: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line with the container's last output, and nothing is left; "auto" falls back and says why."""
    before, made = of_labs(), recipe("redis", "")
    other = Recipe(made.kind, made.image, made.port, made.options, command, made.env)
    monkeypatch.setattr("labkit.lab.launchers.docker.recipe", lambda *_: other)
    monkeypatch.setattr(ContainerShard, "start_timeout", 2.0)
    with pytest.raises(errors.LabError, match=words) as caught:
        await Lab("redis", launcher="docker").start()
    assert "\n" not in str(caught.value)
    assert of_labs() <= before
    monkeypatch.delenv("LABKIT_LAUNCHER")
    async with Lab("redis") as lab:
        assert lab.launcher == "embedded"
        assert str(caught.value).partition(":")[2].split(";")[0][:20] in lab.launcher_reason
        assert of_labs() <= before
        async with lab.fault(2, faults.Kill()):
            assert (await lab.read()).missing == ((11, 20), (41, 50))
        assert (await lab.read()).complete


def _started_at(container: str) -> str:
    with engine_client() as client:
        return str(client.containers.get(container).attrs["State"]["StartedAt"])
