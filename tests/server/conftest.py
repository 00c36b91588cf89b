"""Real shards for the tests of this folder, one lab a module and backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from labkit import Lab

BACKENDS = ("postgres", "redis")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=BACKENDS)
async def shared_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A lab that the tests of a module share."""
    async with Lab(request.param, timeout=2.0) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(shared_lab: Lab) -> AsyncIterator[Lab]:
    """The shared lab, complete before the test and healed after it."""
    (await shared_lab.read()).raise_for_missing()
    yield shared_lab
    await shared_lab.heal()


@pytest.fixture
def admin() -> Callable[[Lab], Any]:
    """`await admin(lab)`: a connection to the server of shard 2, past the proxy."""

    async def connect(lab: Lab) -> Any:
        connection = lab._source._admin(lab._shards[2].folder)  # type: ignore[attr-defined]
        return await connection if lab.backend == "postgres" else connection

    return connect
