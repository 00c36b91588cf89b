"""What the proxies saw while a cell was read: the evidence beside the reader's own words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from labkit._types import ShardKey
from labkit.lab.connections import Bytes, Connection
from labkit.show.format import count, plain

__all__ = ["left", "since", "told"]

_BY = {"client": "the reader", "server": "the server", "proxy": "the proxy"}


def since(start: float, seen: Sequence[Connection]) -> tuple[Connection, ...]:
    """The same with times since `start`; what was opened before has a negative one."""

    def moved(at: float | None) -> float | None:
        return None if at is None else at - start

    def passed(one: Bytes) -> Bytes:
        return Bytes(one.count, moved(one.first), moved(one.last))

    return tuple(
        replace(
            one,
            opened=one.opened - start,
            closed=moved(one.closed),
            asked=passed(one.asked),
            answered=passed(one.answered),
        )
        for one in seen
    )


def told(shards: Sequence[ShardKey], seen: Sequence[Connection]) -> Iterator[str]:
    """A line per connection on which something happened, in the order of the shards, and one for each of these shards
    without; seconds since the start. Connections to other servers, such as further nodes of a cluster, come last.
    """
    others = dict.fromkeys(one.shard for one in seen if one.shard not in shards)
    for shard in (*shards, *others):
        own = [one for one in seen if one.shard == shard]
        busy = [one for one in own if one.opened >= 0 or one.asked.count or one.answered.count]
        lines = map(_told, busy) if busy else ["idle connections only" if own else "no connection"]
        yield from (f"shard {shard}: {line}" for line in lines if shard in shards or busy)


def left(shards: Sequence[ShardKey], seen: Sequence[Connection]) -> Iterator[str]:
    """A line per shard with connections that are left, and when they were made."""
    for shard in dict.fromkeys((*shards, *(one.shard for one in seen))):
        made = [f"{one.opened:.3f} s" for one in seen if one.shard == shard]
        if made:
            yield f"shard {shard}: {count(len(made), 'connection')}, made {', '.join(made)}"


def _told(one: Connection) -> str:
    parts = [
        "connected before" if one.opened < 0 else f"connected {one.opened:.3f} s",
        _passed("asked", one.asked),
        _passed("answered", one.answered),
        "open" if one.closed is None else f"closed {one.closed:.3f} s by {_BY[one.closed_by]}",
    ]
    return plain(", ".join(parts))


def _passed(verb: str, what: Bytes) -> str:
    if what.first is None or what.last is None:
        return f"not {verb}"
    until = f"–{what.last:.3f}" if f"{what.last:.3f}" != f"{what.first:.3f}" else ""
    return f"{verb} {what.first:.3f}{until} s ({count(what.count, 'byte')})"
