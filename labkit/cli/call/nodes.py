"""The members of a cluster, as one of its nodes sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labkit.cli.call.failures import CallFailure
from labkit.report import Status
from labkit.shards.redis.cluster.slots import Address, Listed, SlotMap, listed

__all__ = ["Member", "View", "endpoints", "name_of", "parse"]


@dataclass(frozen=True)
class Member:
    """A node, and where to dial it."""

    id: str
    address: Address | None
    """None if the cluster has lost it, which it writes as port 0."""
    role: str = ""
    """ "master" or "replica"; empty for a server that is not in a cluster."""
    slots: tuple[tuple[int, int], ...] = ()
    """(first, last), both ends inclusive."""
    failed: bool = False
    """Whether the node that answered believes it dead."""

    @property
    def name(self) -> str:
        """Its address, else the beginning of its ID."""
        return name_of(self.address) if self.address else f"node {self.id[:8]}"


@dataclass(frozen=True)
class View:
    """A cluster as one node sees it."""

    by: Address
    """That node."""
    nodes: tuple[Member, ...]
    cluster: bool = True
    """False for a server that is not in a cluster: it is the only node, and serves every slot."""

    @property
    def serving(self) -> bool:
        """Whether any node serves slots: a node that was forgotten by its cluster knows none that does."""
        return not self.cluster or any(node.slots for node in self.nodes)

    def owner(self, slot: int) -> Member | None:
        """The node that serves the slot; None if no node does."""
        return next((node for node in self.nodes if any(low <= slot <= high for low, high in node.slots)), None)


def name_of(address: Address) -> str:
    """host:port, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoints(reply: Any, asked: Address) -> dict[str, Address]:
    """Where nodes want to be dialled, by ID: their hostnames or addresses, as configured, in the reply to CLUSTER SLOTS
    of the node at `asked`. Nodes without slots are missing; {} if it is not such a reply.
    """
    try:
        nodes = SlotMap.parse(reply, asked).nodes
    except ValueError:
        return {}
    return {node.id: node.address for node in nodes if node.address}


def parse(
    reply: Any, asked: Address, *, hostnames: bool = False, endpoints: Mapping[str, Address] | None = None
) -> tuple[Member, ...]:
    """The reply to CLUSTER NODES of the node at `asked`, whose host stands in for an empty one: nodes by address, each
    address once, without nodes still in handshake.

    `endpoints` has where nodes want to be dialled. With `hostnames` a node's hostname is preferred, since that is what
    its certificate names. Raises `CallFailure`.
    """
    try:
        found = [_member(line, asked, hostnames, endpoints or {}) for line in listed(reply.decode())]
    except (AttributeError, ValueError, IndexError):
        raise CallFailure(Status.INVALID, "its answer to CLUSTER NODES is not a list of nodes") from None
    nodes: dict[object, Member] = {}
    for node in sorted((node for node in found if node), key=lambda node: node.failed):
        nodes.setdefault(
            node.address or node.id, node
        )  # a node that returned with a new ID is listed twice for a while
    return tuple(sorted(nodes.values(), key=lambda node: (node.address is None, node.address or ("", 0), node.id)))


def _member(line: Listed, asked: Address, hostnames: bool, endpoints: Mapping[str, Address]) -> Member | None:
    if "handshake" in line.flags:
        return None
    endpoint, _, rest = line.address.partition("@")
    host, _, port = endpoint.rpartition(":")
    name = rest.split(",")[1] if hostnames and "," in rest else ""
    lost = "noaddr" in line.flags or not int(port)
    plain = (name or host or asked[0], int(port))
    address = None if lost else plain if name else endpoints.get(line.id, plain)
    return Member(line.id, address, line.role, line.slots, "fail" in line.flags)
