"""`read`: a table as Dask DataFrames."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, overload, runtime_checkable

import dask
import dask.dataframe as dd
from dask.delayed import delayed

from labkit._checks import positive_seconds
from labkit.dask.frames import NO_ROWS, no_gaps, read_both, read_rows
from labkit.dask.part import Part, parts_of
from labkit.errors import UsageError
from labkit.router import RangeRouter, as_window
from labkit.topology import ShardPlace, Topology, load

__all__ = ["read"]

MISSING = ("raise", "report")


@runtime_checkable
class Located(Protocol):
    """An object that knows where its shards are, as a `labkit.Lab` does."""

    router: RangeRouter
    timeout: float
    tables: dict[Any, str]

    @property
    def source_urls(self) -> Mapping[Any, str]:
        """The URL of each shard, as a topology file has it; empty if the lab is not running."""


TopologyLike: TypeAlias = "str | os.PathLike[str] | Topology | Located"


@overload
def read(
    topology: TopologyLike,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    missing: Literal["raise"] = "raise",
) -> dd.DataFrame: ...


@overload
def read(
    topology: TopologyLike,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    missing: Literal["report"],
) -> tuple[dd.DataFrame, dd.DataFrame]: ...


def read(
    topology: TopologyLike,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    missing: str = "raise",
) -> dd.DataFrame | tuple[dd.DataFrame, dd.DataFrame]:
    """Rows with low <= id <= high (None = open end) as a Dask DataFrame: index `id` (int64), column `name` (str).

    `topology` is the path of a topology file, a `labkit.topology.Topology`, or a running `Lab`. The file is read during
    this call, and workers do not need it; shard URLs are sent with the tasks, and appear in no name, `repr` or error.
    Workers need labkit and network access to the shards.

    There is one partition per range of the router, so the divisions are known: the starts of the ranges, and the last
    end. No connection is made until something is computed. Each task then connects to its shard, reads its range, and
    disconnects, within `timeout` seconds (None: the topology's). Every computation reads again: `persist()` what you
    use twice. Two calls never share tasks, so no call gets a cached result of an earlier one.

    A filter by `.loc` on the index reads only the ranges it touches, each of them whole, while `low` and `high` cut
    them. Dask knows where ranges start but not where they end: a `.loc` that begins or ends between two ranges also
    reads the range before. A comparison (`frame[frame["name"] == "x"]`) reads all.

    `missing` decides what happens to a range whose shard fails:

    - "raise": computing raises `IncompleteRead` with the range, the shard and the cause of the first failure; there may
      be others. Dask does not retry unless told to (`retries`).
    - "report": the result is a pair of DataFrames, rows and gaps. Computing raises nothing for a failed shard; its rows
      are left out, and gaps has one row per missing range: index `low`, columns `high`, `shard`, `status`, `cause`.
      The same tasks make both, so compute both at once, `dask.compute(rows, gaps)`: each range is read once, and the
      two agree. Computed separately they are two reads, and different ranges may fail; the same holds for a range
      whose worker is lost halfway, since Dask then runs its tasks again.

    Raises `UsageError` (a ValueError) for an invalid argument, `RangeError` if low > high, `TopologyError` for an
    invalid file.
    """
    if missing not in MISSING:
        raise UsageError(f"missing must be 'raise' or 'report', not {missing!r}")
    found = topology_of(topology)
    window = as_window(low, high)
    seconds = found.timeout if timeout is None else positive_seconds(timeout)
    parts = list(parts_of(found, *window, seconds))
    divisions = (*(part.low for part in parts), parts[-1].high) if parts else window
    work: Sequence[Part | None] = parts or [None]  # a collection needs at least one partition
    if missing == "raise":
        return _rows(work, divisions)
    return _rows_and_gaps(work, divisions, found.router.shards)


def _rows(work: Sequence[Part | None], divisions: tuple[int, ...]) -> dd.DataFrame:
    # Keep the string type that labkit uses everywhere; Dask would convert it to another one.
    with dask.config.set({"dataframe.convert-string": False}):
        frame: dd.DataFrame = dd.from_map(  # type: ignore[no-untyped-call]
            read_rows, work, meta=NO_ROWS, divisions=divisions, label="labkit-read"
        )
    return frame


def _rows_and_gaps(
    work: Sequence[Part | None], divisions: tuple[int, ...], shards: tuple[Any, ...]
) -> tuple[dd.DataFrame, dd.DataFrame]:
    """Built from Delayed objects, whose keys do not depend on what is computed, so that each range is read once."""
    none = no_gaps(shards)
    both = delayed(read_both, pure=False, nout=2)
    rows, gaps = zip(*(both(part, none) for part in work), strict=True)
    with dask.config.set({"dataframe.convert-string": False}):
        return (
            dd.from_delayed(rows, meta=NO_ROWS, divisions=divisions, prefix="labkit-rows"),
            dd.from_delayed(gaps, meta=none, divisions=divisions, prefix="labkit-gaps"),
        )


def topology_of(given: object) -> Topology:
    """The topology of a file, a Topology or a lab. `TopologyError` for an invalid file, `UsageError` for a lab that is
    not running, and for anything else.
    """
    if isinstance(given, Topology):
        return given
    if isinstance(given, str | os.PathLike):
        return load(given)
    if not isinstance(given, Located):
        kind = type(given).__name__  # not its repr, which may hold a password
        raise UsageError(f"topology must be a file's path, a Topology or a running Lab, not a value of type {kind}")
    urls = given.source_urls
    if not urls:
        raise UsageError("this lab is not running: await lab.start() first")
    places = {shard: ShardPlace(url, given.tables[shard]) for shard, url in urls.items()}
    return Topology(given.timeout, given.router, places)
