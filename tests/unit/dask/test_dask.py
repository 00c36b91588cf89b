"""`labkit.dask.read`: the same rows as a reader's, from only the ranges that are needed, and no failure hidden."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import pandas as pd
import pytest
from hypothesis import given, settings

import labkit.dask
from labkit import CLASSIC, Lab, RangeRouter, ShardReader, errors
from labkit._types import INT64_MAX, INT64_MIN
from labkit.merge import join
from labkit.shards import MemoryShard
from labkit.tables import SCHEMA
from labkit.topology import ShardPlace, Topology
from tests.support.scenes import Scene, an_error, huge_routers, quick, scenes, small_routers

SECRET = "hunter2"
FILE = f"""
timeout = 0.25
table = "t"
[[shards]]
name = 1
url = "postgresql://u:{SECRET}@127.0.0.1:1/db"
ranges = [[1, 10]]
"""


class Closing(MemoryShard):
    """Counts how often it is closed."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@dataclass(frozen=True)
class Here:
    """A place in this process that always gives the same source; a place is anything with `source()`."""

    shard: MemoryShard

    def source(self) -> MemoryShard:
        return self.shard


def topology(router: RangeRouter, shards: dict[Any, Any], timeout: float = 2.0) -> Topology:
    return Topology(timeout, router, {shard: Here(source) for shard, source in shards.items()})


def classic(**broken: BaseException) -> tuple[Topology, dict[int, Closing]]:
    """60 rows on three shards; `two=OSError()` breaks shard 2."""
    names = {1: "one", 2: "two", 3: "three"}
    shards = {
        shard: Closing([(i, f"n{i}") for low, high in ranges for i in range(low, high + 1)], error=broken.get(word))
        for (shard, ranges), word in zip(CLASSIC.prune().items(), names.values(), strict=True)
    }
    return topology(CLASSIC, shards), shards


def asked(shards: dict[int, Closing]) -> list[tuple[int, int]]:
    """The ranges requested from the shards since the last call."""
    ranges = sorted(pair for shard in shards.values() for ask in shard.asks for pair in ask.ranges)
    for shard in shards.values():
        shard.asks.clear()
    return ranges


@settings(quick, max_examples=25)
@given(scenes(small_routers() | huge_routers(), an_error()))
def test_dask_reads_what_a_reader_reads(scene: Scene):
    """For any router, rows, window and failures: the same rows and types, and gaps that make up the missing ranges."""
    low, high = scene.window
    places = topology(scene.router, scene._sources())
    rows, gaps = labkit.dask.read(places, low=low, high=high, missing="report")
    found, lost = dask.compute(rows, gaps, scheduler="synchronous")
    result = scene.read()
    pd.testing.assert_frame_equal(found.reset_index(), result.frame)
    assert join({None: tuple(zip(lost.index, lost["high"], strict=True))}, [None]) == result.missing
    assert [scene.router.locate(at) for at in lost.index] == lost["shard"].tolist()
    if result.complete:
        whole = labkit.dask.read(places, low=low, high=high).compute(scheduler="synchronous")
        pd.testing.assert_frame_equal(whole, found)


def test_divisions_are_the_routers():
    """One partition per range, even for a single ID or at the ends of int64; a window cuts the ranges at its ends."""
    router = RangeRouter({"a": [(INT64_MIN, -5), (7, 7)], "b": [(10, 20), (INT64_MAX, INT64_MAX)]})
    ids = {"a": [INT64_MIN, -5, 7], "b": [10, 20, INT64_MAX]}
    places = topology(router, {key: MemoryShard([(i, None) for i in ids[key]]) for key in ids})
    frame = labkit.dask.read(places)
    assert frame.divisions == router.divisions
    assert frame.npartitions == len(router.spans)
    assert frame.compute().index.tolist() == sorted(ids["a"] + ids["b"])
    assert frame.loc[INT64_MAX:].compute().index.tolist() == [INT64_MAX]
    assert labkit.dask.read(places, low=-9, high=15).divisions == (-9, 7, 10, 15)


def test_a_window_that_nobody_owns_is_empty():
    """No shard is queried, and the one empty partition has the usual types."""
    places, shards = classic()
    frame, (rows, gaps) = (
        labkit.dask.read(places, low=61, high=99),
        labkit.dask.read(places, low=61, missing="report"),
    )
    assert frame.divisions == (61, 99)
    pd.testing.assert_frame_equal(frame.compute(), labkit.dask.read(places).compute().iloc[:0])
    asked(shards)
    assert [len(one) for one in dask.compute(rows, gaps)] == [0, 0]
    assert asked(shards) == []


