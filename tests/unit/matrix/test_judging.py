"""The judge of the failure matrix: right answers pass, and every error is called by its name."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit import CLASSIC, Status
from labkit.matrix.contract import Contract, Kind
from labkit.matrix.dataset import ROWS, dataset
from labkit.matrix.evidence import Observation, Truth, without
from labkit.matrix.judging import MARGIN, judge
from labkit.merge import join, union

PLAN = CLASSIC.prune()
OK, TIMEOUT, INVALID = (frozenset({status}) for status in (Status.OK, Status.TIMEOUT, Status.INVALID))
STATUSES = [status for status in Status if status is not Status.SKIPPED]
BY_SHARD = dataset("classic").by_shard
ids = st.sampled_from(sorted(ROWS))


GAPS, ALL_OR_NOTHING, BEST_EFFORT = Contract


def truth(two=TIMEOUT, rows=None, contract=GAPS, lost=()):
    """Shards 1 and 3 are healthy, shard 2 may do what `two` allows and holds `rows`."""
    held = BY_SHARD
    held = held if rows is None else {**held, 2: rows}
    return Truth(PLAN, held, {1: OK, 2: two, 3: OK}, 1.0, contract, lost)


def right(what, answered, silent=()):
    """A correct reader's observation when these shards answer; `silent` leaves parts of its report out."""
    rows = sorted((row for shard in answered for row in what.rows[shard]), key=lambda row: row[0])
    failed = [shard for shard in PLAN if shard not in answered]
    bad = {s: next(iter(what.allowed[s] - OK), Status.TIMEOUT) for s in failed}
    statuses = {shard: bad.get(shard, Status.OK) for shard in PLAN}
    seen = Observation(rows, 0.9, join(PLAN, failed), statuses)
    return replace(seen, **dict.fromkeys(silent))


def kinds(what, seen):
    return {complaint.kind for complaint in judge(what, seen)}


def said(what, seen):
    return "; ".join(map(str, judge(what, seen)))


@pytest.mark.parametrize("silent", [(), ("missing",), ("statuses",), ("missing", "statuses")])
@pytest.mark.parametrize(
    ("two", "answered"),
    [
        (OK, (1, 2, 3)),
        (TIMEOUT, (1, 3)),
        (TIMEOUT | OK, (1, 3)),
        (TIMEOUT | OK, (1, 2, 3)),
        (TIMEOUT | INVALID, (1, 3)),
    ],
)
def test_a_right_read_has_nothing_wrong(two, answered, silent):
    """A right read passes with any allowed status; gaps and statuses may be left out where the contract allows that."""
    contract = BEST_EFFORT if "missing" in silent else GAPS
    what = truth(two, contract=contract)
    assert judge(what, right(what, answered, silent)) == []


@pytest.mark.parametrize("silent", [(), ("missing", "statuses")])
@pytest.mark.parametrize("answered", [(1, 2, 3), (1, 3)])
def test_an_empty_shard_may_answer_or_not(answered, silent):
    """If a shard is empty, no row tells whether it answered; only its gap and its status must agree."""
    what = truth(OK | TIMEOUT, rows=[], contract=BEST_EFFORT if silent else GAPS)
    assert judge(what, right(what, answered, silent)) == []


def test_an_empty_shard_that_answered_is_no_gap():
    """An empty shard that must answer is not missing."""
    what = truth(OK, rows=[])
    seen = right(what, (1, 2, 3))
    assert kinds(what, replace(seen, missing=PLAN[2])) == {Kind.GAP}


def test_the_deadline_has_its_margin_and_no_more():
    """timeout + 0.05 s is right, a millisecond more is late."""
    what = truth()
    seen = right(what, (1, 3))
    assert judge(what, replace(seen, elapsed=1.0 + MARGIN)) == []
    assert said(what, replace(seen, elapsed=1.051)) == "late: returned after 1.051 s; at most 1.05 s allowed"


