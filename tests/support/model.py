"""A record of what a lab was told and what its shards hold, and of what a correct read may then return."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from labkit import Lab, ReadResult, Status, faults
from labkit.faults import DataFault, Fault, Sample, Toxic
from tests.support.scenes import in_window, owned_ids, unrolled

__all__ = ["COLD", "WARM", "Acting", "Model", "Window"]

WARM, COLD = "warm", "cold"
"""Which reader reads: the lab's own, with whatever connections it has, or a new one without any."""
Window: TypeAlias = "tuple[int | None, int | None]"

GONE = frozenset({"process", "container"})
INSIDE = frozenset({"server", "data"})
BY_BYTES = (faults.Bandwidth, faults.LimitData, faults.ResetPeer, faults.Slicer)
"""A short answer may pass these; a long one never does."""
SHORT = 400
"""Bytes of IDs and names from which on an answer is long. The samples let 200 bytes through."""
SLOW = (faults.Bandwidth, faults.Latency, faults.Slicer, faults.SlowQuery)
"""One of these may leave a read in time where two do not."""


@dataclass(eq=False)
class Acting:
    """A fault that has been started and not yet stopped."""

    shard: Any
    sample: Sample
    since: float
    """Time of the event loop just before the start."""
    held: list[tuple[Any, Any]] | None = None
    """For a data fault: the rows as it altered them."""
    outlived: bool = False
    """The undo was postponed, and the server has been killed and restarted since."""

    @property
    def fault(self) -> Fault:
        return self.sample.fault

    def is_over(self, now: float) -> bool:
        """Whether it may have ended on its own: after its time, or with the server's process."""
        if isinstance(self.fault, faults.ClientPause) and now >= self.since + self.fault.seconds:
            return True
        return self.outlived and self.fault.volatile


