"""Slots and slot maps of a Redis Cluster, parsed from the answer to CLUSTER SLOTS."""

from __future__ import annotations

import binascii

import pytest

from labkit.shards.redis.cluster.slots import SLOTS, Node, SlotMap, key_slot

ASKED = ("10.0.0.9", 7000)


def entry(first, last, *nodes):
    """One entry of CLUSTER SLOTS; a node is (host, port, id)."""
    return [first, last, *([host, port, node_id] for host, port, node_id in nodes)]


def parsed(*entries):
    return SlotMap.parse(list(entries), ASKED)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("123456789", "123456789"),
        ("", ""),
        ("ключ", "ключ"),
        ("{user1000}.following", "user1000"),
        ("data_2:{2a}", "2a"),
        ("foo{}{bar}", "foo{}{bar}"),
        ("foo{{bar}}zap", "{bar"),
        ("foo{bar}{zap}", "bar"),
        ("foo}bar{zap", "foo}bar{zap"),
        ("a}{b}", "b"),
    ],
)
def test_a_slot_is_the_crc16_of_the_hash_tag_or_else_of_the_key(key, hashed):
    """The cluster specification's cases equal the CRC16 of another library."""
    assert key_slot(key) == key_slot(key.encode()) == binascii.crc_hqx(hashed.encode(), 0) % SLOTS


def test_a_slot_is_what_the_specification_says():
    """The specification's own check value: 0x31C3 for 123456789."""
    assert key_slot("123456789") == 0x31C3


def test_a_key_need_not_be_text():
    """A key may be any bytes."""
    assert key_slot(b"\xff{\x00\xfe}") == binascii.crc_hqx(b"\x00\xfe", 0) % SLOTS


ONE, TWO, REPLICA = (b"10.0.0.1", 7001, b"one"), (b"10.0.0.2", 7002, b"two"), (b"10.0.0.3", 7003, b"three")


@pytest.mark.parametrize(
    ("slot", "owner"), [(0, "one"), (99, "one"), (100, None), (199, None), (200, "two"), (300, "two"), (301, "one")]
)
def test_every_slot_has_the_owner_of_its_range(slot, owner):
    """Ranges are inclusive, in any order, several per master if need be, and may have gaps."""
    slots = parsed(entry(301, SLOTS - 1, ONE), entry(200, 300, TWO), entry(0, 99, ONE))
    node = slots.owner(slot)
    assert (node and node.id) == owner


def test_a_map_without_slots_knows_nobody():
    """An empty slot map, as from a node that has lost its cluster, has no owners and no nodes."""
    slots = parsed()
    assert (slots.owner(0), slots.masters, slots.nodes) == (None, (), ())


def test_masters_and_replicas_are_told_apart_and_named_once():
    """The first node of an entry is the master, the others are its replicas; each is listed once."""
    slots = parsed(entry(0, 5, ONE, REPLICA), entry(10, 15, ONE, REPLICA), entry(6, 9, TWO))
    assert [node.id for node in slots.masters] == ["one", "two"]
    assert [node.id for node in slots.nodes] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        (b"10.0.0.1", 7001, ("10.0.0.1", 7001)),
        (b"::1", 7001, ("::1", 7001)),
        (b"", 7001, (ASKED[0], 7001)),
        (None, 7001, (ASKED[0], 7001)),
        (b"", 0, None),
        (b"10.0.0.1", 0, None),
        (None, 0, None),
        (b"?", 7001, None),
    ],
)
def test_an_address_is_what_can_be_dialled(host, port, address):
    """A missing host is the one that was queried; port 0 is a lost address; ? is not a host."""
    assert parsed(entry(0, 1, (host, port, b"one"))).owner(0).address == address


def test_what_later_servers_add_to_a_node_is_left_alone():
    """A fourth item, the metadata of Redis 7, is ignored."""
    slots = SlotMap.parse([[0, 1, [b"10.0.0.1", 7001, b"one", [b"hostname", b"a.example"]]]], ASKED)
    assert slots.owner(1) == Node("one", "10.0.0.1", 7001)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"OK",
        7,
        [None],
        [b"abc"],
        [[0]],
        [[0, 1]],
        [entry(5, 4, ONE)],
        [entry(-1, 4, ONE)],
        [entry(0, SLOTS, ONE)],
        [entry(b"0", 4, ONE)],
        [entry(0, 4, (b"h", 65536, b"one"))],
        [entry(0, 4, (b"h", b"7001", b"one"))],
        [entry(0, 4, (b"\xff", 7001, b"one"))],
        [entry(0, 4, (7, 7001, b"one"))],
        [entry(0, 4, (b"h", 7001, None))],
        [[0, 4, [b"h", 7001]]],
        [[0, 4, b"h:7001"]],
        [entry(0, 4, ONE), entry(4, 8, TWO)],
        [entry(0, 4, ONE), entry(0, 4, TWO)],
    ],
    ids=repr,
)
def test_what_is_no_slot_map_is_a_value_error(reply):
    """Wrong types, bounds, ports or names, or a slot with two owners, are a `ValueError`."""
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        SlotMap.parse(reply, ASKED)
