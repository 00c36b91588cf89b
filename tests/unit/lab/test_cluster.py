"""The parts of a Redis Cluster lab: slots, tags, nodes, options, ports. No server is started."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import UsageError
from labkit.lab.backends import backend
from labkit.lab.cluster.backend import RedisClusterBackend
from labkit.lab.cluster.container import ContainerNode
from labkit.lab.cluster.embedded import EmbeddedNode
from labkit.lab.cluster.members import Extra, even_slots, extras, masters_of, tagged
from labkit.lab.cluster.node import OPTIONS, VOTES, NodeHandle
from labkit.lab.keeper.ports import HIGHEST, LOWEST, Ports
from labkit.lab.launchers.docker import image_of, recipe
from labkit.shards.redis.cluster.slots import SLOTS, key_slot, listed


@given(st.integers(1, 200))
def test_slots_are_dealt_out_evenly_and_whole(masters: int) -> None:
    """Every slot goes to one master, and the masters' counts differ by at most one."""
    dealt = even_slots(masters)
    assert [slot for slots in dealt for slot in slots] == list(range(SLOTS))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@given(st.integers(1, 50), st.integers(0, 49), st.one_of(st.integers(), st.text(max_size=8)))
def test_a_tag_is_in_the_slots_it_is_for(masters: int, master: int, shard: int | str) -> None:
    """A shard's key is in its master's slots, for any number of masters, and contains the shard's name."""
    slots = even_slots(masters)[master % masters]
    if "{" in str(shard) or "}" in str(shard):
        return
    key = tagged(shard, slots)
    assert key_slot(key) in slots
    assert key.startswith(f"data_{shard}:{{{shard}")


def test_plain_numbers_are_no_tags_for_three_masters() -> None:
    """{1} and {2} are on the same one of three masters; the lab's tags are on different ones."""
    thirds = even_slots(3)
    where = {tag: next(i for i, slots in enumerate(thirds) if key_slot(f"{{{tag}}}") in slots) for tag in "123"}
    assert where["1"] == where["2"]
    keys = [tagged(shard, slots) for shard, slots in zip((1, 2, 3), thirds, strict=True)]
    assert keys == ["data_1:{1a}", "data_2:{2}", "data_3:{3a}"]


def test_a_table_has_the_name_it_is_given() -> None:
    """A lab's own name for its table is in the keys, with the same tags; braces in it would override them."""
    thirds = even_slots(3)
    keys = [tagged(shard, slots, "orders") for shard, slots in zip((1, 2, 3), thirds, strict=True)]
    assert keys == ["orders:{1a}", "orders:{2}", "orders:{3a}"]
    with pytest.raises(UsageError, match=r"table 'a\{b\}' cannot have a hash tag: leave braces out of its name"):
        tagged(1, thirds[0], "a{b}")


def test_tags_go_on_beyond_one_letter() -> None:
    """{x}, {xa} … {xz}, {xaa}: a tag is found even for the few slots of one master in a thousand."""
    keys = {tagged("x", slots) for slots in even_slots(1000)[:40]}
    assert len(keys) == 40
    assert max(map(len, keys)) > len("data_x:{xa}")


def test_masters_and_replicas_have_names() -> None:
    """Masters beyond the shards are numbered on; a replica is named after its master."""
    assert masters_of([1], None) == 3
    assert masters_of([1, 2, 3, 4], None) == 4
    assert [str(extra) for extra in extras([1, 2], 3, 2)] == [
        "3",
        "1 replica",
        "1 replica 2",
        "2 replica",
        "2 replica 2",
        "3 replica",
        "3 replica 2",
    ]
    assert extras(["a", "3"], 3, 0) == [Extra("master 3")]


NODES = """\
07c37df 127.0.0.1:30004@31004,host slave e7d1eec 0 1426238317239 4 connected
67ed2db :0@0 master,fail,noaddr - 1426238316232 1426238316232 2 disconnected 5461-10922
e7d1eec 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460 5500 [5461->-67ed2db]
"""


def test_cluster_nodes_is_understood_line_by_line() -> None:
    """Each line gives role, state, address (possibly lost) and slots, without those that are migrating."""
    replica, lost, master = listed(NODES)
    assert (replica.role, replica.master, replica.state, replica.slots) == ("replica", "e7d1eec", "ok", ())
    assert (lost.role, lost.state, lost.address, lost.owns(5461)) == ("master", "noaddr", ":0@0", True)
    assert master.slots == ((0, 5460), (5500, 5500))
    assert [master.owns(slot) for slot in (5460, 5461, 5500)] == [True, False, True]


