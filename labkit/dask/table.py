"""What a collection has of the table: the columns, which Dask has to know before any row is read, and the filters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from labkit._checks import as_names, shown, unknown
from labkit._filters import as_filters, fitted
from labkit.errors import LabkitError, UsageError
from labkit.topology import Topology

__all__ = ["Wanted", "run", "wanted_of"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What every task reads."""

    schema: pa.Schema
    """The columns of the collection, the key first."""
    columns: tuple[str, ...] | None
    """Those that the caller asked for; None is all, and then a shard with further ones is another table."""
    filters: Sequence[Any] | None
    """As the caller wrote them."""


def wanted_of(
    topology: Topology,
    timeout: float,
    columns: Sequence[str] | None,
    filters: Sequence[Any] | None,
    schema: pa.Schema | None,
) -> Wanted:
    """What the arguments of `labkit.dask.read` mean; asks the shards for their columns if `schema` does not say them.

    Raises `UsageError` for arguments that do not fit, `LabkitError` if no shard says its columns.
    """
    for shard in topology.router.shards:
        if shard not in topology.shards:
            raise UsageError(f"shard {shard!r} has ranges but no place: put one into the topology's `shards`")
    names = None if columns is None else as_names(columns)
    if schema is not None and (not isinstance(schema, pa.Schema) or not schema.names):
        raise UsageError(f"schema must be a pyarrow.Schema, the key first, not {shown(schema)}")
    known = as_filters(filters)
    whole = run(lambda: _described(topology.within(timeout))) if schema is None else schema
    for name in names or ():
        if name not in whole.names:
            raise UsageError(unknown("column", name, whole.names))
    if known is not None:
        fitted(known, whole)
    others = whole.names if names is None else names
    key = whole.field(0)
    return Wanted(pa.schema([key, *(whole.field(name) for name in others if name != key.name)]), names, filters)


def run(ask: Callable[[], Awaitable[_T]]) -> _T:
    """The result of `ask` on a loop of its own; in a thread if this one has a running loop, as in a notebook."""

    async def asked() -> _T:
        return await ask()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asked())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(asked())).result()


async def _described(topology: Topology) -> pa.Schema:
    """The columns of most shards."""
    async with topology.reader() as reader:
        schema = await reader.describe()
    if schema is None:
        raise LabkitError("no shard says which columns the table has: pass schema=, the columns with the key first")
    return schema
