"""What the marks `lab` and `fault` of a test say."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pytest

from labkit._checks import positive_integer, shown, unknown
from labkit.errors import UsageError
from labkit.lab.lab import Lab
from labkit.lab.launch import chosen
from labkit.lab.rules import Pair, pairs
from labkit.lab.truth import truth
from labkit.router import CLASSIC, RangeRouter

__all__ = ["Wanted", "faults_of", "wanted_by"]

OPTIONS = {name: one.default for name, one in inspect.signature(Lab).parameters.items() if name != "backend"}
BLOCK = 10
"""IDs in each of the two ranges of a shard, as in `CLASSIC`."""
_tables: dict[int, tuple[Any, pa.Table, str]] = {}
"""By the identity of rows, which are kept so that no others get it."""


@dataclass(frozen=True)
class Wanted:
    """The arguments of a `Lab`; labs of the same identity are alike."""

    arguments: Mapping[str, Any]
    identity: Hashable


def wanted_by(item: pytest.Item) -> Wanted:
    """The lab of a test, by its closest mark `lab`. `UsageError` if there is none, or if it says what no lab can be."""
    mark = item.get_closest_marker("lab")
    if mark is None:
        raise UsageError(f'{item.name} does not say which lab: mark it with pytest.mark.lab("postgres"), or "redis", …')
    if len(mark.args) > 1 or len(mark.args) + ("backend" in mark.kwargs) != 1:
        raise UsageError(f'the mark lab takes a backend, such as "postgres", and names for all else, not {mark.args!r}')
    given = {"backend": mark.args[0], **mark.kwargs} if mark.args else dict(mark.kwargs)
    for name in given:
        if name not in (*OPTIONS, "backend", "shards"):
            raise UsageError(f"the mark lab: {unknown('option', name, ['shards', *OPTIONS])}")
    if "shards" in given:
        if "router" in given:
            raise UsageError("the mark lab takes shards= or router=, not both")
        given["router"] = _router(given.pop("shards"))
    arguments = {**OPTIONS, **given, "launcher": chosen(given.get("launcher", "auto"))}
    if not isinstance(arguments["router"], RangeRouter):
        raise UsageError(f"the mark lab: router must be a RangeRouter, not {shown(arguments['router'])}")
    arguments["rows"], digest = _rows(arguments["router"], arguments["rows"], arguments["key"])
    told = [(name, repr(value)) for name, value in arguments.items() if name not in ("router", "rows")]
    return Wanted(arguments, (arguments["router"], digest, *sorted(told)))


def faults_of(item: pytest.Item) -> list[Pair]:
    """The faults of a test's marks, the outermost mark's first."""
    marks = list(item.iter_markers("fault"))
    for mark in marks:
        if not mark.args or mark.kwargs:
            raise UsageError("the mark fault takes a shard and faults, as in pytest.mark.fault(2, faults.Pause())")
    return [pair for mark in reversed(marks) for pair in pairs(mark.args[0], mark.args[1:])]


def _router(shards: Any) -> RangeRouter:
    """So many shards, each with two ranges of ten IDs: with three, `CLASSIC`."""
    count = positive_integer(shards, "shards of the mark lab")
    if count == len(CLASSIC.shards):
        return CLASSIC
    return RangeRouter({shard: [_block(shard), _block(count + shard)] for shard in range(1, count + 1)})


def _block(number: int) -> tuple[int, int]:
    return BLOCK * (number - 1) + 1, BLOCK * number


def _rows(router: RangeRouter, rows: Any, key: str) -> tuple[pa.Table | None, str]:
    """The rows as a table, also those of an iterator that another test has used up, and what tells them from others."""
    if rows is None:
        return None, ""
    if id(rows) not in _tables:
        table, sink = truth(router, rows, key), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        _tables[id(rows)] = rows, table, sha256(sink.getvalue()).hexdigest()
    return _tables[id(rows)][1:]
