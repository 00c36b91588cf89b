"""Fixtures of the unit tests: no server, no network beyond 127.0.0.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import redis.asyncio  # noqa: F401 - loaded here so that no first read pays for it
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.ext.asyncio  # noqa: F401

from labkit.shards import PostgresShard
from tests.support.mocks import FakePostgres, turn_until


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fails a test that leaves an asyncio task behind once the loop has turned."""
    before = asyncio.all_tasks()
    yield
    await turn_until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePostgres]:
    """A scripted Postgres below a real SQLAlchemy: `asyncpg.connect` is replaced. It does not write records, so a first
    read asks for the catalogue alone; tests on the wire and on servers read both by one statement.
    """
    server = FakePostgres()
    monkeypatch.setattr(asyncpg, "connect", server.connect)
    monkeypatch.setattr(PostgresShard, "_read_first", lambda shard, ask, pool: shard._read_by(None, ask, pool))
    yield server
    for connection in server.connections:
        connection.terminate()
