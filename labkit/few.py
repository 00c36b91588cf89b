"""Few rows of a shard, checked and kept as the Python objects that they came as.

A small table takes as long to make as its rows take to be read: of many shards' few rows one table is made, in the end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import lt

import pyarrow as pa

from labkit.answer import Answer
from labkit.router import Range, Ranges
from labkit.tables import SCHEMA, TEXT_OR_NULL

__all__ = ["FEW", "Few", "as_table", "few", "in_order"]

FEW = 256
"""Rows, and ranges, up to which Python is quicker than numpy and Arrow."""

_ID = frozenset((int,))


@dataclass(frozen=True, slots=True, eq=False)
class Few:
    """Rows that keep the contract of `labkit.answer`."""

    ids: Sequence[int]
    names: Sequence[str | None]
    cuts: Sequence[Range]
    """For each of the ranges asked, the positions [start, stop) of its rows."""

    @property
    def num_rows(self) -> int:
        """As of a `pyarrow.Table`."""
        return len(self.ids)

    def table(self) -> pa.Table:
        """The rows as a table of `SCHEMA`."""
        columns = [pa.array(self.ids, pa.int64()), pa.array(self.names, pa.large_string())]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def few(answer: Answer, ranges: Ranges) -> Few | None:
    """The rows of `answer`; None where they are many, or a table, or where one breaks the contract, as `check` says."""
    if not isinstance(answer, list | tuple) or len(answer) > FEW or len(ranges) > FEW:
        return None
    try:
        ids, names = zip(*answer, strict=True) if answer else ((), ())
        text = "".join(filter(None, names))
    except (TypeError, ValueError):
        return None
    if not set(map(type, ids)) <= _ID or not TEXT_OR_NULL.issuperset(map(type, names)) or not _is_unicode(text):
        return None
    cuts = [(bisect_left(ids, low), bisect_right(ids, high)) for low, high in ranges]
    if not all(map(lt, ids, islice(ids, 1, None))) or sum(stop - start for start, stop in cuts) != len(ids):
        return None
    return Few(ids, names, cuts)


def as_table(rows: Few | pa.Table) -> pa.Table:
    """The same rows as a table of `SCHEMA`."""
    return rows.table() if isinstance(rows, Few) else rows


def in_order(pieces: Iterable[tuple[Ranges, Few]]) -> pa.Table:
    """The rows of all, each with the ranges that were asked, as one table ascending by id."""
    parts = []
    for ranges, rows in pieces:
        for (low, _), (start, stop) in zip(ranges, rows.cuts, strict=True):
            if stop > start:
                parts.append((low, rows.ids[start:stop], rows.names[start:stop]))
    parts.sort()
    ids, names = chain.from_iterable(part[1] for part in parts), chain.from_iterable(part[2] for part in parts)
    return Few(list(ids), list(names), ()).table()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
