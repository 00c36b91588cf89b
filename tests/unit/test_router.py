"""The router: every ID has one owner or none, and invalid ranges are refused."""

from __future__ import annotations

import numpy as np
import pytest

from labkit._types import INT64_MAX, INT64_MIN
from labkit.errors import RangeError
from labkit.router import CLASSIC, RangeRouter, as_id

GAPPY = RangeRouter({"b": [(20, 29)], "a": [(-10, -5), (40, 40)]})
WHOLE = RangeRouter({"low": [(INT64_MIN, -1)], "high": [(0, INT64_MAX)]})


@pytest.mark.parametrize(
    ("router", "row_id", "owner"),
    [
        (CLASSIC, 1, 1),
        (CLASSIC, 10, 1),
        (CLASSIC, 11, 2),
        (CLASSIC, 25, 3),
        (CLASSIC, 31, 1),
        (CLASSIC, 60, 3),
        (CLASSIC, 0, None),
        (CLASSIC, 61, None),
        (CLASSIC, -25, None),
        (CLASSIC, 10**30, None),
        (GAPPY, -10, "a"),
        (GAPPY, -5, "a"),
        (GAPPY, -4, None),
        (GAPPY, 20, "b"),
        (GAPPY, 30, None),
        (GAPPY, 40, "a"),
        (GAPPY, 41, None),
        (WHOLE, INT64_MIN, "low"),
        (WHOLE, -1, "low"),
        (WHOLE, 0, "high"),
        (WHOLE, INT64_MAX, "high"),
    ],
)
def test_locate_finds_the_owner_or_none(router, row_id, owner):
    """Both ends of a range are inside it; IDs between, below or above ranges have no owner."""
    assert router.locate(row_id) == owner


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint8])
def test_locate_takes_numpy_integers(dtype):
    """A numpy integer is looked up by value."""
    assert CLASSIC.locate(dtype(25)) == 3


@pytest.mark.parametrize("bad", [1.0, True, "1", None, np.float64(1), np.bool_(True), [1]])
def test_locate_refuses_what_is_no_integer(bad):
    """A non-integer raises an error that names it, rather than having no owner."""
    with pytest.raises(RangeError, match="must be an integer") as caught:
        CLASSIC.locate(bad)
    assert repr(bad) in str(caught.value)


def test_locate_many_agrees_with_locate():
    """Positions match `locate`: indices into `shards`, -1 for no owner, in the order of the IDs."""
    ids = list(range(-12, 65))
    positions = GAPPY.locate_many(ids)
    assert [None if p < 0 else GAPPY.shards[p] for p in positions.tolist()] == [GAPPY.locate(i) for i in ids]


def test_locate_many_keeps_order_repeats_and_shape():
    """Unsorted, repeated and two-dimensional IDs give positions of the same order and shape."""
    assert CLASSIC.locate_many([25, 1, 25, 99]).tolist() == [2, 0, 2, -1]
    assert CLASSIC.locate_many(np.array([[1, 11], [21, 0]])).tolist() == [[0, 1], [2, -1]]


def test_locate_many_reaches_both_ends_of_int64():
    """The smallest and the largest ID are looked up without wrapping around."""
    assert WHOLE.locate_many([INT64_MIN, -1, 0, INT64_MAX]).tolist() == [0, 0, 1, 1]
    assert CLASSIC.locate_many([INT64_MIN, INT64_MAX]).tolist() == [-1, -1]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, np.uint64])
def test_locate_many_takes_any_integer_dtype(dtype):
    """Narrow and unsigned arrays are looked up by value."""
    assert CLASSIC.locate_many(np.array([25, 61], dtype=dtype)).tolist() == [2, -1]


