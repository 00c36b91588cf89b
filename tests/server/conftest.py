"""Real shards for the tests of this folder, one lab a module and backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from labkit import Lab
from tests.support.containers import of_labs, why_not
from tests.support.watching import becomes_true, folders, marked_keepers

LABS = [
    pytest.param((backend, launcher), id=f"{backend}-{launcher}", marks=[pytest.mark.docker] * (launcher == "docker"))
    for launcher in ("embedded", "docker")
    for backend in ("postgres", "redis")
]

EMBEDDED = pytest.mark.parametrize("shared_lab", LABS[:2], indirect=True, scope="module")
"""For what containers cannot make a difference to."""


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails the last test of this process where any of them has left a lab's folder, container or process."""
    yield
    assert becomes_true(lambda: not folders() and not marked_keepers()), folders()
    assert why_not() is not None or not of_labs()


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=LABS)
async def shared_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A lab that the tests of a module share; each kind of server with each launcher."""
    backend, launcher = request.param
    async with Lab(backend, launcher=launcher, timeout=2.0) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(shared_lab: Lab) -> AsyncIterator[Lab]:
    """The shared lab, complete before the test and healed after it."""
    (await shared_lab.read()).raise_for_missing()
    yield shared_lab
    await shared_lab.heal()
