"""The rows that servers are loaded with, and the proof that an answer has exactly these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["SHARDS", "WIDE", "Proof", "expected", "name_of", "of_frame", "of_table", "spans"]

SHARDS = 3
START = 1_767_225_600
"""2026-01-01 in UTC, in seconds since 1970."""
SAMPLE = 1000
"""The number of rows in an answer whose text is compared one by one."""


WIDE = ("order_id", "pieces", "ratio", "amount", "created_at", "late", "customer", "note")
"""The columns of a wide table."""


@dataclass(frozen=True)
class Proof:
    """A digest of an answer that equals `expected(rows)` if the answer is right. None marks what cannot be known."""

    rows: int
    ascending: bool | None
    ids: int | None
    """The sum of all IDs."""
    text: int | None
    """Characters in all names."""

    def is_of(self, rows: int) -> bool:
        """Whether everything known matches the right answer."""
        right = expected(rows)
        pairs = zip((self.rows, self.ascending, self.ids, self.text), vars(right).values(), strict=True)
        return all(seen is None or seen == wanted for seen, wanted in pairs)


def expected(rows: int) -> Proof:
    """The proof of IDs 1 to `rows` with the names "Test 1" to "Test <rows>"."""
    digits = sum(max(0, rows - 10**power + 1) for power in range(len(str(rows))))
    return Proof(rows, True, rows * (rows + 1) // 2, len("Test ") * rows + digits)


def name_of(row_id: int) -> str:
    return f"Test {row_id}"


def spans(rows: int, shards: int = SHARDS) -> dict[int, list[tuple[int, int]]]:
    """The ranges of `CLASSIC` scaled to `rows`: two per shard, with the shards in turn.

    >>> spans(60)
    {1: [(1, 10), (31, 40)], 2: [(11, 20), (41, 50)], 3: [(21, 30), (51, 60)]}
    """
    count = 2 * shards
    edges = [rows * i // count for i in range(count + 1)]
    pieces = [(edges[i] + 1, edges[i + 1]) for i in range(count)]
    return {shard: [pieces[shard - 1], pieces[shard - 1 + shards]] for shard in range(1, shards + 1)}


def of_frame(frame: Any) -> Proof:
    """The proof of a DataFrame; raises ValueError if it is not one, or if names are not text or a value is wrong."""
    import pandas as pd

    if isinstance(frame, pd.DataFrame) and list(frame.columns) == list(WIDE):
        return _of_wide_frame(frame)
    if not isinstance(frame, pd.DataFrame) or list(frame.columns) != ["id", "name"]:
        raise ValueError(f"not a DataFrame of id and name: {type(frame).__name__}")
    if not pd.api.types.is_string_dtype(frame["name"]):
        raise ValueError(f"names are {frame['name'].dtype}, not text")
    few = frame.iloc[:: max(1, len(frame) // SAMPLE)]
    for row_id, name in zip(few["id"].tolist(), few["name"].tolist(), strict=True):
        if name != name_of(row_id):
            raise ValueError(f"id {row_id} has the name {name!r}")
    ids = frame["id"].astype("int64")
    ascending = bool(ids.is_monotonic_increasing and ids.is_unique)
    return Proof(len(frame), ascending, int(ids.sum()), int(frame["name"].str.len().sum()))


def _of_wide_frame(frame: Any) -> Proof:
    """Likewise of all columns; some contestants have decimals as floats or text, which is their affair."""
    import pandas as pd

    few = frame.iloc[:: max(1, len(frame) // SAMPLE)]
    for order_id, pieces, ratio, amount, created_at, late, customer, note in few.itertuples(index=False):
        seen = (pieces, float(ratio), float(amount), pd.Timestamp(created_at).timestamp(), bool(late), customer, note)
        wanted = _wide_row(order_id)
        same = seen[:-1] == wanted[:-1] and (pd.isna(note) if wanted[-1] is None else note == wanted[-1])
        if not same:
            raise ValueError(f"order {order_id} is {seen}, not {wanted}")
    ids = frame[WIDE[0]].astype("int64")
    ascending = bool(ids.is_monotonic_increasing and ids.is_unique)
    return Proof(len(frame), ascending, int(ids.sum()), int(frame["customer"].str.len().sum()))


def _wide_row(number: int) -> tuple[Any, ...]:
    """What `loading.load_wide` writes for an ID, without it; the time in seconds since 1970."""
    note = None if number % 3 == 0 else f"note {number}"
    amount = number * 37 % 1_000_000 / 100
    return number % 1000, number / 3, amount, START + number, number % 2 == 0, name_of(number), note


def of_table(table: Any) -> Proof:
    """The proof of an Arrow table or record batch."""
    return of_frame(table.to_pandas())
