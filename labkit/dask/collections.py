"""`read`: a table as Dask DataFrames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
from dask.delayed import delayed

from labkit._checks import positive_seconds
from labkit.dask.frames import no_gaps, no_rows, read_both, read_rows
from labkit.dask.part import Part, parts_of
from labkit.dask.table import wanted_of
from labkit.errors import UsageError
from labkit.router import as_window
from labkit.topology import Located, Topology, load

__all__ = ["read"]

MISSING = ("raise", "report")


TopologyLike: TypeAlias = "str | os.PathLike[str] | Topology | Located"


@overload
def read(
    topology: TopologyLike,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    columns: Sequence[str] | None = None,
    filters: Sequence[Any] | None = None,
    schema: pa.Schema | None = None,
    missing: Literal["raise"] = "raise",
) -> dd.DataFrame: ...


@overload
def read(
    topology: TopologyLike,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    columns: Sequence[str] | None = None,
    filters: Sequence[Any] | None = None,
    schema: pa.Schema | None = None,
    missing: Literal["report"],
) -> tuple[dd.DataFrame, dd.DataFrame]: ...


def read(
    topology: TopologyLike,
    *,
    low: int | None = None,
    high: int | None = None,
    timeout: float | None = None,
    columns: Sequence[str] | None = None,
    filters: Sequence[Any] | None = None,
    schema: pa.Schema | None = None,
    missing: str = "raise",
) -> dd.DataFrame | tuple[dd.DataFrame, dd.DataFrame]:
    """Rows with low <= key <= high (None = open end) as a Dask DataFrame: the key is the index (int64), and all other
    columns, or those of `columns`, have the types of `labkit.tables.to_frame`. `filters` are those of
    `ShardReader.read`.

    `topology` is the path of a topology file, a `labkit.topology.Topology`, or a running `Lab`. The file is read during
    this call, and workers do not need it; shard URLs are sent with the tasks, and appear in no name, `repr` or error.
    Workers need labkit and network access to the shards.

    There is one partition per range of the router, so the divisions are known: the starts of the ranges, and the last
    end. This call asks every shard for its columns, at once and within `timeout` seconds: those of most shards hold,
    and a range of a shard with others fails when it is read. If `schema` says them, the key first, no connection is
    made until something is computed. Each task then connects to its shard, reads its range, and disconnects, within
    `timeout` seconds (None: the topology's). Every computation reads again: `persist()` what you
    use twice. Two calls never share tasks, so no call gets a cached result of an earlier one.

    A filter by `.loc` on the index reads only the ranges it touches, each of them whole, while `low` and `high` cut
    them. Dask knows where ranges start but not where they end: a `.loc` that begins or ends between two ranges also
    reads the range before. A comparison (`frame[frame["name"] == "x"]`) reads all; `filters` are left to the servers.

    `missing` decides what happens to a range whose shard fails:

    - "raise": computing raises `IncompleteRead` with the range, the shard and the cause of the first failure; there may
      be others. Dask does not retry unless told to (`retries`).
    - "report": the result is a pair of DataFrames, rows and gaps. Computing raises nothing for a failed shard; its rows
      are left out, and gaps has one row per missing range: index `low`, columns `high`, `shard`, `status`, `cause`.
      The same tasks make both, so compute both at once, `dask.compute(rows, gaps)`: each range is read once, and the
      two agree. Computed separately they are two reads, and different ranges may fail; the same holds for a range
      whose worker is lost halfway, since Dask then runs its tasks again.

    Raises `UsageError` (a ValueError) for an invalid argument, such as a column that is not there, `RangeError` if
    low > high, `TopologyError` for an invalid file, `LabkitError` if no shard says which columns there are.
    """
    if missing not in MISSING:
        raise UsageError(f"missing must be 'raise' or 'report', not {missing!r}")
    found = topology_of(topology)
    window = as_window(low, high)
    seconds = found.timeout if timeout is None else positive_seconds(timeout)
    wanted = wanted_of(found, seconds, columns, filters, schema)
    parts = list(parts_of(found, *window, seconds, wanted))
    divisions = (*(part.low for part in parts), parts[-1].high) if parts else window
    work: Sequence[Part | None] = parts or [None]  # a collection needs at least one partition
    empty = no_rows(wanted.schema)
    if missing == "raise":
        return _rows(work, divisions, empty)
    return _rows_and_gaps(work, divisions, empty, no_gaps(found.router.shards))


def _rows(work: Sequence[Part | None], divisions: tuple[int, ...], empty: pd.DataFrame) -> dd.DataFrame:
    # Keep the string type that labkit uses everywhere; Dask would convert it to another one.
    with dask.config.set({"dataframe.convert-string": False}):
        frame: dd.DataFrame = dd.from_map(  # type: ignore[no-untyped-call]
            read_rows, work, empty=empty, meta=empty, divisions=divisions, label="labkit-read"
        )
    return frame


def _rows_and_gaps(
    work: Sequence[Part | None], divisions: tuple[int, ...], empty: pd.DataFrame, none: pd.DataFrame
) -> tuple[dd.DataFrame, dd.DataFrame]:
    """Built from Delayed objects, whose keys do not depend on what is computed, so that each range is read once."""
    both = delayed(read_both, pure=False, nout=2)
    rows, gaps = zip(*(both(part, empty, none) for part in work), strict=True)
    with dask.config.set({"dataframe.convert-string": False}):
        return (
            dd.from_delayed(rows, meta=empty, divisions=divisions, prefix="labkit-rows"),
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
    return Topology.of(given)
