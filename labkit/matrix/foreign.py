"""Somebody else's reader: found by its name, called as the matrix calls it, and what it returns understood."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from labkit.errors import UsageError
from labkit.lab.lab import Lab
from labkit.matrix.cells import YOURS
from labkit.matrix.evidence import Observation
from labkit.matrix.reading import Read, Reads, observed
from labkit.result import ReadResult

__all__ = ["Foreign", "as_rows", "found", "named", "takes_tables", "their_reads"]

Foreign: TypeAlias = "Callable[..., Awaitable[Any]]"
"""Takes {shard: url}, and {shard: table or key} if it has a second parameter; returns (id, name) pairs, mappings with
id and name, a DataFrame, or a `ReadResult`."""

OVERRUN = 3.0
"""Seconds past its deadline after which a read is stopped."""
_GRACE = 0.5
"""Seconds that a read which was told to stop may take for it."""


def found(reader: str | Foreign) -> Foreign:
    """The reader "module:function", looked for in the current directory as well; a callable is taken as it is.

    `UsageError` in one line for what cannot be imported or is no coroutine function.
    """
    function: Any = _imported(reader) if isinstance(reader, str) else reader
    if not any(inspect.iscoroutinefunction(what) for what in (function, getattr(function, "__call__", None))):  # noqa: B004
        what = f"reader {named(reader)!r} is no coroutine function"
        raise UsageError(f"{what}: write `async def` and take {{shard: url}}")
    return function  # type: ignore[no-any-return]


def takes_tables(reader: Foreign) -> bool:
    """Whether it takes two arguments, so that it is told the tables; else it must know that they are data_N."""
    try:
        inspect.signature(reader).bind({}, {})
    except (TypeError, ValueError):
        return False
    return True


def their_reads(reader: Foreign, lab: Lab) -> Reads:
    """By that reader alone."""

    async def read() -> list[Read]:
        return [await _read(reader, lab)]

    return read


async def _read(reader: Foreign, lab: Lab) -> Read:
    loop = asyncio.get_running_loop()
    started = loop.time()
    told = (dict(lab.urls), dict(lab.tables)) if takes_tables(reader) else (dict(lab.urls),)
    task = asyncio.ensure_future(_called(reader, *told))
    try:
        done, _ = await asyncio.wait([task], timeout=lab.timeout + OVERRUN)
    finally:
        elapsed = loop.time() - started
        if not task.done():
            await _stopped(task)
    return Read(YOURS, *_outcome(task, elapsed)) if done else Read(YOURS, Observation(None, elapsed))


async def _called(reader: Foreign, *told: dict[Any, str]) -> Any:
    try:
        return await reader(*told)
    except SystemExit as error:  # which would end the loop, and the matrix with it
        raise RuntimeError(f"SystemExit: {error}") from error


async def _stopped(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=_GRACE)
    if task.done() and not task.cancelled():
        task.exception()  # taken note of, or asyncio would report it


def _outcome(task: asyncio.Future[Any], elapsed: float) -> tuple[Observation, ReadResult | None]:
    error = asyncio.CancelledError("by itself") if task.cancelled() else task.exception()
    if error is not None:
        return Observation(None, elapsed, error=f"{type(error).__name__}: {error}".rstrip(": ")), None
    answer = task.result()
    if isinstance(answer, ReadResult):
        return observed(answer, elapsed), answer
    try:
        return Observation(as_rows(answer), elapsed), None
    except (TypeError, ValueError, KeyError) as wrong:
        return Observation(None, elapsed, error=f"what it returned is no rows: {wrong}"), None


def as_rows(answer: Any) -> list[tuple[Any, Any]]:
    """The (id, name) pairs of an answer; raises TypeError, ValueError or KeyError for what is none."""
    if hasattr(answer, "columns") and hasattr(answer, "itertuples"):
        return [_row(row) for row in zip(answer["id"].tolist(), answer["name"].tolist(), strict=True)]
    if isinstance(answer, str | bytes | Mapping) or not isinstance(answer, Iterable):
        raise TypeError(f"{type(answer).__name__}; return (id, name) pairs, mappings with id and name, or a DataFrame")
    return [_row((row["id"], row["name"]) if _has_names(row) else row) for row in answer]


def _has_names(row: Any) -> bool:
    # asyncpg's Record is no Mapping, and iterates over its values
    return isinstance(row, Mapping) or (hasattr(row, "keys") and hasattr(row, "__getitem__"))


def _row(row: Any) -> tuple[Any, Any]:
    row_id, name = row
    missing = name is None or repr(name) == "<NA>" or name != name  # pandas' NA refuses to be compared
    return _plain(row_id), None if missing else _plain(name)


def _plain(value: Any) -> Any:
    """numpy's and pandas' numbers and text as Python's own."""
    value = value.item() if hasattr(value, "item") and not isinstance(value, str) else value
    return str(value) if isinstance(value, str) else value


def _imported(spec: str) -> Any:
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise UsageError(f"reader {spec!r} is not module:function, as in mine.reading:read_all")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"reader {spec!r} cannot be imported ({type(error).__name__}: {error})") from error
    for part in name.split("."):
        if not hasattr(function, part):
            raise UsageError(f"reader {spec!r}: module {module!r} has no {name!r}; check the name after the colon")
        function = getattr(function, part)
    return function


def named(reader: str | Foreign) -> str:
    """How it is called in reports."""
    return reader if isinstance(reader, str) else getattr(reader, "__name__", type(reader).__name__)
