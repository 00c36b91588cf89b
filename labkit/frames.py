"""Tables and DataFrames: the one place that knows how pandas wants its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_frame"]


def to_frame(table: pa.Table) -> pd.DataFrame:
    """`table` (id, name) as a DataFrame: id int64, name str with missing values as NA, RangeIndex."""
    import pandas as pd

    frame: pd.DataFrame = table.to_pandas()
    return frame.astype({"id": "int64", "name": pd.StringDtype(na_value=float("nan"))})
