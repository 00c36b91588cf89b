"""What a task makes of its part: the rows and the gaps as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from labkit.dask.part import Part
from labkit.result import ReadResult
from labkit.tables import SCHEMA, to_frame

__all__ = ["no_gaps", "no_rows", "read_both", "read_rows"]

TEXT = to_frame(SCHEMA.empty_table())["name"].dtype


def no_rows(schema: pa.Schema) -> pd.DataFrame:
    """An empty partition of rows, with the columns and types of all."""
    return to_frame(schema.empty_table()).set_index(schema.names[0])


def no_gaps(shards: Sequence[Any]) -> pd.DataFrame:
    """An empty partition of gaps, with the columns and types of all; `shards` are the keys of the shards."""
    columns = {
        "high": pd.Series([], dtype="int64"),
        "shard": pd.Series(list(shards)).iloc[:0],
        "status": pd.Series([], dtype=TEXT),
        "cause": pd.Series([], dtype=TEXT),
    }
    return pd.DataFrame(columns).set_index(pd.Index([], dtype="int64", name="low"))


def read_rows(part: Part | None, empty: pd.DataFrame) -> pd.DataFrame:
    """The rows of the part, `empty` if it is None; `IncompleteRead` if its shard fails."""
    return empty if part is None else _rows(part.read().raise_for_missing())


def read_both(part: Part | None, empty: pd.DataFrame, none: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the part and its gaps from one read; `empty` and `none` stand for no rows and no gaps."""
    if part is None:
        return empty, none
    result = part.read()
    return _rows(result), _gaps(result, none)


def _rows(result: ReadResult) -> pd.DataFrame:
    return result.frame.set_index(result.table.schema.names[0])


def _gaps(result: ReadResult, none: pd.DataFrame) -> pd.DataFrame:
    if result.complete:
        return none
    (report,) = result.reports.values()
    rows = [(low, high, report.shard, report.status.value, report.error) for low, high in result.missing]
    return pd.DataFrame(rows, columns=["low", *none.columns]).astype(none.dtypes.to_dict()).set_index("low")