def test_time_without_a_processor_is_not_held_against_a_read():
    """Time in which other processes had the processor does not count; the rest does."""
    what = truth()
    seen = replace(right(what, (1, 3)), elapsed=1.1 + MARGIN)
    assert judge(what, replace(seen, starved=0.101)) == []
    assert kinds(what, replace(seen, starved=0.099)) == {Kind.LATE}


def test_a_read_that_was_stopped_is_late():
    """No rows and no error means that it was cut off."""
    assert said(truth(), Observation(None, 4.0)) == "late: stopped after 4.000 s; at most 1.05 s allowed"


def test_an_exception_is_a_complaint_and_may_be_late_as_well():
    """The complaint quotes the exception and says nothing about rows."""
    raised = Observation(None, 0.1, error="ConnectionRefusedError: nobody there")
    assert said(truth(), raised) == "raised: ConnectionRefusedError: nobody there"
    assert kinds(truth(), replace(raised, elapsed=3.0)) == {Kind.RAISED, Kind.LATE}


def test_rows_of_a_shard_that_is_not_to_be_trusted():
    """A shard that must be invalid may contribute no row, not even a right one."""
    what = truth(INVALID)
    seen = right(what, (1, 2, 3), silent=("missing", "statuses"))
    assert said(what, seen) == "rows: 20 rows of shard 2 returned, but it must be invalid"


def test_half_an_answer():
    """A shard that may fail contributes all of its rows or none."""
    what = truth(OK | TIMEOUT, contract=BEST_EFFORT)
    seen = right(what, (1, 2, 3), silent=("missing", "statuses"))
    half = [row for row in seen.rows if row[0] not in (11, 12)]
    assert said(what, replace(seen, rows=half)) == "rows: partial answer: 18 of the 20 rows of shard 2"


def test_a_shard_that_must_answer():
    """A shard that is merely slow must not be given up."""
    what = truth(OK, contract=BEST_EFFORT)
    seen = right(what, (1, 3), silent=("missing", "statuses"))
    assert said(what, seen) == "rows: the 20 rows of shard 2 are missing, but it must answer"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((61, "Test 61"), "no shard holds row 61"),
        (("12", "Test 12"), "no shard holds row '12'"),
        ((True, "Test 1"), "no shard holds row True"),
        ((None, "Test 1"), "no shard holds row None"),
        ((60, ROWS[60]), "row 60 appears twice"),
    ],
)
def test_rows_that_no_shard_holds(row, words):
    """Foreign, non-integer and repeated IDs are reported."""
    what = truth(OK)
    seen = right(what, (1, 2, 3))
    assert words in said(what, replace(seen, rows=[*seen.rows, row]))


@pytest.mark.parametrize(("row_id", "name"), [(4, ""), (5, None), (4, "None"), (4, float("nan")), (1, "Test 1 ")])
def test_names_are_compared_exactly(row_id, name):
    """NULL differs from the empty string, from NaN and from the word "None"."""
    what = truth(OK)
    seen = right(what, (1, 2, 3))
    changed = [(i, name if i == row_id else was) for i, was in seen.rows]
    assert f"the name of row {row_id} is {name!r}, expected {ROWS[row_id]!r}" in said(what, replace(seen, rows=changed))


def test_rows_sorted_as_text_are_out_of_order():
    """Rows sorted by str(id), 1, 10, 11, … 2, are reported."""
    what = truth(OK)
    seen = right(what, (1, 2, 3))
    text = sorted(seen.rows, key=lambda row: str(row[0]))
    assert said(what, replace(seen, rows=text)) == "order: row 2 comes after row 19 (and 5 more)"


@pytest.mark.parametrize(
    ("missing", "wrong"),
    [
        ((), {Kind.SILENT_GAP}),
        ((11, 20), {Kind.SILENT_GAP}),
        ((11, 20, 41, 49), {Kind.SILENT_GAP}),
        ((11, 20, 41, 50, 51, 60), {Kind.GAP}),
        ((1, 60), {Kind.GAP}),
        ((0, 100), {Kind.GAP}),
        ((1, 10), {Kind.GAP, Kind.SILENT_GAP}),
        ((12, 20, 41, 51), {Kind.GAP, Kind.SILENT_GAP}),
    ],
)
@pytest.mark.parametrize("silent", [(), ("statuses",)])
def test_gaps_are_exact(missing, wrong, silent):
    """Missing too little is a silent gap, too much a wrong one; both can occur together."""
    what = truth()
    ranges = tuple(zip(missing[::2], missing[1::2], strict=True))
    assert kinds(what, replace(right(what, (1, 3), silent), missing=ranges)) == wrong


