"""The truth of a lab: the rows that its shards hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from labkit._types import INT64_MAX, INT64_MIN, ShardKey
from labkit.answer import check
from labkit.errors import UsageError
from labkit.router import RangeRouter
from labkit.tables import SCHEMA, InvalidAnswer, to_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Rows", "by_shard", "foreign", "one_row", "truth", "with_row", "without_row"]

Rows: TypeAlias = "pd.DataFrame | Mapping[int, str | None] | Iterable[tuple[int, str | None]]"
FOREIGN = 100
"""Ranges that are searched for IDs of other shards."""
MOST = 10_000_000
"""Maximum rows made up for `rows=None`; a router may own far more IDs than a lab should hold rows."""


def truth(router: RangeRouter, rows: Rows | None) -> pd.DataFrame:
    """`rows` as a DataFrame (id, name), ascending; `rows=None` is one row "Test <id>" for every ID owned.

    Raises `UsageError` for rows that no correct shard could hold: repeated, unowned or non-integer IDs,
    names that are not text.
    """
    if rows is None:
        pairs = _one_per_owned_id(router)
    elif hasattr(rows, "itertuples"):
        pairs = _of_frame(rows)
    else:
        pairs = _of_pairs(rows)
    try:
        pairs.sort(key=lambda pair: pair[0])
        table = check(pairs, ((INT64_MIN, INT64_MAX),)) if pairs else SCHEMA.empty_table()
    except (InvalidAnswer, TypeError, IndexError) as error:
        raise UsageError(f"rows of a lab are (id, name) pairs with unique integer ids: {error}") from None
    frame = to_frame(table)
    unowned = frame["id"].to_numpy()[router.locate_many(frame["id"].to_numpy()) < 0]
    if unowned.size:
        raise UsageError(f"no shard owns id {unowned[0]}: widen the router's ranges or leave the row out")
    return frame


def by_shard(router: RangeRouter, frame: pd.DataFrame) -> dict[ShardKey, list[tuple[int, str | None]]]:
    """The rows of each shard as (id, name) pairs, ascending by id."""
    owner = router.locate_many(frame["id"].to_numpy())
    return {shard: _of_frame(frame[owner == i]) for i, shard in enumerate(router.shards)}


def one_row(row_id: int, name: str | None) -> pd.DataFrame:
    """A row to write; `UsageError` for a name that is not text."""
    try:
        return to_frame(check([(row_id, name)], ((row_id, row_id),)))
    except InvalidAnswer:
        raise UsageError(f"the name of a row must be text or None, not {name!r}") from None


def with_row(frame: pd.DataFrame, row: pd.DataFrame) -> pd.DataFrame:
    """The truth after a row was written."""
    row_id = row["id"].iloc[0]
    return _concat([frame[frame["id"] < row_id], row, frame[frame["id"] > row_id]])


def without_row(frame: pd.DataFrame, row_id: int) -> pd.DataFrame:
    """The truth after a row was deleted."""
    return frame[frame["id"] != row_id].reset_index(drop=True)


def foreign(router: RangeRouter, shard: ShardKey) -> list[int]:
    """Some IDs that the shard does not own, ascending: bounds of the others' ranges, else an ID that no shard owns."""
    others = [i for low, high, owner in router.spans[:FOREIGN] if owner != shard for i in (low, high)]
    low, high = router.spans[0][0], router.spans[-1][1]
    return sorted(set(others)) or ([high + 1] if high < INT64_MAX else [low - 1])


def _concat(frames: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def _one_per_owned_id(router: RangeRouter) -> list[tuple[Any, ...]]:
    if router.count > MOST:
        raise UsageError(f"the router owns {router.count:,} IDs, more than the {MOST:,} rows made up: pass rows=")
    return [(i, f"Test {i}") for low, high, _ in router.spans for i in range(low, high + 1)]


def _of_pairs(rows: Any) -> list[tuple[Any, ...]]:
    try:
        return list(rows.items()) if isinstance(rows, Mapping) else [tuple(row) for row in rows]
    except TypeError:
        raise UsageError(f"rows of a lab are (id, name) pairs, not {rows!r}") from None


def _of_frame(frame: Any) -> list[tuple[Any, ...]]:
    import pandas as pd

    try:
        ids, names = frame["id"].tolist(), frame["name"].tolist()
    except KeyError as error:
        raise UsageError(f"rows of a lab need the columns id and name: {error} is missing") from None
    return [
        (i, None if name is None or name is pd.NA or name != name else name) for i, name in zip(ids, names, strict=True)
    ]
