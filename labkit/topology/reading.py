"""`load`: a topology from its file. Every mistake in the file is reported as one line."""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from labkit._checks import did_you_mean, positive_seconds
from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import TopologyError, UsageError
from labkit.router import RangeRouter
from labkit.shards.redis.layouts import LAYOUTS
from labkit.topology.model import FileModel, ShardModel, checked, named, redacted
from labkit.topology.topology import DEFAULT_KEY, DEFAULT_LAYOUT, ShardPlace, Topology
from labkit.topology.types import schema_of
from labkit.topology.url import CLUSTER, POSTGRES, expanded, scheme_of

__all__ = ["load"]


def load(path: str | os.PathLike[str]) -> Topology:
    """The topology that a TOML file describes; no connection is made.

    Raises `TopologyError` (a UsageError, a ValueError) with one line that names the file, the line or key, the value
    and the fix, but never a URL or a password.
    """
    if re.match(r"[a-z][a-z+]+:/", os.fspath(path)):  # one slash: Path() collapses two into one
        raise TopologyError("an address is not a topology file: name a file that holds it")
    try:
        return _topology(checked(_values(path)), Path(path))
    except UsageError as error:
        message = str(error)
    # Raised outside the `except` block so that no chained exception carries the file's contents.
    raise TopologyError(f"{os.fspath(path)}: {message}")


def _values(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TopologyError("no such file: name another, or have labkit up write one") from None
    except IsADirectoryError:
        raise TopologyError("it is a folder: name the file in it") from None
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        raise TopologyError(f"it cannot be read: {str(words).lower()}") from None
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TopologyError(f"it is not UTF-8 (at line {line}): save it as UTF-8") from None
    except RecursionError:
        raise TopologyError("it is not readable TOML: brackets are nested too deeply") from None
    except ValueError as error:
        why = str(error)
        raise TopologyError(f"it is not TOML: {why if '://' not in why else 'an address is not a key'}") from None


def _topology(model: FileModel, path: Path) -> Topology:
    _check_names([shard.name for shard in model.shards])
    timeout = positive_seconds(model.timeout)
    shards = {shard.name: _place(shard, model) for shard in model.shards}
    kinds = {scheme_of(place.url) in POSTGRES for place in shards.values()}
    _refuse_strays(model, postgres=True in kinds, redis=False in kinds, whose=" shards, of which this file has none")
    if model.only_these is not None and not any(scheme_of(place.url) in CLUSTER for place in shards.values()):
        raise TopologyError("only_these is for Redis Clusters, of which this file has none: leave it out")
    return Topology(timeout, _router(model), shards, path)


def _check_names(names: list[int | str]) -> None:
    if not names:
        raise TopologyError("the file has no shards: add [[shards]] with name, url, table and ranges")
    for name in names:
        if isinstance(name, str) and (not name.strip() or "://" in name):
            raise TopologyError(f"the name of a shard must be an integer or a word, not {redacted(name)}")
        if isinstance(name, int) and not INT64_MIN <= name <= INT64_MAX:
            raise TopologyError(f"the name of a shard must fit in 64 bits: {redacted(name)} does not")
    text, count = Counter(map(str, names)).most_common(1)[0]
    if count > 1:
        twice = " and ".join(redacted(name) for name in names if str(name) == text)
        raise TopologyError(f"shards {twice} have the same name: give each a different one")


def _place(shard: ShardModel, model: FileModel) -> ShardPlace:
    try:
        return _checked_place(shard, model)
    except UsageError as error:
        message = str(error)
    raise TopologyError(f"{named(shard.name)}: {message}")


def _checked_place(shard: ShardModel, model: FileModel) -> ShardPlace:
    url = expanded(shard.url)
    scheme = scheme_of(url)
    table = shard.table if shard.table is not None else model.table
    if table is None:
        raise TopologyError('table is missing: add table = "data", here or once above all shards')
    if not table.strip() or "://" in table:
        raise TopologyError(f"table must be the name of a table, or a Redis key, not {redacted(table)}")
    postgres = scheme in POSTGRES
    whose = f", and this is a {'Postgres' if postgres else 'Redis'} shard"
    _refuse_strays(shard, postgres=postgres, redis=not postgres, whose=whose)
    if scheme not in CLUSTER and shard.only_these is not None:
        raise TopologyError("only_these is for Redis Clusters, and this shard is not in one: leave it out")
    place = replace(_stored(shard, model, scheme), url=scheme + url[len(scheme) :], table=table)
    try:
        place.source()
    except UsageError as error:
        # A shard's message about its URL begins with "not"; other messages name what they are about.
        raise TopologyError(f"url is {error}" if str(error).startswith("not ") else str(error)) from None
    if scheme not in CLUSTER and not _has_port(place.url):
        raise TopologyError("url has no valid host or port: a port is a number from 1 to 65535")
    return place


def _stored(shard: ShardModel, model: FileModel, scheme: str) -> ShardPlace:
    """How the rows of a shard are stored; the caller fills in the expanded URL and the table."""
    if scheme in POSTGRES:
        key, columns = _first(shard.key, model.key, DEFAULT_KEY), _first(shard.columns, model.columns)
        if "://" in key:
            raise TopologyError(f"key must be the name of a column, not {redacted(key)}")
        if columns is not None and (not all(columns) or len({*columns}) < len(columns) or "://" in "".join(columns)):
            raise TopologyError(f"columns must be a list of different names, not {redacted(columns)}")
        return ShardPlace("", "", key, None if columns is None else tuple(columns), written=shard.url)
    types = _first(shard.types, model.types)
    return ShardPlace(
        "",
        "",
        layout=_layout(shard, model),
        schema=None if types is None else schema_of(types),
        only_these=scheme in CLUSTER and bool(_first(shard.only_these, model.only_these)),
        written=shard.url,
    )


def _has_port(url: str) -> bool:
    """Whether the port, if there is one, is a valid number."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _refuse_strays(model: ShardModel | FileModel, *, postgres: bool, redis: bool, whose: str) -> None:
    """Raises `TopologyError` for a key of the file that is for another kind of server."""
    if not postgres and model.key is not None:
        raise TopologyError(f"key is for Postgres{whose}: the first column of its schema is the key")
    if not postgres and model.columns is not None:
        raise TopologyError(f"columns are for Postgres{whose}: leave them out, or write schema")
    if not redis and model.layout is not None:
        raise TopologyError(f"layout is for Redis{whose}: leave it out")
    if not redis and model.types is not None:
        raise TopologyError(f"schema is for Redis{whose}: leave it out, or write columns")


def _first(*values: Any) -> Any:
    """The first that is not None, if there is one."""
    return next((value for value in values if value is not None), None)


def _layout(shard: ShardModel, model: FileModel) -> str:
    layout: str = _first(shard.layout, model.layout, DEFAULT_LAYOUT)
    if layout not in LAYOUTS:
        raise TopologyError(f"unknown layout {redacted(layout)}; {did_you_mean(layout, LAYOUTS)}")
    return layout


def _router(model: FileModel) -> RangeRouter:
    try:
        return RangeRouter({shard.name: shard.ranges for shard in model.shards})
    except ValueError as error:
        message = str(error)  # the router knows no URLs, so its message has none
    raise TopologyError(message if "://" not in message else "ranges must be lists of [low, high] pairs")
