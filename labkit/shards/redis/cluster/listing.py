"""CLUSTER NODES, line by line. Source: Redis documentation, "CLUSTER NODES"."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Listed", "listed"]


@dataclass(frozen=True)
class Listed:
    """A node, as the one that was asked sees it."""

    id: str
    address: str
    """host:port@bus-port, as it is written; ":0@0" where the address is lost."""
    flags: frozenset[str]
    master: str | None
    """The ID of the master that it replicates."""
    epoch: int
    """Its configuration epoch, or its master's: of two that claim a slot the higher one is right."""
    slots: tuple[tuple[int, int], ...]
    """Ranges, both ends inclusive; those on their way to or from another node are left out."""

    @property
    def role(self) -> str:
        """ "master" or "replica"."""
        return "replica" if self.flags & {"slave", "replica"} else "master"

    @property
    def state(self) -> str:
        """ "ok", "fail?" (this node finds that it does not answer), "fail" (all do), "noaddr", "handshake"."""
        return next((flag for flag in ("noaddr", "handshake", "fail", "fail?") if flag in self.flags), "ok")

    def owns(self, slot: int) -> bool:
        """Whether the slot is its own."""
        return any(first <= slot <= last for first, last in self.slots)


def listed(text: str) -> list[Listed]:
    """The nodes of an answer, by ID."""
    return sorted((_line(line.split()) for line in text.splitlines() if line.strip()), key=lambda node: node.id)


def _line(words: list[str]) -> Listed:
    node, address, flags, master = words[:4]
    ranges = (word.partition("-") for word in words[8:] if not word.startswith("["))
    slots = tuple((int(first), int(last or first)) for first, _, last in ranges)
    return Listed(node, address, frozenset(flags.split(",")), None if master == "-" else master, int(words[6]), slots)