@pytest.mark.parametrize(
    "missing",
    [((41, 50), (11, 20)), ((11, 15), (16, 20), (41, 50)), ((11, 18), (12, 20), (41, 50), (41, 50))],
    ids=["order", "touching", "overlapping"],
)
def test_gaps_are_compared_as_sets_of_ids(missing):
    """Gaps are compared as sets of IDs: their order is irrelevant, and so is whether they touch or overlap."""
    what = truth()
    assert judge(what, replace(right(what, (1, 3), ("statuses",)), missing=missing)) == []


def test_rows_alone_are_right_only_where_all_are_there():
    """Under `gaps`, rows without a word about shard 2 are a silent gap."""
    assert judge(truth(OK), right(truth(OK), (1, 2, 3), ("missing", "statuses"))) == []
    seen = right(truth(), (1, 3), ("missing", "statuses"))
    assert said(truth(), seen) == "silent gap: 11-20, 41-50: rows are missing and not reported"


def test_a_gap_that_is_admitted_though_the_rows_are_there():
    """A shard's rows cannot be returned and reported as missing at once."""
    what = truth(OK | TIMEOUT)
    seen = right(what, (1, 2, 3), ("statuses",))
    assert said(what, replace(seen, missing=PLAN[2])) == (
        "gap: 11-20, 41-50: reported as missing, but nothing is missing there"
    )


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("missing", [None, (), ((11, 15),), PLAN[2]])
def test_a_lie_that_nobody_can_see_is_no_silent_gap(contract, missing):
    """Shard 2 has lost 11 to 15 (or all) unnoticed: a reader need not detect that, but may report it."""
    if contract is ALL_OR_NOTHING and missing:
        return
    gone = {11, 12, 13, 14, 15} if missing != PLAN[2] else set(dict(BY_SHARD[2]))
    rows = [row for row in BY_SHARD[2] if row[0] not in gone]
    what = truth(OK | INVALID, rows, contract, lost=tuple((i, i) for i in sorted(gone)))
    seen = right(what, (1, 2, 3), ("statuses",))
    assert judge(what, replace(seen, missing=missing)) == []
    assert kinds(what, replace(seen, missing=((1, 1),))) == {Kind.GAP}


@pytest.mark.parametrize(
    ("two", "seen", "wrong"),
    [
        (TIMEOUT, Observation(None, 0.5, error="TimeoutError"), set()),
        (OK | TIMEOUT, Observation(None, 0.5, error="TimeoutError"), set()),
        (OK, Observation(None, 0.5, error="TimeoutError"), {Kind.RAISED}),
        (TIMEOUT, Observation(None, 1.2, error="TimeoutError"), {Kind.LATE}),
        (OK, Observation(None, 1.2, error="TimeoutError"), {Kind.RAISED, Kind.LATE}),
        (TIMEOUT, Observation(None, 0.5, malformed="no rows"), {Kind.MALFORMED}),
        (TIMEOUT, Observation(None, 0.5, crashed="exit code 3"), {Kind.CRASHED}),
        (TIMEOUT, Observation(None, 4.0), {Kind.LATE}),
    ],
)
def test_all_or_nothing_has_an_exception_in_time(two, seen, wrong):
    """An exception is right where a shard may fail and wrong where all must answer; a crash is not an exception."""
    assert kinds(truth(two, contract=ALL_OR_NOTHING), seen) == wrong


