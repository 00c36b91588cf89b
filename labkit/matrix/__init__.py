"""The failure matrix: every fault on every kind of server, each read judged against the truth.

>>> report = await run(backends=["redis"], faults=["Kill", "Pause"])  # doctest: +SKIP
>>> report.right  # doctest: +SKIP
True
"""

from labkit.matrix.cells import Cell
from labkit.matrix.complaint import Complaint, Kind
from labkit.matrix.evidence import Observation, Truth
from labkit.matrix.judge import judge
from labkit.matrix.outcome import Outcome
from labkit.matrix.report import MatrixReport
from labkit.matrix.run import run

__all__ = ["Cell", "Complaint", "Kind", "MatrixReport", "Observation", "Outcome", "Truth", "judge", "run"]