@pytest.mark.parametrize("empty", [[], np.array([]), np.empty((0,), dtype=object)])
def test_locate_many_of_nothing_is_nothing(empty):
    """No IDs give no positions, whichever dtype numpy gives an empty list."""
    assert CLASSIC.locate_many(empty).shape == (0,)


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        ([1.5, 2.0], "1.5"),
        (["1"], "'1'"),
        ([True, False], "True"),
        ([None, 1], "None"),
        (np.array([1, 2**63], dtype=np.uint64), str(2**63)),
        ([2**63], str(2**63)),
        ([2**70], str(2**70)),
        ([1, 2**63], str(2**63)),
    ],
)
def test_locate_many_refuses_what_is_no_int64(ids, named):
    """Floats, text, booleans, NULLs and IDs beyond int64 give one RangeError that names the value."""
    with pytest.raises(RangeError) as caught:
        CLASSIC.locate_many(ids)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (None, None, {1: ((1, 10), (31, 40)), 2: ((11, 20), (41, 50)), 3: ((21, 30), (51, 60))}),
        (5, 5, {1: ((5, 5),)}),
        (10, 11, {1: ((10, 10),), 2: ((11, 11),)}),
        (15, 35, {1: ((31, 35),), 2: ((15, 20),), 3: ((21, 30),)}),
        (55, None, {3: ((55, 60),)}),
        (None, 3, {1: ((1, 3),)}),
        (61, None, {}),
        (None, 0, {}),
        (INT64_MIN, INT64_MIN, {}),
        (np.int64(60), np.uint64(2**63 - 1), {3: ((60, 60),)}),
    ],
)
def test_prune_cuts_ranges_to_the_window(low, high, found):
    """Only shards that can hold IDs of the window appear, each with the parts of its ranges inside."""
    assert CLASSIC.prune(low, high) == found


def test_prune_skips_a_window_inside_a_gap():
    """A window that no range touches queries no shard."""
    assert GAPPY.prune(-4, 19) == {}


def test_prune_keeps_the_routers_order_of_shards():
    """Shards keep the given order, their ranges ascend."""
    assert list(GAPPY.prune().items()) == [("b", ((20, 29),)), ("a", ((-10, -5), (40, 40)))]


def test_prune_of_all_of_int64():
    """Open ends are the ends of int64, and no bound overflows there."""
    assert WHOLE.prune() == {"low": ((INT64_MIN, -1),), "high": ((0, INT64_MAX),)}
    assert WHOLE.prune(INT64_MAX, INT64_MAX) == {"high": ((INT64_MAX, INT64_MAX),)}


@pytest.mark.parametrize(
    ("low", "high", "named"),
    [
        (6, 5, ("low=6", "high=5")),
        (1.0, 5, ("low", "1.0")),
        (1, "5", ("high", "'5'")),
        (True, 5, ("low", "True")),
        (None, 2**63, ("high", str(2**63))),
        (-(2**63) - 1, None, ("low", str(-(2**63) - 1))),
    ],
)
def test_prune_refuses_windows_that_cannot_be_meant(low, high, named):
    """A reversed window or a bound outside int64 raises one RangeError that names bound and value."""
    with pytest.raises(RangeError) as caught:
        CLASSIC.prune(low, high)
    assert all(text in str(caught.value) for text in named)


@pytest.mark.parametrize(
    ("ranges", "named"),
    [
        ({}, "at least one shard"),
        ({1: []}, "shard 1 has no ranges"),
        ({1: [(1, 5)], 2: []}, "shard 2 has no ranges"),
        ({1: [(1, 10)], 2: [(10, 20)]}, "(1, 10) of shard 1 and (10, 20) of shard 2"),
        ({1: [(1, 10), (5, 6)]}, "(1, 10) of shard 1 and (5, 6) of shard 1"),
        ({1: [(1, 10)], 2: [(1, 10)]}, "overlap"),
        ({1: [(1, 100)], 2: [(50, 60)], 3: [(70, 80)]}, "(50, 60) of shard 2"),
        ({1: [(10, 1)]}, "(10, 1) is reversed"),
        ({1: [(1.0, 5)]}, "low of (1.0, 5) must be an integer, not 1.0"),
        ({1: [(1, 5.5)]}, "high of (1, 5.5) must be an integer, not 5.5"),
        ({1: [(True, 5)]}, "not True"),
        ({1: [(1, np.bool_(True))]}, "not np.True_"),
        ({1: [("1", "5")]}, "not '1'"),
        ({1: ["ab"]}, "not 'a'"),
        ({1: [(None, 5)]}, "not None"),
        ({1: [(1, 2, 3)]}, "(1, 2, 3)"),
        ({1: [(1,)]}, "(1,)"),
        ({1: (1, 10)}, "not 1"),
        ({1: [7]}, "not 7"),
        ({1: [(0, 2**63)]}, str(2**63)),
        ({1: [(-(2**63) - 1, 0)]}, str(-(2**63) - 1)),
        ({1: 7}, "7"),
        ({1: None}, "None"),
        ([(1, 10)], "(1, 10)"),
        (None, "None"),
    ],
)
def test_bad_ranges_are_one_range_error_that_names_them(ranges, named):
    """Invalid ranges of any kind raise a RangeError (a ValueError) that shows the value."""
    with pytest.raises(RangeError) as caught:
        RangeRouter(ranges)
    assert named in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_ranges_may_come_in_any_order_and_from_any_iterable():
    """Spans are sorted by low, shards keep the given order; generators and lists work as well as tuples."""
    router = RangeRouter({"z": ([i, i + 1] for i in (10, -10)), "y": iter([(0, 0)])})
    assert router.shards == ("z", "y")
    assert router.spans == ((-10, -9, "z"), (0, 0, "y"), (10, 11, "z"))


