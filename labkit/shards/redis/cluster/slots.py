"""The slots of a Redis Cluster: which slot holds a key, and which nodes own which slots, as one node sees it.

`labkit call` uses this module too, so it loads neither numpy nor pyarrow.
Sources: Redis Cluster specification (16384 slots, CRC16, hash tags, MOVED and ASK); Redis documentation, "CLUSTER
SLOTS" and "CLUSTER NODES".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.crc import key_slot as _crc_slot
from redis.exceptions import AskError

__all__ = ["SLOTS", "Address", "Listed", "Node", "SlotMap", "key_slot", "listed", "redirect_target"]

SLOTS: int = REDIS_CLUSTER_HASH_SLOTS

Address: TypeAlias = "tuple[str, int]"
"""(host, port)."""

UNKNOWN = "?"
"""What a node without a hostname is called where hostnames are preferred."""


def key_slot(key: str | bytes) -> int:
    """The slot of a key: of the text between its first { and the next }, if any, else of the whole key."""
    return int(_crc_slot(key.encode() if isinstance(key, str) else key))


def redirect_target(error: AskError, asked: Address) -> Address | None:
    """Where MOVED (a kind of `AskError`) or ASK leads: an empty host is the one that was asked; None if port 0 or ?."""
    host, port = error.host, error.port
    return (host or asked[0], port) if port and host != UNKNOWN else None


@dataclass(frozen=True)
class Node:
    """A node, as other nodes know it."""

    id: str
    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """Where to dial it; None if the cluster has lost its address, which it writes as port 0."""
        return (self.host, self.port) if self.host and self.port else None


@dataclass(frozen=True)
class SlotMap:
    """Which masters own which slots. Ranges are disjoint and ascending; slots between them have no owner."""

    spans: tuple[tuple[int, int, Node], ...]
    """(first, last, master), both ends inclusive."""
    replicas: tuple[tuple[Node, ...], ...]
    """The replicas of each span."""
    me: str | None = None
    """The ID of the node that answered, if it says so."""
    epochs: Mapping[str, int] = field(default_factory=dict)
    """The configuration epochs of masters by ID, if the node reports them."""

    @classmethod
    def parse(cls, reply: Any, asked: Address) -> SlotMap:
        """The reply to CLUSTER SLOTS (RESP2) of the node at `asked`, whose host stands in for an empty one.

        Raises `ValueError` if it cannot be such a reply.
        """
        try:
            entries = sorted((_entry(one, asked) for one in reply), key=lambda entry: entry[0])
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"the answer to CLUSTER SLOTS is not a slot map: {error}") from None
        ends = [-1, *(last for _, last, _ in entries)]
        if any(first <= end for (first, _, _), end in zip(entries, ends, strict=False)):
            raise ValueError("the answer to CLUSTER SLOTS has a slot twice")
        return cls(
            tuple((first, last, nodes[0]) for first, last, nodes in entries),
            tuple(nodes[1:] for _, _, nodes in entries),
        )

    def with_epochs(self, nodes: Iterable[Listed]) -> SlotMap:
        """The same map with `me` and `epochs`, from CLUSTER NODES of the same node."""
        known = list(nodes)
        me = next((node.id for node in known if "myself" in node.flags), None)
        return replace(self, me=me, epochs={node.id: node.epoch for node in known if node.role == "master"})

    def owner(self, slot: int) -> Node | None:
        """The master that owns the slot; None if no node does."""
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


@dataclass(frozen=True)
class Listed:
    """One line of CLUSTER NODES: a node as the node that answered sees it."""

    id: str
    address: str
    """host:port@bus-port, as written; ":0@0" if the address is lost."""
    flags: frozenset[str]
    master: str | None
    """The ID of the master that it replicates."""
    epoch: int
    """Its configuration epoch, or its master's: of two nodes that claim a slot, the higher epoch wins."""
    slots: tuple[tuple[int, int], ...]
    """Ranges, both ends inclusive, without the slots that are migrating to or from another node."""

    @property
    def role(self) -> str:
        """ "master" or "replica"."""
        return "replica" if self.flags & {"slave", "replica"} else "master"

    @property
    def state(self) -> str:
        """ "ok", "fail?" (no answer to this node), "fail" (the cluster agrees), "noaddr", "handshake"."""
        return next((flag for flag in ("noaddr", "handshake", "fail", "fail?") if flag in self.flags), "ok")

    def owns(self, slot: int) -> bool:
        """Whether it owns the slot."""
        return any(first <= slot <= last for first, last in self.slots)


def listed(text: str) -> list[Listed]:
    """The nodes in a reply to CLUSTER NODES, by ID. Raises `ValueError` or `IndexError` if it is not such a reply."""
    return sorted((_line(line.split()) for line in text.splitlines() if line.strip()), key=lambda node: node.id)


def _line(words: list[str]) -> Listed:
    node, address, flags, master = words[:4]
    ranges = (word.partition("-") for word in words[8:] if not word.startswith("["))
    slots = tuple((int(first), int(last or first)) for first, _, last in ranges)
    return Listed(node, address, frozenset(flags.split(",")), None if master == "-" else master, int(words[6]), slots)
