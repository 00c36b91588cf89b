"""The difference between two results of the same window, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labkit._types import Ranges
from labkit.answer import inside
from labkit.router import to_bounds
from labkit.tables import is_same, to_ids, to_json

__all__ = ["Delta", "difference"]


@dataclass(frozen=True, eq=False)
class Delta:
    """The steps from an earlier result to a later one: take `removed` and `lost` out of the earlier rows, put `added`
    and `changed` in, and you have exactly the later rows.
    """

    added: pa.Table
    """Rows that the earlier result does not have: they are new, or were in one of its gaps."""
    changed: pa.Table
    """Rows of which some value changed, as they are now."""
    removed: tuple[int, ...]
    """IDs of rows that no longer exist."""
    lost: tuple[int, ...]
    """IDs of rows about which nothing is known any more: their range is missing from the later result."""

    def __bool__(self) -> bool:
        """True if any row differs."""
        return bool(self.added.num_rows or self.changed.num_rows or self.removed or self.lost)

    def to_dict(self) -> dict[str, Any]:
        """The delta in JSON types."""
        return {
            "added": to_json(self.added),
            "changed": to_json(self.changed),
            "removed": list(self.removed),
            "lost": list(self.lost),
        }

    def __repr__(self) -> str:
        counts = (self.added.num_rows, self.changed.num_rows, len(self.removed), len(self.lost))
        return "<Delta: {} added, {} changed, {} removed, {} lost>".format(*counts)


def difference(before: pa.Table, after: pa.Table, missing: Ranges) -> Delta:
    """The steps from `before` to `after` (checked tables, ascending by id); `missing` are the gaps of `after`."""
    old, new = to_ids(before), to_ids(after)
    known, stayed = _among(new, old), _among(old, new)
    here, there = np.flatnonzero(known), np.flatnonzero(stayed)
    same = _is_same(before, there, after, here)
    gone = old[~stayed]
    unknown = inside(gone, to_bounds(missing))
    return Delta(
        added=after.take(np.flatnonzero(~known)),
        changed=after.take(here[~same]),
        removed=tuple(gone[~unknown].tolist()),
        lost=tuple(gone[unknown].tolist()),
    )


def _among(ids: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of `ids` are in `others`, both ascending: without the sort of numpy's `isin`."""
    return inside(ids, np.column_stack([others, others]))


def _is_same(
    before: pa.Table, there: npt.NDArray[np.int64], after: pa.Table, here: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Which of the rows at `there` and `here`, with equal IDs, are equal; none, if the tables' columns differ."""
    same = np.full(len(here), before.schema.equals(after.schema))
    for old, new in zip(before.columns[1:], after.columns[1:], strict=False):
        if same.any():
            same &= is_same(old.take(there), new.take(here))
    return same