@pytest.mark.parametrize(
    ("missing", "wrong"), [(None, {Kind.SILENT_GAP}), ((), {Kind.SILENT_GAP}), (PLAN[2], {Kind.GAP})]
)
def test_all_or_nothing_has_no_partial_rows(missing, wrong):
    """Partial rows are wrong, even if reported as partial."""
    what = truth(OK | TIMEOUT, contract=ALL_OR_NOTHING)
    seen = right(what, (1, 3), ("statuses",))
    assert kinds(what, replace(seen, missing=missing)) == wrong
    assert judge(what, right(what, (1, 2, 3), ("missing", "statuses"))) == []


def test_best_effort_need_not_say_what_is_missing():
    """Best effort may be silent, but what it does report must be true; an exception is wrong."""
    what = truth(contract=BEST_EFFORT)
    assert judge(what, right(what, (1, 3), ("missing", "statuses"))) == []
    assert judge(what, right(what, (1, 3), ("statuses",))) == []
    assert kinds(what, replace(right(what, (1, 3)), missing=((11, 20),))) == {Kind.SILENT_GAP}
    assert kinds(what, Observation(None, 0.5, error="TimeoutError")) == {Kind.RAISED}


@pytest.mark.parametrize("blocked", [0.1, 3.0])
def test_a_late_read_that_blocked_its_event_loop_is_named(blocked):
    """Short blocks, as on a busy machine, are not reported, nor any block if the read was on time."""
    told = "; blocked: it blocked its event loop for 3.0 s" if blocked > 1 else ""
    late = "late: stopped after 4.000 s; at most 1.05 s allowed"
    assert said(truth(), Observation(None, 4.0, blocked=blocked)) == late + told
    assert judge(truth(), replace(right(truth(), (1, 3)), blocked=blocked)) == []


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.TIMEOUT] + [None])
def test_statuses_are_those_that_can_be(status):
    """A silent shard is `timeout` and nothing else."""
    what = truth()
    seen = right(what, (1, 3))
    wrong = {shard: was for shard, was in {**seen.statuses, 2: status}.items() if was is not None}
    assert kinds(what, replace(seen, statuses=wrong)) == {Kind.STATUS}


def test_a_status_and_its_rows_agree():
    """`ok` without rows and `timeout` with rows are wrong, though each status is allowed on its own."""
    what = truth(OK | TIMEOUT)
    with_rows, without = right(what, (1, 2, 3)), right(what, (1, 3))
    assert kinds(what, replace(with_rows, statuses=without.statuses)) == {Kind.STATUS}
    assert kinds(what, replace(without, statuses=with_rows.statuses)) == {Kind.STATUS}


def dropped(seen, data):
    """Removes one row."""
    lost = data.draw(st.sampled_from(seen.rows))
    return replace(seen, rows=[row for row in seen.rows if row != lost])


def renamed(seen, data):
    """Changes the name in one row."""
    row = data.draw(st.sampled_from(seen.rows))
    name = data.draw(st.one_of(st.none(), st.text("aé ·\\0", max_size=8)).filter(lambda name: name != row[1]))
    return replace(seen, rows=[(row[0], name) if was == row else was for was in seen.rows])


def renumbered(seen, data):
    """Changes the ID in one row."""
    row = data.draw(st.sampled_from(seen.rows))
    other = data.draw(st.one_of(st.none(), st.just(str(row[0])), st.integers()).filter(lambda i: i != row[0]))
    return replace(seen, rows=[(other, row[1]) if was == row else was for was in seen.rows])


def swapped(seen, data):
    """Swaps two rows."""
    i, j = data.draw(st.lists(st.integers(0, len(seen.rows) - 1), min_size=2, max_size=2, unique=True))
    rows = list(seen.rows)
    rows[i], rows[j] = rows[j], rows[i]
    return replace(seen, rows=rows)


def repeated(seen, data):
    """Repeats one row."""
    i = data.draw(st.integers(0, len(seen.rows) - 1))
    return replace(seen, rows=[*seen.rows[: i + 1], *seen.rows[i:]])


def misled(seen, data):
    """Replaces the gaps."""
    pair = st.tuples(st.integers(0, 61), st.integers(0, 61)).map(lambda ends: (min(ends), max(ends)))
    gaps = data.draw(st.lists(pair, max_size=4).filter(lambda gaps: ids_of(gaps) != ids_of(seen.missing)))
    return replace(seen, missing=gaps)


