"""Real shards for the tests in this folder: one lab per module and backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from labkit import Lab
from tests.support.containers import of_labs, why_not
from tests.support.watching import becomes_true, folders, marked

LABS = [
    pytest.param((backend, launcher), id=f"{backend}-{launcher}", marks=[pytest.mark.docker] * (launcher == "docker"))
    for launcher in ("embedded", "docker")
    for backend in ("postgres", "redis")
]

EMBEDDED = pytest.mark.parametrize("shared_lab", LABS[:2], indirect=True, scope="module")
"""For tests to which containers make no difference."""


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails the last test of this process if any test left a lab's folder, container or process behind."""
    yield
    assert becomes_true(lambda: not folders() and not marked()), (folders(), marked())
    assert why_not() is not None or not of_labs()


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=LABS)
async def shared_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A lab shared by the tests of a module: each kind of server with each launcher."""
    backend, launcher = request.param
    async with Lab(backend, launcher=launcher, timeout=2.0) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(shared_lab: Lab) -> AsyncIterator[Lab]:
    """The shared lab, complete before the test and healed after it."""
    (await shared_lab.read()).raise_for_missing()
    yield shared_lab
    await shared_lab.heal()
