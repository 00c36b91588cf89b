"""Tables and DataFrames: the one place that knows how pandas wants its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from labkit.answer import id_chunks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_frame"]


def to_frame(table: pa.Table) -> pd.DataFrame:
    """`table` (id, name) as a DataFrame: id int64, name str with missing values as NA, RangeIndex.

    Names are not copied: the frame has them where the table has them.
    """
    import numpy as np
    import pandas as pd

    # A copy, of one chunk too: who changes the frame is not to change the table.
    ids = np.concatenate([np.empty(0, np.int64), *id_chunks(table)])
    text: Any = pd.StringDtype("pyarrow", na_value=np.nan)
    return pd.DataFrame({"id": ids, "name": text.__from_arrow__(table.column(1))}, copy=False)
