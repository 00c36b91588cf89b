"""A stranger's table: orders of six columns, a row for each ID that the classic router owns."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pandas as pd
import pyarrow as pa

from labkit import CLASSIC, Lab

__all__ = ["IDS", "NOON", "held_by", "orders"]

NOON = dt.datetime(2024, 2, 29, 12, 0, 0, 1, dt.UTC)
IDS = [row_id for low, high, _ in CLASSIC.spans for row_id in range(low, high + 1)]


def orders() -> pd.DataFrame:
    """The six columns of a stranger, as pandas has them."""
    return pd.DataFrame(
        {
            "order_id": IDS,
            "customer_id": [row_id % 7 for row_id in IDS],
            "amount": [None if row_id % 9 == 0 else Decimal(row_id * 999) / 100 for row_id in IDS],
            "created_at": [NOON + dt.timedelta(hours=row_id) for row_id in IDS],
            "note": [None if row_id % 5 == 0 else f"order {row_id}" for row_id in IDS],
            "tags": [json.dumps({"row": row_id}) for row_id in IDS],
        }
    )


def held_by(lab: Lab, *shards: int) -> pa.Table:
    """The truth of these shards, the others without rows."""
    owners = [lab.router.locate(row_id) in shards for row_id in lab.rows["order_id"]]
    return lab._truth.filter(pa.array(owners))
