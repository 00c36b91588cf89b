"""The failure matrix: every fault on every kind of server, each read judged against the truth.

>>> report = await run(backends=["redis"], faults=["Kill", "Pause"])  # doctest: +SKIP
>>> report.right  # doctest: +SKIP
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit._imports import load, need

if TYPE_CHECKING:
    from labkit.matrix.cells import Cell
    from labkit.matrix.contract import Complaint, Contract, Kind
    from labkit.matrix.evidence import Observation, Truth
    from labkit.matrix.judging import judge
    from labkit.matrix.outcome import Outcome
    from labkit.matrix.report import MatrixReport
    from labkit.matrix.session import run

__all__ = [
    "Cell",
    "Complaint",
    "Contract",
    "Kind",
    "MatrixReport",
    "Observation",
    "Outcome",
    "Truth",
    "judge",
    "run",
]

need("lab")

_HOME = {
    "Cell": "labkit.matrix.cells",
    "Complaint": "labkit.matrix.contract",
    "Contract": "labkit.matrix.contract",
    "Kind": "labkit.matrix.contract",
    "MatrixReport": "labkit.matrix.report",
    "Observation": "labkit.matrix.evidence",
    "Outcome": "labkit.matrix.outcome",
    "Truth": "labkit.matrix.evidence",
    "judge": "labkit.matrix.judging",
    "run": "labkit.matrix.session",
}

if not TYPE_CHECKING:  # otherwise every misspelt name would be one

    def __getattr__(name: str) -> Any:
        return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
