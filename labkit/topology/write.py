"""A topology as TOML: the format is small, and the standard library only reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from labkit.errors import UsageError
from labkit.topology.url import escaped

if TYPE_CHECKING:
    from labkit.topology.topology import ShardPlace, Topology

__all__ = ["to_toml"]


def to_toml(topology: Topology) -> str:
    """The text of a file that `load` makes an equal topology of."""
    ranges = topology.router.prune()
    head = f"timeout = {topology.timeout!r} # seconds\n"
    shards = [_shard(shard, place, ranges[shard]) for shard, place in topology.shards.items()]
    return "\n".join([head, *shards])


def _shard(name: Any, place: ShardPlace, ranges: Any) -> str:
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise UsageError(f"in a topology file the name of a shard is an integer or text, not {name!r}")
    lines = [
        "[[shards]]",
        f"name = {name if isinstance(name, int) else _text(name)}",
        f"url = {_text(escaped(place.url) if place.written is None else place.written)}",
        f"table = {_text(place.table)}",
    ]
    if place.columns != ("id", "name"):
        lines.append(f"columns = {{ id = {_text(place.columns[0])}, name = {_text(place.columns[1])} }}")
    if place.layout != "sorted-set":
        lines.append(f"layout = {_text(place.layout)}")
    if place.only_these:
        lines.append("only_these = true")
    lines.append(f"ranges = {[list(pair) for pair in ranges]}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A basic string: JSON has the same escapes, and leaves one character as it is that TOML does not allow."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
