"""`Topology`: the shards, where they are, and the reader over them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from labkit._checks import positive_seconds
from labkit.errors import UsageError
from labkit.reader import ShardReader
from labkit.router import RangeRouter
from labkit.shards.base import Shard
from labkit.tables import SCHEMA
from labkit.topology.types import written_schema
from labkit.topology.url import CLUSTER, POSTGRES, escaped, scheme_of

__all__ = ["DEFAULT_KEY", "DEFAULT_LAYOUT", "Located", "ShardPlace", "Topology"]

DEFAULT_KEY = "id"
DEFAULT_LAYOUT = "sorted-set"


@dataclass(frozen=True)
class ShardPlace:
    """Where one shard is."""

    url: str = field(repr=False)
    """Including its password, if it has one; so no `repr` shows it."""
    table: str
    """The table, or schema.table; for a Redis shard the key."""
    key: str = DEFAULT_KEY
    """The column of IDs in a Postgres table."""
    columns: tuple[str, ...] | None = None
    """The other columns that are read from a Postgres table; None is all."""
    layout: str = DEFAULT_LAYOUT
    """How Redis stores the rows: one of `labkit.shards.redis.layouts.LAYOUTS`."""
    schema: pa.Schema | None = None
    """The columns of Redis rows, the key first; None is id and name."""
    only_these: bool = False
    """Whether only the Redis Cluster nodes that the URL names are dialled, whatever the cluster says."""
    written: str | None = field(default=None, repr=False, compare=False)
    """The URL as the file has it, with ${NAME} for values from the environment; None if there was no file."""

    def source(self) -> Shard:
        """A shard to read; it connects on its first read. `UsageError`, without the URL, if the URL is invalid."""
        scheme = scheme_of(self.url)
        if scheme in POSTGRES:
            from labkit.shards.postgres.shard import PostgresShard

            return PostgresShard(self.url, self.table, key=self.key, columns=self.columns)
        stored: dict[str, Any] = {"layout": self.layout, "schema": self.schema}
        if scheme in CLUSTER:
            from labkit.shards.redis.cluster.shard import RedisClusterShard

            return RedisClusterShard(self.url, self.table, **stored, only_these=self.only_these)
        from labkit.shards.redis.shard import RedisShard

        return RedisShard(self.url, self.table, **stored)


@runtime_checkable
class Located(Protocol):
    """An object that knows where its shards are, as a `labkit.Lab` does."""

    router: RangeRouter
    timeout: float
    tables: dict[Any, str]

    @property
    def schema(self) -> pa.Schema:
        """The columns of its table, the key first."""

    @property
    def source_urls(self) -> Mapping[Any, str]:
        """The URL of each shard, as a topology file has it; empty if the lab is not running."""


@dataclass(frozen=True)
class Topology:
    """The shards, where they are, and which IDs each of them owns. `labkit.topology.load` reads one from a file."""

    timeout: float
    """Seconds that a read may take."""
    router: RangeRouter
    shards: Mapping[Any, ShardPlace]
    """One per shard of `router`, in its order."""
    path: Path | None = field(default=None, compare=False)
    """The file it was read from."""

    @classmethod
    def of(cls, lab: Located) -> Topology:
        """The topology of a running lab. `UsageError` if it is not running."""
        if not (urls := lab.source_urls):
            raise UsageError("this lab is not running: await lab.start() first")
        key, schema = lab.schema.names[0], None if lab.schema.equals(SCHEMA) else lab.schema
        places = {
            shard: ShardPlace(url, lab.tables[shard], key=key)
            if scheme_of(url) in POSTGRES
            else ShardPlace(url, lab.tables[shard], schema=schema)
            for shard, url in urls.items()
        }
        return cls(lab.timeout, lab.router, places)

    def within(self, timeout: float | None) -> Topology:
        """The same topology with another timeout, in seconds; None keeps it. `UsageError` for an invalid timeout."""
        return self if timeout is None else replace(self, timeout=positive_seconds(timeout))

    def reader(self, *, circuit: bool = False) -> ShardReader:
        """A reader over the shards; close it. `circuit` puts each behind a `CircuitBreaker`, which suits a server."""
        sources = {shard: place.source() for shard, place in self.shards.items()}
        if circuit:
            from labkit.shards.circuit import CircuitBreaker

            sources = {shard: CircuitBreaker(source) for shard, source in sources.items()}
        return ShardReader(self.router, sources, timeout=self.timeout)

    def to_toml(self) -> str:
        """The text of a file from which `load` makes an equal topology: ${NAME} stays ${NAME}, and a literal password
        stays literal. Raises `UsageError` for a shard whose name is neither an integer nor text.
        """
        # By hand: the format is small, and the standard library can only read it.
        ranges = self.router.prune()
        head = f"timeout = {self.timeout!r} # seconds\n"
        return "\n".join([head, *(_shard(shard, place, ranges[shard]) for shard, place in self.shards.items())])


def _shard(name: Any, place: ShardPlace, ranges: Any) -> str:
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise UsageError(f"in a topology file the name of a shard must be an integer or text, not {name!r}")
    lines = [
        "[[shards]]",
        f"name = {name if isinstance(name, int) else _text(name)}",
        f"url = {_text(escaped(place.url) if place.written is None else place.written)}",
        f"table = {_text(place.table)}",
    ]
    if place.key != DEFAULT_KEY:
        lines.append(f"key = {_text(place.key)}")
    if place.columns is not None:
        lines.append(f"columns = [{', '.join(map(_text, place.columns))}]")
    if place.layout != DEFAULT_LAYOUT:
        lines.append(f"layout = {_text(place.layout)}")
    if place.schema is not None:
        types = (f"{_text(name)} = {_text(kind)}" for name, kind in written_schema(place.schema).items())
        lines.append(f"schema = {{ {', '.join(types)} }}")
    if place.only_these:
        lines.append("only_these = true")
    lines.append(f"ranges = {[list(pair) for pair in ranges]}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A TOML basic string: as in JSON, except that JSON leaves DEL unescaped, which TOML forbids."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