class Model:
    """`rows` is the truth by shard, id -> name; `acting` has the active faults in start order."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.shards = lab.router.shards
        self.rows: dict[Any, dict[int, str | None]] = {shard: {} for shard in self.shards}
        for row_id, name in lab.rows.itertuples(index=False):
            self.rows[lab.router.locate(row_id)][row_id] = name
        self.acting: list[Acting] = []
        self._postponed: list[Acting] = []
        """Stopped while the administrator was locked out; undone as soon as it has access."""
        self._scars: dict[Any, set[Status]] = {shard: set() for shard in self.shards}
        """How stopped faults may still show on connections, until the shard has no fault and has answered.
        """

    def on(self, shard: Any) -> list[Acting]:
        return [acting for acting in self.acting if acting.shard == shard]

    def writable(self, shard: Any) -> bool:
        return all(acting.fault.layer == "network" for acting in self.on(shard))

    def refuses(self, wanted: Sequence[tuple[Any, Any]]) -> bool:
        """Whether the lab must refuse: impossible, already active, a second fault in a server, or one in a stopped
        server.
        """
        present = [(acting.shard, acting.fault) for acting in self.acting]
        for shard, fault in wanted:
            if shard not in self.shards or not isinstance(fault, Fault):
                return True
            if fault.layer == "container" or self._lab.backend not in fault.backends:
                return True
            if any(_clash(fault, other) for where, other in present if where == shard):
                return True
            present.append((shard, fault))
        return False

    def start(self, shard: Any, sample: Sample, since: float) -> None:
        held, fault = None, sample.fault
        if isinstance(fault, DataFault):
            target = self._lab._shards[shard]
            held = fault.alter(sorted(self.rows[shard].items()), target.random(fault), target.foreign)
        self.acting.append(Acting(shard, sample, since, held))

    def stop(self, chosen: Iterable[Acting]) -> None:
        """Stops the latest first, as the lab does."""
        wanted = set(map(id, chosen))
        for acting in [one for one in reversed(self.acting) if id(one) in wanted]:
            self._stop(acting)

    def _stop(self, acting: Acting) -> None:
        self.acting.remove(acting)
        shard, others = acting.shard, self.on(acting.shard)
        gone = any(other.fault.layer in GONE for other in others)
        if gone and acting.fault.layer in INSIDE:
            self._postponed.append(acting)
        if not gone:
            self._postponed = [one for one in self._postponed if one.shard != shard]
        if isinstance(acting.fault, faults.Kill):
            for other in self._postponed:
                other.outlived = other.outlived or other.shard == shard
        self._scars[shard] |= (acting.sample.warm | acting.sample.cold | {Status.DISCONNECTED}) - {Status.OK}
        if not others:
            self._scars[shard].clear()

    def held(self, shard: Any, window: Window) -> list[tuple[Any, Any]]:
        """What the server holds in the window, ascending."""
        lie = next((one.held for one in self._all_on(shard) if one.held is not None), None)
        rows = sorted(self.rows[shard].items()) if lie is None else lie
        return [row for row, place in zip(rows, self._places(rows), strict=True) if _is_in(place, window)]

    def allowed(self, shard: Any, who: str, window: Window, now: float) -> frozenset[Status]:
        """The statuses that a correct read which has just ended may report for the shard."""
        faulty = self._all_on(shard)
        each = [self._by(one, who, window, now) for one in faulty]
        fails = set().union(*each) - {Status.OK}
        if sum(isinstance(one.fault, SLOW) for one in faulty) > 1:
            fails.add(Status.TIMEOUT)
        if {"server", "network"} <= {one.fault.layer for one in faulty}:
            # The server's message may be lost on the way, so that only the end of the connection arrives.
            fails |= {Status.DISCONNECTED, Status.UNREACHABLE}
        if who == WARM:
            fails |= self._scars[shard]
        return frozenset(fails | {Status.OK} if all(Status.OK in statuses for statuses in each) else fails)

    def must_fire(self, shard: Any, window: Window) -> Acting | None:
        """The shard's only fault if a client with a new connection cannot miss it, else None."""
        faulty = self._all_on(shard)
        alone = faulty[0] if len(faulty) == 1 else None
        return None if alone is None or (isinstance(alone.fault, BY_BYTES) and self._short(shard, window)) else alone

    def judge(self, result: ReadResult, who: str, window: Window, now: float, *, starved: bool) -> None:
        """Raises `AssertionError` if the read is wrong. On a `starved` machine any shard may be late."""
        plan = self._lab.router.prune(*window)
        assert list(result.reports) == list(self.shards)
        rows: list[tuple[Any, Any]] = []
        for shard, report in result.reports.items():
            may = self.allowed(shard, who, window, now) if shard in plan else {Status.SKIPPED}
            may |= {Status.TIMEOUT} if starved and shard in plan else set()
            assert report.status in may, f"shard {shard} is {report.status} ({report.error}), not {_either(may)}"
            mine = self.held(shard, window) if report.status is Status.OK else []
            assert (report.rows, report.ranges) == (len(mine), plan.get(shard, ()))
            assert (report.error is not None) == report.failed
            rows += mine
        seen = [(row["id"], row["name"]) for row in result.table.to_pylist()]
        ids = [row_id for row_id, _ in seen]
        assert ids == sorted(set(ids)), f"not strictly ascending: {ids}"
        assert seen == sorted(rows), _difference(seen, sorted(rows))
        self._judge_gaps(result, window)

    def _judge_gaps(self, result: ReadResult, window: Window) -> None:
        """Checks ID by ID that `missing` has the requested IDs of the failed shards, in the fewest ranges."""
        router = self._lab.router
        lost = {i for i in owned_ids(router) if in_window(*window, i) and result.reports[router.locate(i)].failed}
        assert unrolled(result.missing) == lost, f"missing is {result.missing}, but lost IDs are {sorted(lost)}"
        starts, stops = {i for i in lost if i - 1 not in lost}, {i for i in lost if i + 1 not in lost}
        assert result.missing == tuple(zip(sorted(starts), sorted(stops), strict=True))
        assert result.complete == (not lost)

    def _all_on(self, shard: Any) -> list[Acting]:
        return [*self.on(shard), *(one for one in self._postponed if one.shard == shard)]

    def _by(self, acting: Acting, who: str, window: Window, now: float) -> frozenset[Status]:
        if acting.held is not None and not acting.sample.cold & {Status.OK}:
            return self._lying(acting.shard, window)
        statuses = acting.sample.cold if who == COLD else acting.sample.cold | acting.sample.warm
        passes = acting.is_over(now) or (isinstance(acting.fault, BY_BYTES) and self._short(acting.shard, window))
        return statuses | {Status.OK} if passes else statuses

    def _lying(self, shard: Any, window: Window) -> frozenset[Status]:
        """A lie inside the window is detected; a key of text, which Postgres declares, in any window."""
        ids = [row_id for row_id, _ in self.held(shard, window)]
        whole = self.held(shard, (None, None))
        if self._lab.backend == "postgres" and window != (None, None) and any(isinstance(i, str) for i, _ in whole):
            return frozenset({Status.INVALID})
        good = len(set(ids)) == len(ids) and all(type(i) is int and self._lab.router.locate(i) == shard for i in ids)
        return frozenset({Status.OK if good else Status.INVALID})

    def _places(self, rows: Sequence[tuple[Any, Any]]) -> list[int | None]:
        """Where the server sees each row: Postgres finds NULL in no window, Redis next to the row before it."""
        last = next((int(row_id) for row_id, _ in rows if row_id is not None), 0)
        places: list[int | None] = []
        for row_id, _ in rows:
            last = last if row_id is None else int(row_id)
            places.append(None if row_id is None and self._lab.backend == "postgres" else last)
        return places

    def _short(self, shard: Any, window: Window) -> bool:
        return sum(len(f"{row_id}{name or ''}") for row_id, name in self.held(shard, window)) < SHORT


def _either(statuses: Iterable[Status]) -> str:
    return " or ".join(sorted(statuses))


def _clash(fault: Fault, other: Fault) -> bool:
    twice = fault == other if isinstance(fault, Toxic) else type(fault) is type(other)
    ends = fault.restarts and other.volatile and other.layer in INSIDE
    return twice or ends or (fault.layer in INSIDE and other.layer in GONE | INSIDE)


def _is_in(place: int | None, window: Window) -> bool:
    return window == (None, None) or (place is not None and in_window(*window, place))


def _difference(seen: Sequence[Any], expected: Sequence[Any]) -> str:
    more, less = [row for row in seen if row not in expected], [row for row in expected if row not in seen]
    return f"unexpected rows: {more}; lost rows: {less}"
