"""Looking up a number among many starts: for any distribution, the buckets agree with bisection."""

from __future__ import annotations

import pickle
from array import array
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit._buckets import BISECTION, BucketIndex
from labkit._types import INT64_MAX, INT64_MIN
from labkit.router import RangeRouter

near = st.integers(-1000, 1000)
wide = st.integers(INT64_MIN, INT64_MAX)


def agrees(starts, numbers):
    """Compares both kinds of look-up with bisection over all starts."""
    index = BucketIndex(array("q", starts))
    wanted = [bisect_right(starts, number) - 1 for number in numbers]
    assert [index.place(number) for number in numbers] == wanted
    assert index.places(np.array(numbers, dtype=np.int64)).tolist() == wanted


@pytest.mark.parametrize("numbers", [near, st.integers(-(2**61), 2**61), wide], ids=["near", "half", "wide"])
@given(data=st.data())
def test_a_number_is_placed_as_bisection_places_it(data, numbers):
    """They agree for few and many starts, near and far apart; outside all starts, and at both ends of int64."""
    starts = sorted(data.draw(st.sets(numbers, min_size=1, max_size=3 * BISECTION)))
    asked = data.draw(st.lists(numbers | st.sampled_from(starts), max_size=20))
    agrees(starts, [*asked, INT64_MIN, INT64_MAX, starts[0], starts[-1]])


@pytest.mark.parametrize("gap", [1, 3, 64, 100, 10**12])
def test_starts_at_equal_distances(gap):
    """Equidistant starts, the common case, need no bisection: at, before and after each start."""
    starts = [gap * i - 5 for i in range(500)]
    agrees(starts, [start + shift for start in starts for shift in (-1, 0, 1)])


def test_starts_in_clusters():
    """Look-ups are right even where all but two of the buckets are empty."""
    starts = [*range(1000), *range(10**15, 10**15 + 1000)]
    agrees(starts, [-1, 0, 999, 1000, 10**14, 10**15 - 1, 10**15, 10**15 + 998, 10**15 + 1000])


def test_a_router_of_many_ranges_goes_through_pickle():
    """A pickled router looks up the same owners, as Dask's tasks need."""
    router = RangeRouter({s: [(i, i + 8) for i in range(10 * s, 10_000, 100)] for s in range(10)})
    again = pickle.loads(pickle.dumps(router))
    assert again == router
    assert [again.locate(i) for i in (0, 9, 18, 9_999)] == [router.locate(i) for i in (0, 9, 18, 9_999)]
