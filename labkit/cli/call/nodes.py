"""Who is in a cluster, as one of its nodes sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labkit.cli.call.failures import CallFailure
from labkit.cli.call.wire import Address
from labkit.report import Status
from labkit.shards.redis.cluster.listing import Listed, listed

__all__ = ["Node", "View", "endpoints", "name_of", "parse"]


@dataclass(frozen=True)
class Node:
    """A node, as others know it."""

    id: str
    address: Address | None
    """None where the cluster has lost it, which it writes as port 0."""
    role: str = ""
    """One of "master" and "replica"; nothing for a server that is in no cluster."""
    slots: tuple[tuple[int, int], ...] = ()
    """(first, last), both ends inclusive."""
    failed: bool = False
    """Whether the node that was asked takes it for dead."""

    @property
    def name(self) -> str:
        """What people call it."""
        return name_of(self.address) if self.address else f"node {self.id[:8]}"


@dataclass(frozen=True)
class View:
    """What one node says of its cluster."""

    by: Address
    """Where it was asked."""
    nodes: tuple[Node, ...]
    cluster: bool = True
    """False for a server that is in no cluster: it is the only node, and serves every slot."""

    @property
    def serving(self) -> bool:
        """Whether any node of it serves slots: one that was thrown out of its cluster knows nobody who does."""
        return not self.cluster or any(node.slots for node in self.nodes)

    def owner(self, slot: int) -> Node | None:
        """The node that serves the slot; None where none does."""
        return next((node for node in self.nodes if any(low <= slot <= high for low, high in node.slots)), None)


def name_of(address: Address) -> str:
    """host:port, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoints(reply: Any, asked: Address) -> dict[str, Address]:
    """By ID, where nodes want to be dialled, as CLUSTER SLOTS at the address `asked` has it: by hostname or by address,
    as the server is set up. Nodes without slots are not in it; {} for what is no such answer.
    """
    found: dict[str, Address] = {}
    try:
        for host, port, node_id, *_ in (node for entry in reply for node in entry[2:]):
            if port and host != b"?":
                found[node_id.decode()] = ((host or b"").decode() or asked[0], port)
    except (TypeError, ValueError, AttributeError):
        return {}
    return found


def parse(
    reply: Any, asked: Address, *, hostnames: bool = False, endpoints: Mapping[str, Address] | None = None
) -> tuple[Node, ...]:
    """The answer to CLUSTER NODES at the address `asked`, which stands in for a host that is left out: by address, and
    each address once. Nodes that others are only just meeting are left out.

    `endpoints` has where nodes want to be dialled. `hostnames`: by its hostname, where a node has one, as its
    certificate does. Raises `CallFailure`.
    """
    try:
        found = [_node(line, asked, hostnames, endpoints or {}) for line in listed(reply.decode())]
    except (AttributeError, ValueError, IndexError):
        raise CallFailure(Status.INVALID, "what it answered to CLUSTER NODES is no list of nodes") from None
    nodes: dict[object, Node] = {}
    for node in sorted((node for node in found if node), key=lambda node: node.failed):
        nodes.setdefault(node.address or node.id, node)  # one that came back with a new ID is there twice for a while
    return tuple(sorted(nodes.values(), key=lambda node: (node.address is None, node.address or ("", 0), node.id)))


def _node(line: Listed, asked: Address, hostnames: bool, endpoints: Mapping[str, Address]) -> Node | None:
    if "handshake" in line.flags:
        return None
    endpoint, _, rest = line.address.partition("@")
    host, _, port = endpoint.rpartition(":")
    name = rest.split(",")[1] if hostnames and "," in rest else ""
    lost = "noaddr" in line.flags or not int(port)
    plain = (name or host or asked[0], int(port))
    address = None if lost else plain if name else endpoints.get(line.id, plain)
    return Node(line.id, address, line.role, line.slots, "fail" in line.flags)
