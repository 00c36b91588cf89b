"""Which shard owns which ID: integer ranges, both ends inclusive, looked up by bisection."""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from labkit._buckets import BucketIndex
from labkit._checks import shown
from labkit._types import INT64_MAX, INT64_MIN, Range, Ranges, ShardKey, Span, shown_ranges
from labkit.errors import RangeError

__all__ = ["CLASSIC", "INT64_MAX", "INT64_MIN", "Range", "RangeRouter", "Ranges", "ShardKey", "Span", "as_id"]

HUGE = 2**40
"""Most IDs counted per range, so that the sum over 8 million ranges fits in 64 bits."""
MANY = 1024
"""With more ranges than this, a plan is sliced from the precomputed plan of all IDs."""


def as_id(value: Any, what: str = "an ID") -> int:
    """`value` as a plain int; `RangeError` unless it is a 64-bit integer (True and 1.0 are not)."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise RangeError(f"{what} must be an integer, not {shown(value)}")
    if not INT64_MIN <= number <= INT64_MAX:
        raise RangeError(f"{what} must fit in 64 bits, {shown(value)} does not")
    return number


def to_bounds(ranges: Sequence[Range]) -> npt.NDArray[np.int64]:
    """Ranges as an array: one row per range, (low, high)."""
    if isinstance(ranges, _Many):
        return ranges.bounds
    return np.fromiter(chain.from_iterable(ranges), np.int64, 2 * len(ranges)).reshape(-1, 2)


class _Many(tuple[Range, ...]):
    """Very many ranges, whose array is made only once: it takes 10 ms for 100,000."""

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        return to_bounds(tuple(self))

    @staticmethod
    def of(ranges: Iterable[Range], bounds: npt.NDArray[np.int64]) -> _Many:
        """Ranges whose array is known already."""
        many = _Many(ranges)
        many.bounds = bounds
        return many


class RangeRouter:
    """Routes IDs to shards by range.

    `ranges` maps a shard (any hashable key) to its `(low, high)` pairs, both ends inclusive, in any order.
    Raises `RangeError` if there are no ranges, or if they overlap, are reversed or are not pairs of 64-bit integers.

    >>> router = RangeRouter({1: [(1, 10), (31, 40)], 2: [(11, 20)]})
    >>> router.locate(35), router.locate(25)
    (1, None)
    """

    __slots__ = (
        "_counts",
        "_ends",
        "_ends_array",
        "_index",
        "_members",
        "_owners",
        "_place",
        "_positions",
        "_starts",
        "_whole",
        "shards",
        "spans",
    )

    shards: tuple[ShardKey, ...]
    """The shards, in the order given."""
    spans: tuple[Span, ...]
    """`(low, high, shard)`, ascending by low."""

    def __init__(self, ranges: Mapping[Any, Iterable[tuple[int, int]]]) -> None:
        if not isinstance(ranges, Mapping):
            raise RangeError(f"a router is made from {{shard: [(low, high), …]}}, not {shown(ranges)}")
        self.shards = tuple(ranges)
        self.spans = tuple(sorted(_spans(ranges), key=lambda span: span[0]))
        _refuse_overlaps(self.spans)
        position = {shard: i for i, shard in enumerate(self.shards)}
        self._starts = array("q", (low for low, _, _ in self.spans))
        self._ends = array("q", (high for _, high, _ in self.spans))
        self._owners = [shard for _, _, shard in self.spans]
        self._ends_array = np.array(self._ends, dtype=np.int64)
        self._index = BucketIndex(self._starts)
        self._place = self._index.place
        self._positions = np.array([position[shard] for shard in self._owners], dtype=np.intp)
        self._members = {shard: array("q") for shard in self.shards}
        for place, shard in enumerate(self._owners):
            self._members[shard].append(place)
        self._whole: dict[ShardKey, Ranges] = {}
        for shard, mine in self._members.items():
            kind = _Many if len(mine) > MANY else tuple
            self._whole[shard] = kind(self.spans[i][:2] for i in mine)
            to_bounds(self._whole[shard])  # for many ranges, cached before the first read
        sizes = self._ends_array.view(np.uint64) - np.array(self._starts, dtype=np.int64).view(np.uint64)
        self._counts = np.cumsum(np.minimum(sizes, HUGE).astype(np.int64) + 1)

    def locate(self, row_id: int) -> Any:
        """The shard that owns `row_id`, or None if no shard does."""
        if type(row_id) is not int:
            row_id = as_id(row_id)
        i = self._place(row_id)
        return self._owners[i] if i >= 0 and row_id <= self._ends[i] else None

    def locate_many(self, ids: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Positions in `shards`, one per ID, in the order of `ids`; -1 if no shard owns the ID."""
        wanted = _as_id_array(ids)
        i = self._index.places(wanted)
        owned = (i >= 0) & (wanted <= self._ends_array[i])
        return np.where(owned, self._positions[i], -1)

    def prune(self, low: int | None = None, high: int | None = None) -> dict[Any, Ranges]:
        """Shards that can hold IDs in [low, high], each with the parts of its ranges inside it, ascending.

        None is an open end. Raises `RangeError` if low > high.
        """
        if low is None and high is None:
            return dict(self._whole)
        return self._plan(*as_window(low, high))

    def _plan(self, low: int, high: int) -> dict[ShardKey, Ranges]:
        places = self.places(low, high)
        if len(places) > MANY:
            return self._cut(places, low, high)
        found: dict[ShardKey, list[Range]] = {}
        for start, end, shard in self.within(low, high):
            found.setdefault(shard, []).append((start, end))
        return {shard: tuple(found[shard]) for shard in self.shards if shard in found}

    def _cut(self, places: range, low: int, high: int) -> dict[ShardKey, Ranges]:
        """`_plan` sliced from the precomputed plan of all IDs: going through 100,000 ranges takes 0.1 s."""
        plan = {}
        for shard, mine in self._members.items():
            first, stop = bisect_left(mine, places.start), bisect_left(mine, places.stop)
            if first < stop:
                whole = self._whole[shard]
                some = slice(first, stop)
                plan[shard] = whole if stop - first == len(whole) else _Many.of(whole[some], to_bounds(whole)[some])
        for place in {places[0], places[-1]}:
            start, end, shard = self.spans[place]
            part, ranges = (max(start, low), min(end, high)), plan[shard]
            if part != (start, end):
                at = 0 if place == places[0] else len(ranges) - 1
                bounds = to_bounds(ranges).copy()
                bounds[at] = part
                plan[shard] = _Many.of((*ranges[:at], part, *ranges[at + 1 :]), bounds)
        return plan

    def places(self, low: int, high: int) -> range:
        """The positions of the `spans` that have IDs in [low, high]; none if low > high."""
        return range(bisect_left(self._ends, low), bisect_right(self._starts, high) if low <= high else 0)

    def within(self, low: int, high: int) -> Iterator[Span]:
        """The parts of `spans` that lie in [low, high], ascending; none if low > high."""
        for i in self.places(low, high):
            start, end, shard = self.spans[i]
            yield max(start, low), min(end, high), shard

    def fewest(self, low: int, high: int, size: int) -> int:
        """How many ranges from `low` on hold `size` IDs; all of them up to `high` if they hold fewer; at least 1."""
        places = self.places(low, high)
        if not places:
            return 1
        counts = self._counts[places.start : places.stop]
        left = min(self._ends[places.start] - max(self._starts[places.start], low), HUGE) + 1
        wanted = int(counts[0]) - left + min(size, 2**62)
        return min(int(np.searchsorted(counts, wanted)) + 1, len(places))

    @property
    def divisions(self) -> tuple[int, ...]:
        """Ascending boundaries of the spans, as Dask defines them: n + 1 numbers, the last one inclusive."""
        return (*self._starts, self._ends[-1])

    def __len__(self) -> int:
        """How many IDs the shards own together."""
        return self.count

    @property
    def count(self) -> int:
        """How many IDs the shards own together, even if that is more than `len` can return."""
        return sum(self._ends) - sum(self._starts) + len(self.spans)

    def __bool__(self) -> bool:
        return True  # without this, bool() calls len(), which overflows above 2**63 - 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeRouter):
            return NotImplemented
        return (self.shards, self.spans) == (other.shards, other.spans)

    def __hash__(self) -> int:
        return hash((self.shards, self.spans))

    def __reduce__(self) -> tuple[Any, ...]:
        return RangeRouter, (self._whole,)

    def __repr__(self) -> str:
        owned = [f"{shard!r}: {shown_ranges(list(ranges))}" for shard, ranges in self._whole.items()]
        return f"RangeRouter({{{', '.join(owned)}}})"