def ids_of(ranges):
    """The IDs in the ranges, as a set."""
    return {i for low, high in ranges for i in range(low, high + 1)}


def misnamed(seen, data):
    """Changes the status of one shard."""
    shard = data.draw(st.sampled_from(list(seen.statuses)))
    status = data.draw(st.sampled_from([s for s in Status if s is not seen.statuses[shard]]))
    return replace(seen, statuses={**seen.statuses, shard: status})


def delayed(seen, data):
    """Makes the read late."""
    return replace(seen, elapsed=data.draw(st.floats(1.0 + MARGIN, 100, exclude_min=True)))


@given(
    data=st.data(),
    two=st.sets(st.sampled_from(STATUSES), min_size=1).map(frozenset),
    change=st.sampled_from([dropped, renamed, renumbered, swapped, repeated, misled, delayed]),
)
def test_every_change_of_a_right_read_is_seen(data, two, change):
    """In any state of shard 2: a row lost, renamed, renumbered, moved or repeated, other gaps, a late return."""
    what = truth(two)
    seen = right(what, data.draw(st.sampled_from(answers(two))))
    assert judge(what, seen) == []
    assert judge(what, change(seen, data)) != []


@given(data=st.data(), two=st.sampled_from([OK, TIMEOUT, OK | TIMEOUT]))
def test_every_change_of_a_status_is_seen(data, two):
    """A status must be an allowed one and agree with the rows."""
    what = truth(two)
    seen = right(what, data.draw(st.sampled_from(answers(two))))
    assert judge(what, misnamed(seen, data)) != []


def answers(two):
    """The possible sets of shards that answered."""
    return [(1, 2, 3)] * (Status.OK in two) + [(1, 3)] * bool(two - OK)


@given(data=st.data(), contract=st.sampled_from(list(Contract)), two=st.sampled_from([OK, TIMEOUT, OK | TIMEOUT]))
def test_only_best_effort_may_be_silent(data, contract, two):
    """Rows of some shards without a report are right if all are there, or under best effort if shard 2 may fail."""
    answered = data.draw(st.sets(st.sampled_from([1, 2, 3]))) | ({1, 3} if two != OK else set())
    what = truth(two | OK, contract=contract)
    seen = right(what, sorted(answered), ("missing", "statuses"))
    silent_but_fine = contract is BEST_EFFORT and what.allowed[2] != OK and answered == {1, 3}
    assert (judge(what, seen) == []) == (answered == {1, 2, 3} or silent_but_fine)


@given(
    ranges=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)).map(lambda r: (r[0], r[0] + r[1])), max_size=6),
    others=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)).map(lambda r: (r[0], r[0] + r[1])), max_size=6),
)
def test_ranges_are_sets_of_ids(ranges, others):
    """`union` keeps the IDs, ascending and apart; `without` removes exactly those of the others."""
    joined = union(ranges)
    assert ids_of(joined) == ids_of(ranges)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(joined))
    left = without(joined, union(others))
    assert ids_of(left) == ids_of(ranges) - ids_of(others)
    assert left == union(left)


WIDE = dataset("wide")


@given(ids, st.integers(1, len(WIDE.schema) - 1))
def test_every_value_of_a_wide_row_is_judged(row_id, place):
    """Another value in a column is a wrong row, and the complaint names the column; so is 1 for True, and 1.0 for 1."""
    what = replace(truth(OK), rows=WIDE.by_shard, columns=WIDE.schema.names)
    seen = right(what, (1, 2, 3))
    assert judge(what, seen) == []
    held = WIDE.rows[row_id]
    for other in (
        "other",
        float(held[place]) if type(held[place]) is int else 1,
        None if held[place] is not None else 0,
    ):
        changed = (*held[:place], other, *held[place + 1 :])
        rows = [changed if row[0] == row_id else row for row in seen.rows]
        text = said(what, replace(seen, rows=rows))
        assert f"the {WIDE.schema.names[place]} of row {row_id} is {other!r}, expected" in text
