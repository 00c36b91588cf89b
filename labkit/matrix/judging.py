"""Whether a read was right. Pure: from what the shards held and what the reader returned to a list of complaints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from labkit._types import Ranges, ShardKey
from labkit.faults.base import Row
from labkit.matrix.contract import Complaint, Contract, Kind
from labkit.matrix.evidence import Observation, Truth, normal, without
from labkit.merge import join
from labkit.report import Status

__all__ = ["MARGIN", "judge"]

MARGIN = 0.05
"""Seconds that a read may outlive its deadline by, beside those in which it had no processor."""
BLOCKING = 0.5
"""Seconds without a turn of the event loop that a busy machine does not explain."""


def judge(truth: Truth, seen: Observation) -> list[Complaint]:
    """What is wrong with the read; [] when it is right."""
    if seen.rows is None:
        return [*_no_rows(truth, seen), *_late(truth, seen)]
    answered = {shard for shard in truth.plan if _is_whole(shard, truth, seen.rows)}
    return [
        *_order(seen.rows),
        *_strange(truth, seen.rows),
        *_parts(truth, seen.rows),
        *_gaps(truth, seen, answered),
        *_statuses(truth, seen, answered),
        *_late(truth, seen),
    ]


def _no_rows(truth: Truth, seen: Observation) -> Iterator[Complaint]:
    """Right only where the contract has an exception instead of rows, and something is broken."""
    if seen.crashed is not None:
        yield Complaint(Kind.CRASHED, seen.crashed)
    if seen.malformed is not None:
        yield Complaint(Kind.MALFORMED, seen.malformed)
    if seen.error is None:
        return
    if truth.contract is not Contract.ALL_OR_NOTHING:
        yield Complaint(Kind.RAISED, seen.error)
    elif all(allowed == {Status.OK} for allowed in truth.allowed.values()):
        yield Complaint(Kind.RAISED, f"{seen.error}, and all shards must answer")


def _late(truth: Truth, seen: Observation) -> Iterator[Complaint]:
    most = truth.timeout + MARGIN
    if seen.elapsed - seen.starved <= most or seen.crashed is not None:
        return
    came = seen.rows is not None or seen.error is not None or seen.malformed is not None
    ended = "it came" if came else "it was stopped"
    yield Complaint(Kind.LATE, f"{ended} after {seen.elapsed:.3f} s, and {most:g} s are allowed")
    if seen.blocked >= BLOCKING:
        yield Complaint(Kind.BLOCKED, f"it blocked its event loop for {seen.blocked:.1f} s")


def _order(rows: Sequence[Row]) -> Iterator[Complaint]:
    ids = [row_id for row_id, _ in rows if type(row_id) is int]
    wrong = [(before, after) for before, after in pairwise(ids) if after < before]
    if wrong:
        before, after = wrong[0]
        yield Complaint(Kind.ORDER, f"row {after} comes after row {before}{_and_more(wrong)}")


def _strange(truth: Truth, rows: Sequence[Row]) -> Iterator[Complaint]:
    """Rows that no shard holds, or not like that, or not so often."""
    held = {row_id: name for shard in truth.rows for row_id, name in truth.rows[shard]}
    seen: set[object] = set()
    wrong = []
    for row_id, name in rows:
        if type(row_id) is not int or row_id not in held:
            wrong.append(f"no shard holds a row {row_id!r}")
        elif row_id in seen:
            wrong.append(f"row {row_id} is there twice")
        elif type(name) is not type(held[row_id]) or name != held[row_id]:
            wrong.append(f"the name of row {row_id} is {_short(name)}, and must be {_short(held[row_id])}")
        else:
            seen.add(row_id)
    if wrong:
        yield Complaint(Kind.ROWS, wrong[0] + _and_more(wrong))


def _parts(truth: Truth, rows: Sequence[Row]) -> Iterator[Complaint]:
    """All rows of a shard or none; none where its answer was not to be trusted, all where it must be there."""
    for shard, held in truth.rows.items():
        got, allowed = len(_of(shard, truth, rows)), truth.allowed[shard]
        if got and Status.OK not in allowed:
            yield Complaint(Kind.ROWS, f"{got} rows of shard {shard} are there, and it must be {_either(allowed)}")
        elif got and got < len(held):
            yield Complaint(Kind.ROWS, f"half an answer: {got} of the {len(held)} rows of shard {shard}")
        elif not got and held and allowed == {Status.OK}:
            yield Complaint(Kind.ROWS, f"the {len(held)} rows of shard {shard} are not there, and it must answer")


def _gaps(truth: Truth, seen: Observation, answered: set[ShardKey]) -> Iterator[Complaint]:
    if seen.missing is None and truth.contract is Contract.BEST_EFFORT:
        return
    unanswered = join(truth.plan, [shard for shard in truth.plan if not _stands(shard, truth, seen, answered)])
    admitted = normal(seen.missing or ())
    if unsaid := without(unanswered, admitted):
        yield Complaint(Kind.SILENT_GAP, f"{_ranges(unsaid)}: the rows are not there, and the reader does not say so")
    if truth.contract is Contract.ALL_OR_NOTHING:
        wrong, why = admitted, "all rows must be there, or an exception must be raised"
    else:
        wrong, why = without(without(admitted, unanswered), truth.lost), "nothing is missing there"
    if wrong:
        yield Complaint(Kind.GAP, f"{_ranges(wrong)}: reported as missing, and {why}")


def _stands(shard: ShardKey, truth: Truth, seen: Observation, answered: set[ShardKey]) -> bool:
    """Whether the shard counts as answered. Where it holds nothing, no row tells: its status does, or its gaps do."""
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
            yield Complaint(Kind.STATUS, f"shard {shard} is {said}, and must be {_either(truth.allowed[shard])}")
        elif truth.rows[shard] and (status is Status.OK) != (shard in answered):
            what = "not all of its rows are there" if status is Status.OK else "its rows are there"
            yield Complaint(Kind.STATUS, f"shard {shard} is {status}, and {what}")


def _is_whole(shard: ShardKey, truth: Truth, rows: Sequence[Row]) -> bool:
    return bool(truth.rows[shard]) and len(_of(shard, truth, rows)) == len(truth.rows[shard])


def _of(shard: ShardKey, truth: Truth, rows: Sequence[Row]) -> set[int]:
    """The IDs of the shard's rows that are there."""
    return {row_id for row_id, _ in truth.rows[shard]} & {row_id for row_id, _ in rows if type(row_id) is int}


def _either(statuses: frozenset[Status]) -> str:
    return " or ".join(sorted(statuses))


def _ranges(ranges: Ranges) -> str:
    shown = ", ".join(f"{low}-{high}" for low, high in ranges[:20])
    return shown if len(ranges) <= 20 else f"{shown} and {len(ranges) - 20} more"


def _and_more(wrong: Sequence[object]) -> str:
    return f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