def as_window(low: int | None, high: int | None) -> Range:
    """The window as two integers, with the limits of int64 for open ends; `RangeError` if low > high."""
    start = INT64_MIN if low is None else as_id(low, "low")
    end = INT64_MAX if high is None else as_id(high, "high")
    if start > end:
        raise RangeError(f"low must not be above high: got low={low}, high={high}; swap them")
    return start, end


def _spans(ranges: Mapping[Any, Iterable[tuple[int, int]]]) -> Iterable[Span]:
    if not ranges:
        raise RangeError("a router needs at least one shard: got none; pass {shard: [(low, high), …]}")
    for shard, pairs in ranges.items():
        try:
            given = list(pairs)
        except TypeError:
            raise RangeError(f"shard {shard!r}: ranges are a list of (low, high), not {shown(pairs)}") from None
        if not given:
            raise RangeError(f"shard {shard!r} has no ranges: give it at least one (low, high), or leave it out")
        for pair in given:
            yield (*_as_range(shard, pair), shard)


def _as_range(shard: ShardKey, pair: Any) -> Range:
    try:
        low, high = pair
    except (TypeError, ValueError):
        raise RangeError(f"shard {shard!r}: a range is a pair (low, high), not {shown(pair)}") from None
    what = f"of {shown(pair)}"
    start, end = as_id(low, f"shard {shard!r}: low {what}"), as_id(high, f"shard {shard!r}: high {what}")
    if start > end:
        raise RangeError(f"shard {shard!r}: range {pair!r} is reversed: low must not be above high")
    return start, end


def _refuse_overlaps(spans: tuple[Span, ...]) -> None:
    for (low, high, shard), (next_low, next_high, next_shard) in pairwise(spans):
        if next_low <= high:
            raise RangeError(
                f"ranges overlap: ({low}, {high}) of shard {shard!r} and "
                f"({next_low}, {next_high}) of shard {next_shard!r}; an ID has one owner"
            )


def _as_id_array(ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
    given = np.asarray(ids)
    if given.size == 0:
        return np.empty(given.shape, dtype=np.int64)
    if given.dtype.kind not in "iu":
        # One by one, as Python objects: numpy turns integers that are too large into floats.
        given = np.array([as_id(row_id) for row_id in np.asarray(ids, dtype=object).flat], dtype=np.int64)
    if given.dtype == np.uint64 and int(given.max()) > INT64_MAX:
        raise RangeError(f"IDs must fit in 64 bits with a sign, {given.max()} does not")
    return given.astype(np.int64, copy=False)


CLASSIC = RangeRouter({1: [(1, 10), (31, 40)], 2: [(11, 20), (41, 50)], 3: [(21, 30), (51, 60)]})
"""60 IDs over three shards: the table of the notes that labkit began with."""
