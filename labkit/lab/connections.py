"""What a lab's proxies saw of the connections to its shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labkit._types import ShardKey

__all__ = ["Bytes", "Connection"]


@dataclass(frozen=True, slots=True)
class Bytes:
    """What passed in one direction: `count` bytes, the first and the last of them at those times; None: nothing did."""

    count: int
    first: float | None
    last: float | None


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection of a client to a shard, on the client's side of the proxy. Times are in seconds, as
    `time.monotonic()` has them in every process of the machine.
    """

    shard: ShardKey
    port: int
    """The client's."""
    opened: float
    asked: Bytes
    """From the client, as it arrived."""
    answered: Bytes
    """To the client, after whatever the faults of the network did to it."""
    closed: float | None
    """None while it is open."""
    closed_by: str
    """ "client" or "server", whichever ended it first, else "proxy": a fault of the network; "" while it is open."""

    @classmethod
    def of(cls, shard: ShardKey, trace: Mapping[str, Any]) -> Connection:
        """From a proxy's `Trace`, as a mapping."""
        spans = (trace["asked"], trace["answered"])
        asked, answered = (Bytes(span["count"], span["first"], span["last"]) for span in spans)
        return cls(shard, trace["client"], trace["opened"], asked, answered, trace["closed"], trace["closed_by"])
