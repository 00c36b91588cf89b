"""Wrong use of a lab: one clear error that names the value, before anything is started or changed."""

from __future__ import annotations

from typing import Any

import pytest

from labkit import CLASSIC, Lab, errors, faults

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backend": "mysql"}, "unknown backend 'mysql': choose one of postgres, redis"),
        ({"launcher": "vagrant"}, "unknown launcher 'vagrant': choose one of auto, docker, embedded"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, not 0"),
        ({"timeout": float("nan")}, "not nan"),
        ({"rows": {99: "nobody's"}}, "no shard owns id 99"),
        ({"rows": [(1, "a"), (1, "b")]}, "id 1 is there twice"),
        ({"rows": [(1.5, "a")]}, r"1\.5"),
        ({"rows": [(1, 2)]}, "name 2 is not text"),
    ],
)
async def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    """The constructor raises a UsageError that names value and fix."""
    with pytest.raises(errors.UsageError, match=words):
        Lab(**{"backend": "redis", **arguments})


async def test_the_environment_names_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """LABKIT_LAUNCHER replaces "auto", and a wrong value is named."""
    monkeypatch.setenv("LABKIT_LAUNCHER", "moon")
    with pytest.raises(errors.UsageError, match="unknown launcher 'moon'"):
        Lab("redis")
    assert Lab("redis", launcher="embedded", router=CLASSIC).launcher == "embedded"


async def test_unknown_shards_and_faults(lab: Lab) -> None:
    """An unknown shard, a value that is not a fault, and the same fault twice raise UsageError and change nothing."""
    for wrong, words in [
        (lambda: lab.inject(9, faults.Pause()), r"unknown shard 9: choose one of \[1, 2, 3\]"),
        (lambda: lab.inject(2, faults.Pause), "not a fault"),
        (lambda: lab.inject(2, "pause"), "not a fault: 'pause'"),
    ]:
        with pytest.raises(errors.UsageError, match=words):
            await wrong()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="unknown shard 9"):
        async with lab.fault(9, faults.Kill()):
            pass
    async with lab.fault(2, faults.Pause()):
        with pytest.raises(errors.UsageError, match="Pause already acts on shard 2"):
            await lab.inject(2, faults.Pause())
    assert (await lab.read()).complete


async def test_wrong_reads(lab: Lab) -> None:
    """low > high and IDs that are not integers raise a ValueError."""
    with pytest.raises(ValueError, match="low must not be above high"):
        await lab.read(10, 1)
    with pytest.raises(ValueError, match="'12'"):
        await lab.reader.get("12")  # type: ignore[arg-type]
