"""The rows that the matrix reads: sixty, and each kind of name that has ever come out other than it went in."""

from __future__ import annotations

from labkit._types import ShardKey
from labkit.router import CLASSIC

__all__ = ["ROWS", "by_shard"]

_SAME = "the same"
_ODD: dict[int, str | None] = {
    4: None,
    5: "",
    6: _SAME,
    7: 'O\'Brien: "no\\yes"\n\t%s; --',
    8: "Grüße, 数据 🎲",
    9: "null",
    0: "  NaN ",
}
"""By the last digit of the ID; the names of the others are "Test <id>"."""
_FILLING = "long enough to be cut ⋯ "


def _name(row_id: int) -> str | None:
    odd = _ODD.get(row_id % 10, f"Test {row_id}")
    # A shard's first range is short, so that a connection cut after 200 bytes has let some rows through; its second
    # one is long, so that the whole answer is some kilobytes: several packets, and much for a slow line.
    return odd if row_id <= 30 or odd in (None, _SAME) else (odd + f" {row_id} " + _FILLING * 10)[:240]


ROWS: dict[int, str | None] = {i: _name(i) for low, high, _ in CLASSIC.spans for i in range(low, high + 1)}
"""id -> name, ascending, for every ID that the classic router owns."""


def by_shard() -> dict[ShardKey, list[tuple[int, str | None]]]:
    """`ROWS` as the (id, name) pairs of each shard, ascending."""
    return {shard: [row for row in ROWS.items() if CLASSIC.locate(row[0]) == shard] for shard in CLASSIC.shards}
