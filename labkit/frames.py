"""Tables and DataFrames: the one place that knows how pandas wants its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_frame"]


def to_frame(table: pa.Table) -> pd.DataFrame:
    """`table` (id, name) as a DataFrame: id int64, name str with missing values as NA, RangeIndex.

    Names are not copied: the frame has them where the table has them.
    """
    import numpy as np
    import pandas as pd

    row_ids, names = table.columns
    ids = row_ids.to_numpy()
    if not ids.flags.writeable:  # one chunk, and the table's own: who changes the frame is not to change that
        ids = ids.copy()
    text: Any = pd.StringDtype("pyarrow", na_value=np.nan)
    return pd.DataFrame({"id": ids, "name": text.__from_arrow__(names)}, copy=False)
