"""`lab.put` and `lab.delete` stand in for an outside writer and keep `lab.rows` current."""

from __future__ import annotations

import asyncio

import pytest

from labkit import Lab, RangeRouter, faults
from labkit.errors import LabError, RangeError, UsageError
from tests.server.conftest import EMBEDDED
from tests.support.watching import comes_true, kill_from_outside

pytestmark = pytest.mark.asyncio(loop_scope="module")


def name_of(lab: Lab, row_id: int) -> str | None:
    names: dict[int, str | None] = dict(zip(lab.rows["id"], lab.rows["name"], strict=True))
    return names[row_id]


@EMBEDDED
@pytest.mark.parametrize("name", ["new", "", None, 'ü "quoted" \\ \n'])
async def test_a_write_is_read_and_is_the_truth(lab: Lab, name: str | None) -> None:
    """After a row is overwritten, deleted and inserted again, each read returns exactly `lab.rows`."""
    await lab.put(12, name)
    assert (await lab.reader.get(12)) == {"id": 12, "name": name}
    assert (await lab.read()).frame.equals(lab.rows)
    await lab.delete(12)
    assert await lab.reader.get(12) is None
    assert len(lab.rows) == 59
    await lab.delete(12)  # nothing to delete
    assert (await lab.read()).frame.equals(lab.rows)
    await lab.put(12, "Test 12")
    assert (await lab.read()).frame.equals(lab.rows)
    assert len(lab.rows) == 60


@EMBEDDED
async def test_writes_go_past_the_network_faults(lab: Lab) -> None:
    """A shard cut off from its readers by a network fault can still be written to."""
    async with lab.fault(2, faults.Down()):
        await lab.put(12, "past the proxy")
        assert (await lab.read()).missing == ((11, 20), (41, 50))
    assert (await lab.read()).frame.equals(lab.rows)
    assert name_of(lab, 12) == "past the proxy"


@EMBEDDED
@pytest.mark.parametrize("fault", [faults.Kill(), faults.Pause(), faults.WrongPassword(), faults.MissingRows()])
async def test_a_shard_with_a_fault_takes_no_writes(lab: Lab, fault: faults.Fault) -> None:
    """A dead, frozen or altered shard refuses writes, which could falsify `lab.rows`; other shards accept them."""
    await lab.inject(2, fault)
    name = type(fault).__name__
    with pytest.raises(UsageError, match=rf"shard 2 takes no writes while {name} acts on it: heal\(\) it first"):
        await lab.put(12, "x")
    with pytest.raises(UsageError, match="shard 2 takes no writes"):
        await lab.delete(12)
    await lab.put(1, name)
    await lab.read()
    if isinstance(fault, faults.WrongPassword):
        await lab.reader.shards[2].aclose()  # only a new connection meets the fault
        await lab.read()
    await lab.heal()
    assert (await lab.read()).frame.equals(lab.rows)
    assert name_of(lab, 1) == name


@EMBEDDED
@pytest.mark.parametrize(
    ("row_id", "name", "error", "text"),
    [
        (99, "x", UsageError, "no shard owns id 99"),
        ("12", "x", RangeError, "an ID must be an integer, not '12'"),
        (12, 5, UsageError, "the name of a row must be text or None, not 5"),
        (12, "\ud800", UsageError, "the name of a row must be text or None, not "),
    ],
)
async def test_a_wrong_row_is_one_clear_error(
    lab: Lab, row_id: int, name: str, error: type[Exception], text: str
) -> None:
    """A wrong row raises one error that names the value, and nothing is written."""
    with pytest.raises(error, match=text):
        await lab.put(row_id, name)
    assert (await lab.read()).frame.equals(lab.rows)


async def test_what_a_server_refuses_is_said_and_not_the_truth() -> None:
    """A refused write raises the server's message, and `lab.rows` stay as they were."""
    async with Lab("postgres") as lab:
        with pytest.raises(LabError, match="shard 2 did not accept the write: value too long for type"):
            await lab.put(12, "x" * 256)
        assert (await lab.read()).frame.equals(lab.rows)
        dead = kill_from_outside(lab, 3)
        assert await comes_true(dead)
        with pytest.raises(LabError, match="shard 3 did not accept the write"):
            await lab.put(21, "x")
        assert name_of(lab, 21) == "Test 21"


async def test_a_lab_that_does_not_run_takes_no_writes() -> None:
    """A lab that is not running takes no writes."""
    with pytest.raises(UsageError, match="this lab is not running"):
        await Lab("redis").put(12, "x")


@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_neighbours_of_a_large_id_stay(backend: str) -> None:
    """Writes and deletes hit only the intended row, even beyond 2**53, where Redis scores of neighbours collide."""
    router = RangeRouter({1: [(2**53 - 2, 2**53 + 6)]})
    async with Lab(backend, router=router) as lab:
        await lab.put(2**53 + 1, "new")
        await lab.delete(2**53)
        await asyncio.gather(*(lab.put(2**53 + i, f"at once {i}") for i in range(3, 6)))
        assert (await lab.read()).frame.equals(lab.rows)
        assert len(lab.rows) == 8
