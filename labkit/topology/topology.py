"""`Topology`: which shards there are, where they are, and the reader over them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labkit._checks import positive_seconds
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.router import RangeRouter
from labkit.shards.base import Shard
from labkit.topology.url import CLUSTER, POSTGRES, escaped, scheme_of

__all__ = ["DEFAULT_COLUMNS", "DEFAULT_LAYOUT", "ShardPlace", "Topology"]

DEFAULT_COLUMNS = ("id", "name")
DEFAULT_LAYOUT = "sorted-set"


@dataclass(frozen=True)
class ShardPlace:
    """Where one shard is."""

    url: str = field(repr=False)
    """With its password, if it has one; so no `repr` shows it."""
    table: str
    """The table, or schema.table; of a Redis shard the key."""
    columns: tuple[str, str] = DEFAULT_COLUMNS
    """What a Postgres table calls the two columns; a result always calls them id and name."""
    layout: str = DEFAULT_LAYOUT
    """How Redis keeps the rows: one of `labkit.shards.redis.layouts.LAYOUTS`."""
    only_these: bool = False
    """Whether of a Redis Cluster only the nodes that the URL names are dialled, whatever the cluster says."""
    written: str | None = field(default=None, repr=False, compare=False)
    """The URL as the file has it, with ${NAME} for what came from the environment; None where there was no file."""

    def source(self) -> Shard:
        """A shard to read; it connects when it is read. `UsageError` for a URL that is none, without the URL."""
        scheme = scheme_of(self.url)
        if scheme in POSTGRES:
            from labkit.shards.postgres.shard import PostgresShard

            return PostgresShard(self.url, self.table, columns=self.columns)
        if scheme in CLUSTER:
            from labkit.shards.redis.cluster.shard import RedisClusterShard

            return RedisClusterShard(self.url, self.table, layout=self.layout, only_these=self.only_these)
        from labkit.shards.redis.shard import RedisShard

        return RedisShard(self.url, self.table, layout=self.layout)


@dataclass(frozen=True)
class Topology:
    """Which shards there are, where, and which IDs each of them owns. `labkit.topology.load` reads one from a file."""

    timeout: float
    """Seconds that a read may take."""
    router: RangeRouter
    shards: Mapping[Any, ShardPlace]
    """One a shard of `router`, in its order."""
    path: Path | None = field(default=None, compare=False)
    """The file it was read from."""

    def within(self, timeout: float | None) -> Topology:
        """The same for reads of `timeout` seconds; None leaves it as it is. `UsageError` for no number of seconds."""
        return self if timeout is None else replace(self, timeout=positive_seconds(timeout))

    def reader(self, *, circuit: bool = False) -> ShardReader:
        """A reader over the shards; close it. With `circuit` each is behind a `CircuitBreaker`, as suits a server."""
        sources = {shard: place.source() for shard, place in self.shards.items()}
        if circuit:
            from labkit.shards.circuit import CircuitBreaker

            sources = {shard: CircuitBreaker(source) for shard, source in sources.items()}
        return ShardReader(self.router, sources, timeout=self.timeout)

    def to_toml(self) -> str:
        """The text of a file that `load` makes an equal topology of: ${NAME} stays ${NAME}, a password that was
        given as it is stays so. Raises `UsageError` for a shard whose name is neither an integer nor text.
        """
        return _to_toml(self)


def _to_toml(topology: Topology) -> str:
    """By hand: the format is small, and the standard library only reads it."""
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
