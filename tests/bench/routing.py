"""Look-ups of an ID's shard among 1,000 shards with 100,000 ranges, without servers."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.bench.task import Contestant, Ready, Task

__all__ = ["CONTESTANTS", "MANY", "RANGES", "SHARDS"]

SHARDS, RANGES = 1_000, 100_000
WIDTH, STEP = 100, 150
"""Each range has 100 IDs, followed by 50 that no shard owns."""
MANY = 1_000_000
LOOK_UPS = {"floor": 100_000, "labkit": 100_000, "interval_index": 1_000, "loop": 50}
"""The number of IDs looked up one by one, small enough for each contestant."""


def owner(row_id: int) -> int | None:
    """The right shard, by arithmetic."""
    number, rest = divmod(row_id, STEP)
    return number % SHARDS if rest < WIDTH else None


def _ids(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed=0).integers(RANGES * STEP, size=count)


def _ready(task: Task, one: Callable[[int], Any], many: Callable[[npt.NDArray[np.int64]], Any] | None = None) -> Ready:
    """`one` finds the shard of an ID, or None; `many` finds positions, -1 for none."""
    few, all_ids = _ids(LOOK_UPS[task.contestant]).tolist(), _ids(MANY)
    wrong = [row_id for row_id in few[:1000] if one(row_id) != owner(row_id)]
    if many is not None:
        found = many(all_ids)
        wrong += [i for i, at in zip(all_ids[:1000].tolist(), found[:1000].tolist(), strict=True) if at != _at(i)]
    if wrong:
        raise ValueError(f"id {wrong[0]} has another owner")

    def read() -> dict[str, float]:
        began = time.perf_counter()
        for row_id in few:
            one(row_id)
        figures = {"look_up": (time.perf_counter() - began) / len(few)}
        if many is not None:
            began = time.perf_counter()
            many(all_ids)
            figures["many"] = time.perf_counter() - began
        return figures

    return Ready(read, lambda _: None, dict)


def _at(row_id: int) -> int:
    found = owner(row_id)
    return -1 if found is None else found


@contextmanager
def bisection(task: Task) -> Iterator[Ready]:
    """The floor: one `bisect_right` or `searchsorted` in the starts, with the ranges' ends computed."""
    starts = [number * STEP for number in range(RANGES)]
    array = np.array(starts, dtype=np.int64)

    def one(row_id: int) -> Any:
        number = bisect_right(starts, row_id) - 1
        return number % SHARDS if row_id < starts[number] + WIDTH else None

    def many(ids: npt.NDArray[np.int64]) -> Any:
        numbers = np.searchsorted(array, ids, side="right") - 1
        return np.where(ids < array[numbers] + WIDTH, numbers % SHARDS, -1)

    yield _ready(task, one, many)


@contextmanager
def labkit(task: Task) -> Iterator[Ready]:
    """`router.locate(id)` and `router.locate_many(ids)`."""
    from labkit import RangeRouter

    ranges: dict[int, list[tuple[int, int]]] = {shard: [] for shard in range(SHARDS)}
    for number in range(RANGES):
        ranges[number % SHARDS].append((number * STEP, number * STEP + WIDTH - 1))
    router = RangeRouter(ranges)
    yield _ready(task, router.locate, router.locate_many)


@contextmanager
def interval_index(task: Task) -> Iterator[Ready]:
    """pandas' IntervalIndex: `get_loc(id)` and `get_indexer(ids)`."""
    import pandas as pd

    starts = np.arange(RANGES, dtype=np.int64) * STEP
    index = pd.IntervalIndex.from_arrays(starts, starts + WIDTH - 1, closed="both")

    def one(row_id: int) -> Any:
        try:
            return int(index.get_loc(row_id)) % SHARDS
        except KeyError:
            return None

    def many(ids: npt.NDArray[np.int64]) -> Any:
        numbers = index.get_indexer(ids)
        return np.where(numbers >= 0, numbers % SHARDS, -1)

    yield _ready(task, one, many)


@contextmanager
def loop(task: Task) -> Iterator[Ready]:
    """A loop over the ranges until one contains the ID."""
    ranges = [(number * STEP, number * STEP + WIDTH - 1, number % SHARDS) for number in range(RANGES)]
    yield _ready(task, lambda row_id: next((shard for low, high, shard in ranges if low <= row_id <= high), None))


CONTESTANTS: dict[str, Contestant] = {
    "floor": bisection,
    "labkit": labkit,
    "interval_index": interval_index,
    "loop": loop,
}
