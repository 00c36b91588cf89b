"""Somebody else's reader: how it is found and called, and how what it returns is understood."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labkit import CLASSIC, ShardReader
from labkit.errors import UsageError
from labkit.matrix import foreign
from labkit.matrix.foreign import as_rows, found, named, their_reads
from labkit.shards import MemoryShard

URLS = {1: "redis://127.0.0.1:1", 2: "redis://127.0.0.1:2", 3: "redis://127.0.0.1:3"}
ROWS = [(1, "one"), (2, None), (3, "")]


class Record:
    """Like asyncpg's: no mapping, iterates over its values."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def keys(self) -> Any:
        return self.values.keys()

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __iter__(self) -> Any:
        return iter(self.values.values())


async def read_by(reader: Any, seconds: float = 1.0) -> Any:
    """The one read of a lab without servers."""
    lab: Any = SimpleNamespace(urls=URLS, timeout=seconds)
    [read] = await their_reads(reader, lab)()
    assert read.who == "yours"
    return read


def returning(answer: Any) -> Any:
    async def reader(urls: dict[int, str]) -> Any:
        return answer

    return reader


@pytest.mark.parametrize(
    "answer",
    [
        ROWS,
        tuple(map(list, ROWS)),
        iter(ROWS),
        [{"id": i, "name": name} for i, name in ROWS],
        [{"name": name, "id": i, "more": 1} for i, name in ROWS],
        [Record(id=i, name=name) for i, name in ROWS],
        [Record(name=name, id=i) for i, name in ROWS],
        [(np.int64(i), None if name is None else np.str_(name)) for i, name in ROWS],
        [(i, float("nan") if name is None else name) for i, name in ROWS],
        [(i, pd.NA if name is None else name) for i, name in ROWS],
        pd.DataFrame(ROWS, columns=["id", "name"]),
        pd.DataFrame(ROWS, columns=["id", "name"]).convert_dtypes(),
        pd.DataFrame({"name": ["one", None, ""], "id": [1, 2, 3]}, dtype=object),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_rows_of_any_form_are_the_same_rows(answer):
    """Pairs, mappings, records and frames; NULL is None whatever a library calls it."""
    rows = as_rows(answer)
    assert rows == ROWS
    assert {type(value) for row in rows for value in row} == {int, str, type(None)}


def test_ids_stay_what_they_are():
    """A float or a text for an ID is for the judge to see, as where NULL made pandas turn a column into floats."""
    frame = pd.DataFrame([(1.0, "one"), (float("nan"), "two")], columns=["id", "name"])
    assert [type(i) for i, _ in as_rows(frame)] == [float, float]
    assert as_rows([("1", "one")]) == [("1", "one")]


@pytest.mark.parametrize(
    "answer", [None, 5, "rows", b"rows", {1: "one"}, [5], [(1, "one", 2)], [{"id": 1}], pd.DataFrame({"id": [1]})]
)
async def test_what_is_no_rows_is_said_to_be_none(answer):
    """It is told as a complaint, and ends nothing."""
    read = await read_by(returning(answer))
    assert read.seen.rows is None
    assert read.seen.error.startswith("what it returned is no rows: ")


async def test_it_is_called_with_the_urls_and_timed():
    """{shard: url}, a copy of its own; the time is by our clock."""

    async def reader(urls: dict[int, str]) -> Any:
        assert urls == URLS
        urls.clear()
        await asyncio.sleep(0.05)
        return ROWS

    read = await read_by(reader)
    assert (read.seen.rows, read.seen.error, read.seen.missing, read.seen.statuses) == (ROWS, None, None, None)
    assert read.seen.elapsed >= 0.05
    assert len(URLS) == 3


async def test_a_result_of_labkits_brings_its_report():
    """Gaps and statuses are taken from it, and its timeline is shown."""
    shards = {1: MemoryShard([]), 2: MemoryShard(error=ConnectionRefusedError()), 3: MemoryShard([])}

    async def reader(urls: dict[int, str]) -> Any:
        async with ShardReader(CLASSIC, shards, timeout=1.0) as it:
            return await it.read()

    read = await read_by(reader)
    assert read.seen.missing == ((11, 20), (41, 50))
    assert read.seen.statuses == {1: "ok", 2: "unreachable", 3: "ok"}
    assert read.result is not None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no"), "ValueError: no"),
        (TimeoutError(), "TimeoutError"),
        (SystemExit(3), "RuntimeError: SystemExit: 3"),
        (asyncio.CancelledError(), "CancelledError: by itself"),
    ],
)
async def test_what_it_raises_is_told(error, words):
    """Also what would end the matrix with it."""

    async def reader(urls: dict[int, str]) -> Any:
        raise error

    assert (await read_by(reader)).seen.error == words


async def test_a_wrong_signature_is_told():
    """A coroutine function that takes nothing raises when it is called."""

    async def reader() -> Any:
        return []

    assert "takes 0 positional arguments" in (await read_by(reader)).seen.error


@pytest.mark.parametrize("stubborn", [False, True])
async def test_one_that_does_not_come_back_is_stopped(monkeypatch, stubborn):
    """After its hard stop it is cancelled, and left alone where it does not listen."""
    monkeypatch.setattr(foreign, "OVERRUN", 0.05)
    monkeypatch.setattr(foreign, "_GRACE", 0.05)
    let_go = asyncio.Event()

    async def reader(urls: dict[int, str]) -> Any:
        try:
            await let_go.wait()
        except asyncio.CancelledError:
            if not stubborn:
                raise
            await let_go.wait()

    before = len(asyncio.all_tasks())
    read = await read_by(reader, seconds=0.05)
    assert (read.seen.rows, read.seen.error) == (None, None)
    assert read.seen.elapsed >= 0.1
    assert len(asyncio.all_tasks()) == before + stubborn
    let_go.set()


async def test_ctrl_c_ends_it_as_well(monkeypatch):
    """Where the matrix is cancelled, so is the read."""
    ended = asyncio.Event()

    async def reader(urls: dict[int, str]) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(read_by(reader, seconds=30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


class Callable:
    async def __call__(self, urls: dict[int, str]) -> Any:
        return ROWS


def test_what_can_be_awaited_is_taken_as_it_is():
    """A coroutine function, a partial one, an object that is called like one."""
    for reader in (returning(ROWS), partial(returning(ROWS)), Callable()):
        assert found(reader) is reader
        assert isinstance(named(reader), str)


@pytest.mark.parametrize("reader", [print, len, "builtins:print", lambda urls: []])
def test_what_cannot_be_awaited_is_refused(reader):
    """One line with the name and the fix."""
    with pytest.raises(UsageError, match=r"is no coroutine function: write `async def` and take \{shard: url\}"):
        found(reader)
