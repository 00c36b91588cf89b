"""Whether a read was right: a pure function from what the shards held and what the reader returned to complaints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from labkit._types import ShardKey
from labkit.matrix.contract import Complaint, Contract, Kind
from labkit.matrix.dataset import Flat
from labkit.matrix.evidence import Observation, Truth, without
from labkit.merge import join, union
from labkit.report import Status
from labkit.show.format import clip, ranges_text

__all__ = ["MARGIN", "judge"]

MARGIN = 0.05
"""Seconds by which a read may overrun its deadline, not counting time without a processor."""
BLOCKING = 0.5
"""Seconds of a blocked event loop that a busy machine does not explain."""


def judge(truth: Truth, seen: Observation) -> list[Complaint]:
    """What is wrong with the read; [] when it is right."""
    if seen.rows is None:
        return [*_no_rows(truth, seen), *_late(truth, seen)]
    answered = {shard for shard in truth.plan if _is_whole(shard, truth, seen.rows)}
    return [
        *_order(seen.rows),
        *_wrong_rows(truth, seen.rows),
        *_partial(truth, seen.rows),
        *_gaps(truth, seen, answered),
        *_statuses(truth, seen, answered),
        *_late(truth, seen),
    ]


def _no_rows(truth: Truth, seen: Observation) -> Iterator[Complaint]:
    """Right only if the contract allows an exception instead of rows, and a shard may fail."""
    if seen.crashed is not None:
        yield Complaint(Kind.CRASHED, seen.crashed)
    if seen.malformed is not None:
        yield Complaint(Kind.MALFORMED, seen.malformed)
    if seen.error is None:
        return
    if truth.contract is not Contract.ALL_OR_NOTHING:
        yield Complaint(Kind.RAISED, seen.error)
    elif all(allowed == {Status.OK} for allowed in truth.allowed.values()):
        yield Complaint(Kind.RAISED, f"{seen.error}, but every shard must answer")


def _late(truth: Truth, seen: Observation) -> Iterator[Complaint]:
    most = truth.timeout + MARGIN
    if seen.elapsed - seen.starved <= most or seen.crashed is not None:
        return
    returned = seen.rows is not None or seen.error is not None or seen.malformed is not None
    ended = "returned" if returned else "stopped"
    yield Complaint(Kind.LATE, f"{ended} after {seen.elapsed:.3f} s; at most {most:g} s allowed")
    if seen.blocked >= BLOCKING:
        yield Complaint(Kind.BLOCKED, f"it blocked its event loop for {seen.blocked:.1f} s")


def _order(rows: Sequence[Flat]) -> Iterator[Complaint]:
    ids = [row[0] for row in rows if type(row[0]) is int]
    wrong = [(before, after) for before, after in pairwise(ids) if after < before]
    if wrong:
        before, after = wrong[0]
        yield Complaint(Kind.ORDER, f"row {after} comes after row {before}{_and_more(wrong)}")


def _wrong_rows(truth: Truth, rows: Sequence[Flat]) -> Iterator[Complaint]:
    """Rows that no shard holds, that are changed, or that are repeated."""
    held = {row[0]: row for shard in truth.rows for row in truth.rows[shard]}
    seen: set[object] = set()
    wrong = []
    for row in rows:
        row_id = row[0]
        if type(row_id) is not int or row_id not in held:
            wrong.append(f"no shard holds row {row_id!r}")
        elif row_id in seen:
            wrong.append(f"row {row_id} appears twice")
        elif changed := _changed(truth, row, held[row_id]):
            wrong.append(changed)
        else:
            seen.add(row_id)
    if wrong:
        yield Complaint(Kind.ROWS, wrong[0] + _and_more(wrong))


def _changed(truth: Truth, row: Flat, held: Flat) -> str:
    """Which value of the row is not the one that is held; "" if all are."""
    for column, value, expected in zip(truth.columns, row, held, strict=True):
        if type(value) is not type(expected) or value != expected:
            return f"the {column} of row {row[0]} is {_shown(value)}, expected {_shown(expected)}"
    return ""


def _partial(truth: Truth, rows: Sequence[Flat]) -> Iterator[Complaint]:
    """Each shard gives all of its rows or none: none if its answer must not be trusted, all if it must answer."""
    for shard, held in truth.rows.items():
        got, allowed = len(_returned_ids(shard, truth, rows)), truth.allowed[shard]
        if got and Status.OK not in allowed:
            yield Complaint(Kind.ROWS, f"{got} rows of shard {shard} returned, but it must be {_one_of(allowed)}")
        elif got and got < len(held):
            yield Complaint(Kind.ROWS, f"partial answer: {got} of the {len(held)} rows of shard {shard}")
        elif not got and held and allowed == {Status.OK}:
            yield Complaint(Kind.ROWS, f"the {len(held)} rows of shard {shard} are missing, but it must answer")


def _gaps(truth: Truth, seen: Observation, answered: set[ShardKey]) -> Iterator[Complaint]:
    if seen.missing is None and truth.contract is Contract.BEST_EFFORT:
        return
    unanswered = join(truth.plan, [shard for shard in truth.plan if not _answered(shard, truth, seen, answered)])
    reported = union(seen.missing or ())
    if silent := without(unanswered, reported):
        yield Complaint(Kind.SILENT_GAP, f"{ranges_text(silent, 20, '-')}: rows are missing and not reported")
    if truth.contract is Contract.ALL_OR_NOTHING:
        wrong, why = reported, "all rows must be returned, or an exception raised"
    else:
        wrong, why = without(without(reported, unanswered), truth.lost), "nothing is missing there"
    if wrong:
        yield Complaint(Kind.GAP, f"{ranges_text(wrong, 20, '-')}: reported as missing, but {why}")


def _answered(shard: ShardKey, truth: Truth, seen: Observation, answered: set[ShardKey]) -> bool:
    """Whether the shard counts as answered. If it holds no rows, its status decides, or else its gaps do."""
    if truth.rows[shard]:
        return shard in answered
    if len({status is Status.OK for status in truth.allowed[shard]}) == 1:
        return Status.OK in truth.allowed[shard]
    if seen.statuses is not None:
        return seen.statuses.get(shard) is Status.OK
    return not any(low <= start and end <= high for start, end in truth.plan[shard] for low, high in seen.missing or ())


def _statuses(truth: Truth, seen: Observation, answered: set[ShardKey]) -> Iterator[Complaint]:
    for shard in truth.plan if seen.statuses is not None else ():
        status = (seen.statuses or {}).get(shard)
        if status not in truth.allowed[shard]:
            said = "not reported" if status is None else status
            yield Complaint(Kind.STATUS, f"shard {shard} is {said}, but must be {_one_of(truth.allowed[shard])}")
        elif truth.rows[shard] and (status is Status.OK) != (shard in answered):
            what = "not all of its rows were returned" if status is Status.OK else "its rows were returned"
            yield Complaint(Kind.STATUS, f"shard {shard} is {status}, but {what}")


def _is_whole(shard: ShardKey, truth: Truth, rows: Sequence[Flat]) -> bool:
    return bool(truth.rows[shard]) and len(_returned_ids(shard, truth, rows)) == len(truth.rows[shard])


def _returned_ids(shard: ShardKey, truth: Truth, rows: Sequence[Flat]) -> set[int]:
    """The IDs of the shard's rows that were returned."""
    return {row[0] for row in truth.rows[shard]} & {row[0] for row in rows if type(row[0]) is int}


def _one_of(statuses: frozenset[Status]) -> str:
    return " or ".join(sorted(statuses))


def _and_more(wrong: Sequence[object]) -> str:
    return f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""


def _shown(value: object) -> str:
    return clip(repr(value), 40)