def test_bounds_become_plain_integers():
    """Numpy bounds are stored as int, so nothing computed from them overflows."""
    router = RangeRouter({1: [(np.int32(1), np.int32(2**31 - 1))]})
    assert [type(bound) for bound in router.spans[0][:2]] == [int, int]
    assert len(router) == 2**31 - 1


@pytest.mark.parametrize(
    ("router", "count", "divisions"),
    [
        (CLASSIC, 60, (1, 11, 21, 31, 41, 51, 60)),
        (GAPPY, 17, (-10, 20, 40, 40)),
        (RangeRouter({1: [(INT64_MIN, INT64_MIN)]}), 1, (INT64_MIN, INT64_MIN)),
    ],
)
def test_len_counts_ids_and_divisions_bound_spans(router, count, divisions):
    """`len` is the number of IDs owned; divisions are each span's low and the last high, ascending."""
    assert len(router) == count
    assert router.divisions == divisions
    assert list(divisions) == sorted(divisions)


def test_a_router_of_all_ids_has_a_truth_value():
    """A router that owns all 2**64 IDs works in `if router`, though no `len` can hold the count."""
    assert bool(WHOLE) is True


def test_equal_routers_are_equal_and_hash_alike():
    """Routers with the same shards and spans are equal, whatever the order of ranges within a shard."""
    one, same = RangeRouter({1: [(1, 2), (5, 6)]}), RangeRouter({1: [(5, 6), (1, 2)]})
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, CLASSIC}) == 2


@pytest.mark.parametrize("other", [RangeRouter({1: [(1, 3)]}), RangeRouter({2: [(1, 2)]}), {1: [(1, 2)]}, None])
def test_other_routers_are_unequal(other):
    """A router with other bounds, another shard or another type is not equal."""
    assert RangeRouter({1: [(1, 2)]}) != other


@pytest.mark.parametrize("router", [CLASSIC, GAPPY, WHOLE])
def test_repr_makes_an_equal_router(router):
    """`repr` is a call that builds the same router."""
    assert eval(repr(router), {"RangeRouter": RangeRouter}) == router


@pytest.mark.parametrize("value", [INT64_MIN, 0, INT64_MAX, np.int64(-1), np.uint64(7)])
def test_as_id_gives_a_plain_int(value):
    """Every integer of 64 bits is returned as an equal `int`."""
    assert as_id(value) == value
    assert type(as_id(value)) is int


@pytest.mark.parametrize("value", [INT64_MIN - 1, INT64_MAX + 1, np.uint64(2**63)])
def test_as_id_refuses_what_does_not_fit(value):
    """An integer beyond 64 bits raises a RangeError that shows it."""
    with pytest.raises(RangeError, match="must fit in 64 bits") as caught:
        as_id(value)
    assert str(int(value)) in str(caught.value)


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["above", "below"])
def test_an_integer_that_python_does_not_write_is_one_short_error(value):
    """Alone or in a range, it raises a RangeError, not the ValueError of `repr`."""
    for refused in (lambda: as_id(value), lambda: RangeRouter({1: [(0, value)]}), lambda: CLASSIC.prune(high=value)):
        with pytest.raises(RangeError) as caught:
            refused()
        assert len(str(caught.value)) < 150
