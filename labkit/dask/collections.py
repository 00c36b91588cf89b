"""`read`: the parts of a table as Dask's collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import dask
import dask.dataframe as dd
from dask.delayed import delayed

from labkit._checks import positive_seconds
from labkit.dask.frames import NO_ROWS, no_gaps, read_both, read_rows
from labkit.dask.part import Part, parts_of
from labkit.dask.places import Places, topology_of
from labkit.errors import UsageError
from labkit.router import as_window

__all__ = ["read"]

MISSING = ("raise", "report")


@overload
def read(
    topology: Places,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    missing: Literal["raise"] = "raise",
) -> dd.DataFrame: ...


@overload
def read(
    topology: Places,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    missing: Literal["report"],
) -> tuple[dd.DataFrame, dd.DataFrame]: ...


def read(
    topology: Places,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    missing: str = "raise",
) -> dd.DataFrame | tuple[dd.DataFrame, dd.DataFrame]:
    """Rows with low <= id <= high (None = open end) as a Dask DataFrame: index `id` (int64), column `name` (str).

    `topology` is the path of a topology file, a `labkit.topology.Topology`, or a `Lab` that runs. The file is read
    here and now, and need not be where the workers are; the URLs of shards travel with the tasks, and are in no name,
    `repr` or error. Workers need labkit and a way to the shards.

    There is one partition a range of the router, so the divisions are known: the starts of the ranges, and the last
    end. Nothing is dialled until something is computed. Each task then dials its one shard, reads its one range, and
    hangs up, in `timeout` seconds (None: the topology's). Every computation reads anew: `persist()` what is used
    twice. Two calls never share tasks, so no call is given what an earlier one kept.

    A filter by `.loc` on the index asks only the ranges it touches, each of them whole, while `low` and `high` cut
    them. Dask knows where ranges start and not where they end: a `.loc` that begins or ends between two ranges also
    asks the one before. A comparison (`frame[frame["name"] == "x"]`) asks all.

    What becomes of a range whose shard fails is for `missing` to say:

    - "raise": computing raises `IncompleteRead`, with the range, the shard and the cause. It is the first range that
      failed, others may have. Dask does not try again unless it is told to (`retries`).
    - "report": the result is a pair of DataFrames, rows and gaps. Computing raises nothing for a failed shard; its
      rows are not there, and gaps has a row for each range that is missing: index `low`, columns `high`, `shard`,
      `status`, `cause`. The same tasks make both, so compute both at once, `dask.compute(rows, gaps)`, and each
      range is read once and the two agree. Computed one by one they are two reads, and what fails may differ;
      they are too for a range whose worker was lost halfway, since Dask then does its tasks again.

    Raises `UsageError` (a ValueError) for an argument that cannot be meant, `RangeError` where low > high,
    `TopologyError` for a file that is not right.
    """
    if missing not in MISSING:
        raise UsageError(f"missing must be 'raise' or 'report', not {missing!r}")
    places = topology_of(topology)
    window = as_window(low, high)
    seconds = places.timeout if timeout is None else positive_seconds(timeout)
    parts = list(parts_of(places, *window, seconds))
    divisions = (*(part.low for part in parts), parts[-1].high) if parts else window
    work: Sequence[Part | None] = parts or [None]  # no collection is without a partition
    if missing == "raise":
        return _rows(work, divisions)
    return _rows_and_gaps(work, divisions, places.router.shards)


def _rows(work: Sequence[Part | None], divisions: tuple[int, ...]) -> dd.DataFrame:
    # The names are text as everywhere in labkit; Dask would turn them into text of another kind.
    with dask.config.set({"dataframe.convert-string": False}):
        frame: dd.DataFrame = dd.from_map(  # type: ignore[no-untyped-call]
            read_rows, work, meta=NO_ROWS, divisions=divisions, label="labkit-read"
        )
    return frame


def _rows_and_gaps(
    work: Sequence[Part | None], divisions: tuple[int, ...], shards: tuple[Any, ...]
) -> tuple[dd.DataFrame, dd.DataFrame]:
    """Delayed, since their keys stay as they are whatever is computed of either: so a range is read once."""
    none = no_gaps(shards)
    both = delayed(read_both, pure=False, nout=2)
    rows, gaps = zip(*(both(part, none) for part in work), strict=True)
    with dask.config.set({"dataframe.convert-string": False}):
        return (
            dd.from_delayed(rows, meta=NO_ROWS, divisions=divisions, prefix="labkit-rows"),
            dd.from_delayed(gaps, meta=none, divisions=divisions, prefix="labkit-gaps"),
        )
