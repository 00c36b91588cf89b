"""The difference between two results of the same window, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labkit._types import Ranges
from labkit.answer import inside
from labkit.router import to_bounds
from labkit.tables import to_ids

__all__ = ["Delta", "difference"]


@dataclass(frozen=True, eq=False)
class Delta:
    """The steps from an earlier result to a later one: take `removed` and `lost` out of the earlier rows, put `added`
    and `changed` in, and you have exactly the later rows.
    """

    added: pa.Table
    """Rows that the earlier result does not have: they are new, or were in one of its gaps."""
    changed: pa.Table
    """Rows whose name changed, as they are now."""
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
            "added": self.added.to_pylist(),
            "changed": self.changed.to_pylist(),
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
    same = _same(before.column(1).take(there), after.column(1).take(here))
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


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where two columns are equal; NULL equals NULL."""
    equal = pc.fill_null(pc.equal(left, right), False)
    both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    same: np.ndarray[Any, np.dtype[np.bool_]] = pc.or_(equal, both_null).to_numpy(zero_copy_only=False)
    return same
