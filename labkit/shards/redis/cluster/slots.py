"""The slots of a Redis Cluster: which one a key is in, and who owns it, as a node sees it.

Source: Redis Cluster specification (16384 slots, CRC16, hash tags; CLUSTER SLOTS).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.crc import key_slot as _crc_slot

from labkit.shards.redis.cluster.listing import Listed
from labkit.tables import InvalidAnswer

__all__ = ["SLOTS", "Address", "Node", "SlotMap", "key_slot"]

SLOTS: int = REDIS_CLUSTER_HASH_SLOTS

Address: TypeAlias = "tuple[str, int]"
"""(host, port)."""

UNKNOWN = "?"
"""What a node without a hostname is called where hostnames are preferred."""


def key_slot(key: str | bytes) -> int:
    """The slot of a key: of the text between its first { and the next }, where there is any, else of the whole key."""
    return int(_crc_slot(key.encode() if isinstance(key, str) else key))


@dataclass(frozen=True)
class Node:
    """A node, as others know it."""

    id: str
    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """Where it is dialled; None where the cluster has lost its address, which it writes as port 0."""
        return (self.host, self.port) if self.host and self.port else None


@dataclass(frozen=True)
class SlotMap:
    """Who owns which slots. Ranges are disjoint and ascending; slots between them have no owner."""

    spans: tuple[tuple[int, int, Node], ...]
    """(first, last, master), both ends inclusive."""
    replicas: tuple[tuple[Node, ...], ...]
    """Of each span."""
    me: str | None = None
    """The ID of the node that was asked, where it says so."""
    epochs: Mapping[str, int] = field(default_factory=dict)
    """The configuration epochs of masters, by ID, where it says them."""

    @classmethod
    def parse(cls, reply: Any, asked: Address) -> SlotMap:
        """What CLUSTER SLOTS answered (RESP2) at the address `asked`, which stands in for a host that is left out.

        Raises `InvalidAnswer` for what cannot be such an answer.
        """
        try:
            entries = sorted((_entry(one, asked) for one in reply), key=lambda entry: entry[0])
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise InvalidAnswer(f"what CLUSTER SLOTS answered is no slot map: {error}") from None
        ends = [-1, *(last for _, last, _ in entries)]
        if any(first <= end for (first, _, _), end in zip(entries, ends, strict=False)):
            raise InvalidAnswer("what CLUSTER SLOTS answered has a slot twice")
        return cls(
            tuple((first, last, nodes[0]) for first, last, nodes in entries),
            tuple(nodes[1:] for _, _, nodes in entries),
        )

    def told(self, nodes: Iterable[Listed]) -> SlotMap:
        """The same, with what CLUSTER NODES of the same node says of itself and of epochs."""
        known = list(nodes)
        me = next((node.id for node in known if "myself" in node.flags), None)
        return replace(self, me=me, epochs={node.id: node.epoch for node in known if node.role == "master"})

    def owner(self, slot: int) -> Node | None:
        """The master that owns the slot; None where none does."""
        position = bisect_right(self.spans, slot, key=lambda span: span[0]) - 1
        if position < 0 or slot > self.spans[position][1]:
            return None
        return self.spans[position][2]

    @property
    def masters(self) -> tuple[Node, ...]:
        """Each master once, by its first slot."""
        return tuple(dict.fromkeys(master for _, _, master in self.spans))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Masters, then replicas, each once."""
        return tuple(dict.fromkeys([*self.masters, *(node for some in self.replicas for node in some)]))


def _entry(entry: Any, asked: Address) -> tuple[int, int, tuple[Node, ...]]:
    first, last, *nodes = entry
    if not (type(first) is int and type(last) is int and 0 <= first <= last < SLOTS and nodes):
        raise ValueError(f"slots {first!r} to {last!r} with {len(nodes)} nodes")
    return first, last, tuple(_node(node, asked) for node in nodes)


def _node(node: Any, asked: Address) -> Node:
    host, port, node_id = node[0], node[1], node[2]
    if type(port) is not int or not 0 <= port < 1 << 16:
        raise ValueError(f"port {port!r}")
    name = "" if host is None else host.decode()
    if port and not name:
        name = asked[0]
    return Node(node_id.decode(), "" if name == UNKNOWN else name, port)