TOUCHED: dict[str, tuple[Callable[[Any], Any], list[int], list[tuple[int, int]]]] = {
    "slice": (lambda frame: frame.loc[8:13], [*range(8, 14)], [(1, 10), (11, 20)]),
    "open": (lambda frame: frame.loc[55:], [*range(55, 61)], [(51, 60)]),
    "one": (lambda frame: frame.loc[20], [20], [(11, 20)]),
    "list": (lambda frame: frame.loc[[5, 60]], [5, 60], [(1, 10), (51, 60)]),
    "beyond": (lambda frame: frame.loc[70:], [], [(51, 60)]),  # as documented: the range before
}


@pytest.mark.parametrize("missing", ["raise", "report"])
@pytest.mark.parametrize("name", TOUCHED)
def test_a_filter_on_the_index_asks_only_the_ranges_it_touches(name: str, missing: str):
    """No shard is queried before a compute; then exactly the ranges that the filter touches are."""
    narrow, ids, ranges = TOUCHED[name]
    places, shards = classic()
    read = labkit.dask.read(places, missing=missing)  # type: ignore[call-overload]
    frame = narrow(read if missing == "raise" else read[0])
    assert asked(shards) == []
    assert frame.compute().index.tolist() == ids
    assert asked(shards) == ranges


def test_a_window_asks_no_more_than_its_rows():
    """`low` and `high` cut the ranges, which a filter cannot do."""
    places, shards = classic()
    assert len(labkit.dask.read(places, low=8, high=13).compute()) == 6
    assert asked(shards) == [(8, 10), (11, 13)]


@pytest.mark.parametrize(
    "of_rows",
    [
        lambda rows: rows,
        lambda rows: rows.loc[8:13],
        lambda rows: rows["name"].str.len().sum(),
        lambda rows: rows.join(rows, rsuffix="_too"),
    ],
    ids=["all", "filtered", "reduced", "joined"],
)
def test_rows_and_gaps_are_of_one_read(of_rows: Callable[[Any], Any]):
    """However the rows are computed together with the gaps, each range is read once."""
    places, shards = classic(two=ConnectionRefusedError("refused"))
    rows, gaps = labkit.dask.read(places, missing="report")
    _, lost = dask.compute(of_rows(rows), gaps)
    assert asked(shards) == [(low, high) for low, high, _ in CLASSIC.spans]
    assert lost.reset_index().to_numpy().tolist() == [
        [11, 20, 2, "unreachable", "refused"],
        [41, 50, 2, "unreachable", "refused"],
    ]


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_failed_range_raises(scheduler: str):
    """By default compute raises with range, shard and cause; a shard is queried once, and other ranges work on."""
    places, shards = classic(three=ConnectionRefusedError("refused"))
    frame = labkit.dask.read(places)
    with pytest.raises(errors.IncompleteRead, match=r"missing: 21-30 \(shard 3 is unreachable: refused\)"):
        frame.loc[25:26].compute(scheduler=scheduler)
    assert asked(shards) == [(21, 30)]
    assert frame.loc[1:20].compute(scheduler=scheduler).index.tolist() == [*range(1, 21)]


def test_the_timeout_is_the_topologys_or_ones_own():
    """A silent shard is given up after the timeout, and is a gap like any other."""
    silent = Topology(30.0, RangeRouter({1: [(1, 2)]}), {1: Here(MemoryShard(delay=60.0))})
    _, gaps = labkit.dask.read(silent, timeout=0.01, missing="report")
    assert gaps.compute()["status"].tolist() == ["timeout"]


async def test_it_reads_where_a_loop_runs_and_leaves_nothing():
    """In a notebook's cell, on the synchronous scheduler: no thread is left, and every source is closed."""
    places, shards = classic()
    before = set(threading.enumerate())
    assert len(labkit.dask.read(places).compute(scheduler="synchronous")) == 60
    assert set(threading.enumerate()) <= before
    assert [shard.closed for shard in shards.values()] == [3, 3, 3]  # once after it has said its columns


async def test_it_reads_what_a_reader_of_the_same_shards_does():
    """NULL, empty and awkward names are the same in both, and of the same type."""
    rows = [(1, None), (2, ""), (3, "žluťoučký 🐎\n数据"), (4, "same"), (5, "same")]
    router, shards = RangeRouter({1: [(1, 9)]}), {1: MemoryShard(rows)}
    expected = (await ShardReader(router, shards).read()).frame
    found = labkit.dask.read(topology(router, shards)).compute().reset_index()
    pd.testing.assert_frame_equal(found, expected)