def test_a_cluster_of_its_own_is_described_by_its_backend() -> None:
    """The cluster's backend gives keys by shard and nodes in order; another backend rejects cluster options."""
    it = backend("redis-cluster", masters=4, replicas=1)
    assert isinstance(it, RedisClusterBackend)
    assert [key_slot(key) // 4096 for key in it.tables([1, 2, 3]).values()] == [0, 1, 2]
    assert [str(member) for member in it.members([1, 2, 3])][:5] == ["1", "2", "3", "4", "1 replica"]
    with pytest.raises(UsageError, match="replicas=1: only a cluster has that"):
        backend("postgres", masters=None, replicas=1)


def test_containers_of_a_cluster_run_the_redis_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node runs the Redis image on the proxy's port and announces 127.0.0.1; no password is visible."""
    monkeypatch.setenv("LABKIT_REDIS_IMAGE", "mine:1")
    node = ContainerNode.__new__(ContainerNode)
    node._backend = backend("redis-cluster")
    node._recipe, node.port = recipe("redis-cluster", node._backend.credentials), 40123
    made = node.recipe
    assert (made.image, made.port, made.kind) == ("mine:1", 40123, "redis")
    assert image_of("redis") == "mine:1"
    words = " ".join(made.command)
    for said in ("--port 40123", "--cluster-announce-hostname 127.0.0.1", "--cluster-enabled yes", "--appendonly yes"):
        assert said in words
    assert made.command[:2] == ["sh", "-c"]
    # All users of the machine can read a command, all users of the engine the environment.
    assert made.env["LABKIT_REDIS_CONFIG"] == node._backend.credentials
    for password in vars(node._backend.access).values():
        assert password not in words
        assert password not in repr(made)


@pytest.mark.parametrize(
    ("kind", "harm"),
    [(EmbeddedNode, "kill"), (EmbeddedNode, "pause"), (ContainerNode, "kill"), (ContainerNode, "disconnect")],
)
async def test_no_node_is_taken_down_before_votes_lapse(kind: type[NodeHandle], harm: str) -> None:
    """A node goes down only once old votes for its replica lapse: with those no node would accept the replica as
    master.
    """
    done = []

    async def until_votes_lapse() -> None:
        done.append("votes for its replica lapsed")

    async def ask(do: Any, *_: Any) -> None:
        done.append(do.__name__)

    node: Any = kind.__new__(kind)
    node._name, node.until_votes_lapse = "2", until_votes_lapse
    node._keeper = SimpleNamespace(ask=ask)
    await getattr(node, harm)()
    assert done == ["votes for its replica lapsed", harm]


async def test_votes_lapse_some_time_after_a_first_master_was_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failover the lab waits for the votes to lapse; a master that was never deposed needs no wait."""
    monkeypatch.setattr("labkit.lab.cluster.node.VOTES", 0.1)
    one, two = EmbeddedNode.__new__(EmbeddedNode), EmbeddedNode.__new__(EmbeddedNode)
    clock = asyncio.get_running_loop().time
    two.deposed = began = clock()
    never = asyncio.create_task(one.until_votes_lapse())
    lapsed = asyncio.create_task(two.until_votes_lapse())
    assert await asyncio.wait([never, lapsed], return_when=asyncio.FIRST_COMPLETED) == ({never}, {lapsed})
    await lapsed
    assert clock() - began >= 0.1
    assert 2 * int(dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True))["--cluster-node-timeout"]) / 1000 == VOTES


def test_what_is_left_of_a_cluster_can_be_read() -> None:
    """The cluster's options keep the remaining masters readable after one, or the majority, has gone."""
    options = dict(zip(OPTIONS[::2], OPTIONS[1::2], strict=True))
    assert options["--cluster-require-full-coverage"] == "no"
    assert options["--cluster-allow-reads-when-down"] == "yes"
    assert int(options["--cluster-node-timeout"]) >= 1000


def test_a_port_is_given_to_one_lab_only() -> None:
    """Two keepers never get the same port, and a server can bind a port that it was given."""
    one, two = Ports(), Ports()
    try:
        given_out = [ports.free(10_000) for ports in (one, two) for _ in range(50)]
        assert len(set(given_out)) == 100
        assert all(LOWEST <= port < HIGHEST for port in given_out)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", given_out[0]))  # as the server that gets the port does
            server.listen()
    finally:
        one.close()
        two.close()


def test_no_port_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free port the error is one line that names the range searched."""

    def none(self: socket.socket, address: object) -> None:
        raise OSError("in use")

    class Taken(socket.socket):
        bind = none  # type: ignore[assignment]

    monkeypatch.setattr("labkit.lab.keeper.ports.socket.socket", Taken)
    with pytest.raises(OSError, match=f"no free port between {LOWEST} and {HIGHEST} on 127.0.0.1"):
        Ports().free()
