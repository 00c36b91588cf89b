"""What came of a cell, and of all cells."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from labkit._types import ShardKey
from labkit._version import __version__
from labkit.lab.connections import Connection
from labkit.matrix.cells import BASELINE, Cell
from labkit.matrix.contract import Complaint, Contract, Kind
from labkit.matrix.evidence import Observation, Read
from labkit.matrix.wire import left, told
from labkit.report import Status, Window
from labkit.result import ReadResult
from labkit.router import CLASSIC
from labkit.show.format import count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Line", "Outcome", "Outcomes", "grid"]


@dataclass
class Outcome:
    """One cell, tried and judged."""

    cell: Cell
    reads: Sequence[Read] = ()
    """The reads made while the faults lasted."""
    healed: float | None = None
    """Seconds from undoing the faults until reads were complete; None if they never were."""
    complaints: list[Complaint] = field(default_factory=list)
    elapsed: float = 0.0
    """Seconds that the whole cell took."""
    wire: Sequence[Connection] = ()
    """What the proxies saw during these reads; times are in seconds since they began."""
    left: Sequence[Connection] = ()
    """If something was left behind: the reader's connections that are new in this cell and still open."""

    @property
    def right(self) -> bool:
        """True if there are no complaints."""
        return not self.complaints

    @property
    def verdict(self) -> str:
        """In a word: right or wrong."""
        return "right" if self.right else "wrong"

    @property
    def spoilt(self) -> bool:
        """True if its lab must not be used for another cell."""
        return any(complaint.kind in (Kind.NOT_HEALED, Kind.NOT_STARTED) for complaint in self.complaints)

    def complain(self, kind: Kind, text: str) -> None:
        """Adds a complaint."""
        self.complaints.append(Complaint(kind, text))

    @property
    def status(self) -> str:
        """How the broken shards were reported: "timeout", or "ok warm, rejected cold"."""
        reported = {read.who: self._reported(read) for read in self.reads}
        if len(set(reported.values())) > 1:
            return ", ".join(f"{words} {who}" for who, words in reported.items())
        return next(iter(reported.values()), "not read")

    @property
    def statuses(self) -> tuple[Status, ...]:
        """How the broken shards were reported, each status once."""
        reported = [read.seen.statuses for read in self.reads if read.seen.statuses is not None]
        return tuple(
            dict.fromkeys(said[shard] for said in reported for shard in self.cell.samples or said if shard in said)
        )

    @property
    def evidence(self) -> list[tuple[str, list[str]]]:
        """Of a wrong cell: titled lists of what the proxies saw, "shard 2: asked 0.001 s (84 bytes), not answered"."""
        if self.right or not self.reads:
            return []
        took = f"What the proxies saw, in seconds since the read began; it took {self.slowest:.3f} s"
        found = [
            (took, list(told(CLASSIC.shards, self.wire))),
            ("Left open", list(left(CLASSIC.shards, self.left))),
        ]
        return [(title, lines) for title, lines in found if lines]

    @property
    def slowest(self) -> float:
        """Seconds of its slowest read."""
        return max((read.seen.elapsed for read in self.reads), default=0.0)

    def picture(self, read: Read) -> ReadResult | None:
        """The read's result with the faults on its timeline, from before its start until after its end."""
        if read.result is None:
            return None
        lasting = [
            Window(shard, type(fault).__name__, 0.0, None)
            for shard, acting in self.cell.faults.items()
            for fault in acting
        ]
        return replace(read.result, windows=tuple(lasting))

    def _reported(self, read: Read) -> str:
        """The statuses of the broken shards; if the reader reports none, its numbers of rows and gaps."""
        seen = read.seen
        if seen.rows is None:
            return _ended(seen)
        if seen.statuses is None:
            gaps = f", {count(len(seen.missing), 'gap')}" if seen.missing else ""
            return count(len(seen.rows), "row") + gaps
        broken: Sequence[ShardKey] = list(self.cell.samples) or list(seen.statuses)
        return " + ".join(dict.fromkeys(str(seen.statuses.get(shard, "?")) for shard in broken))


def _ended(seen: Observation) -> str:
    """How a read without rows ended."""
    ends = {"raised": seen.error, "malformed": seen.malformed, "crashed": seen.crashed}
    return next((word for word, text in ends.items() if text is not None), "stopped")


@dataclass(frozen=True, repr=False)
class Outcomes:
    """All cells, tried and judged."""

    cells: tuple[Outcome, ...]
    launchers: Mapping[str, str]
    """What ran the servers of each kind."""
    timeout: float
    seed: int
    reader: str
    """The name of the external reader that was judged; "" for labkit's own."""
    elapsed: float
    """Seconds that the whole run took."""
    contract: Contract = Contract.GAPS
    """The contract by which the reader was judged."""
    interrupted: bool = False
    """True if the run ended before all cells were tried."""
    table: str = "classic"
    """The table that the shards held."""
    versions: str = f"labkit {__version__}, Python {platform.python_version()}"

    @property
    def backends(self) -> tuple[str, ...]:
        """The kinds of server."""
        return tuple(self.launchers)

    @property
    def right(self) -> bool:
        """True if no cell is wrong."""
        return not self.wrong

    @property
    def verdict(self) -> str:
        """In a word: right or wrong."""
        return "right" if self.right else "wrong"

    @cached_property
    def wrong(self) -> tuple[Outcome, ...]:
        """The cells that are wrong."""
        return tuple(outcome for outcome in self.cells if not outcome.right)

    @property
    def headline(self) -> str:
        """The numbers of cells, of right and of wrong ones, and the time taken."""
        right = len(self.cells) - len(self.wrong)
        text = f"{count(len(self.cells), 'cell')}: {right:,} right, {len(self.wrong):,} wrong, in {self.elapsed:.0f} s"
        return f"{text}; interrupted" if self.interrupted else text

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per cell: fault, backend, status, verdict. No times: it is the same in every run."""
        import pandas as pd

        columns = ["fault", "backend", "status", "verdict"]
        rows = [(o.cell.title, o.cell.backend, o.status, o.verdict) for o in self.cells]
        return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Line:
    """One row of the grid: one fault on all kinds of server, None where it cannot act."""

    title: str
    outcomes: tuple[Outcome | None, ...]


def grid(report: Outcomes) -> Iterator[tuple[str, list[Line]]]:
    """The report as a grid, for all views: (layer, its lines), no fault first, then in the order of the fault list."""
    found: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in report.cells:
        found.setdefault((outcome.cell.layer, outcome.cell.title), {})[outcome.cell.backend] = outcome
    layers = list(dict.fromkeys(layer for layer, _ in found))
    ordered = sorted(found, key=lambda key: layers.index(key[0]))
    for layer, keys in groupby(ordered, key=lambda key: key[0]):
        lines = [Line(key[1], tuple(found[key].get(backend) for backend in report.backends)) for key in keys]
        yield ("" if layer == BASELINE else layer), lines