def test_each_call_is_a_read_of_its_own():
    """Dask shares results between equal names; names differ between two calls, and agree within one."""
    places, _ = classic()
    one, other = labkit.dask.read(places), labkit.dask.read(places)
    assert one.loc[1:5]._name == one.loc[1:5]._name
    assert set(one.__dask_graph__()).isdisjoint(other.__dask_graph__())


def test_keys_of_shards_keep_their_type():
    """The gaps name a shard as the router does: by an integer, text, or any other key."""
    for keys, kind in (([1, 2], "int64"), (["a", "b"], pd.Series(["a"]).dtype), ([1, ("b", 2)], "object")):
        router = RangeRouter({key: [(at, at)] for at, key in enumerate(keys)})
        places = topology(router, {key: MemoryShard(error=OSError("broken")) for key in keys})
        _, gaps = labkit.dask.read(places, missing="report")
        lost = gaps.compute()
        assert lost["shard"].tolist() == keys
        assert lost["shard"].dtype == gaps["shard"].dtype == kind


@pytest.mark.parametrize("missing", ["raise", "report"])
def test_passwords_travel_and_are_not_shown(tmp_path: Path, missing: str):
    """The caller reads the file once. The URL is in the pickled tasks, but in no name, `repr` or error."""
    file = tmp_path / "topology.toml"
    file.write_text(FILE)
    with pytest.raises(errors.LabkitError, match="no shard says which columns the table has: pass schema=") as unsaid:
        labkit.dask.read(file)
    assert SECRET not in str(unsaid.value)
    read = labkit.dask.read(file, schema=SCHEMA, missing=missing)  # type: ignore[call-overload]
    file.unlink()
    graph = dict((read if missing == "raise" else read[1]).__dask_graph__())
    assert SECRET in str(pickle.dumps(graph))
    assert SECRET not in repr(graph) + repr(read) + "".join(map(repr, graph.values()))
    if missing == "raise":
        with pytest.raises(errors.IncompleteRead) as raised:
            read.compute()
        again = pickle.loads(pickle.dumps(raised.value))
        assert str(again) == str(raised.value)
        assert SECRET not in str(pickle.dumps(raised.value))
    else:
        assert SECRET not in read[1].compute().to_string()


WRONG: dict[str, tuple[Callable[[Topology], Any], str]] = {
    "missing": (lambda places: labkit.dask.read(places, missing="hide"), "'raise' or 'report', not 'hide'"),
    "timeout": (lambda places: labkit.dask.read(places, timeout=0), "timeout must be a positive number"),
    "window": (lambda places: labkit.dask.read(places, low=9, high=1), "low=9, high=1; swap them"),
    "kind": (lambda places: labkit.dask.read(3), "a running Lab, not a value of type int"),
    "lab": (lambda places: labkit.dask.read(Lab("redis")), "not running: await lab.start"),
    "file": (lambda places: labkit.dask.read("/nowhere.toml"), "no such file"),
    "place": (lambda places: labkit.dask.read(Topology(2.0, CLASSIC, {})), "shard 1 has ranges but no place"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_a_usage_error(name: str):
    """The error is raised before any task is made, in one line that names the value and the fix."""
    call, words = WRONG[name]
    with pytest.raises(errors.UsageError, match=words):
        call(classic()[0])


def test_without_dask_there_is_one_clear_error():
    """Importing labkit.dask without Dask raises a single error that says what to install."""
    code = "import sys; sys.modules['dask'] = None; import labkit.dask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=os.environ)
    assert done.stderr.count("Traceback") == 1
    words = "the extra 'dask' is not installed (no dask): pip install 'sharded-read-lab[dask]'"
    assert done.stderr.splitlines()[-1] == f"labkit.errors.MissingExtra: {words}"


def test_a_place_is_written_into_tasks_without_its_neighbours():
    """A task holds only the shard it reads, so that it stays small."""
    places = Topology(
        2.0,
        RangeRouter({1: [(1, 1)], 2: [(2, 2)]}),
        {1: ShardPlace("redis://h/1", "a"), 2: ShardPlace("redis://h/2", "b")},
    )
    graph = dict(labkit.dask.read(places).__dask_graph__())
    assert sorted(pickle.dumps(task).count(b"redis://") for task in graph.values()) == [1, 1]
