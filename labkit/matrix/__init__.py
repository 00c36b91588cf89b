"""The failure matrix: every fault on every kind of server, each read judged against the truth.

>>> report = await run(backends=["redis"], faults=["Kill", "Pause"])  # doctest: +SKIP
>>> report.right  # doctest: +SKIP
True
"""

from labkit.extras import need

need("lab")

from labkit.matrix.cells import Cell  # noqa: E402 - one of them imports what was asked for above
from labkit.matrix.complaint import Complaint, Kind  # noqa: E402
from labkit.matrix.evidence import Observation, Truth  # noqa: E402
from labkit.matrix.judge import judge  # noqa: E402
from labkit.matrix.outcome import Outcome  # noqa: E402
from labkit.matrix.report import MatrixReport  # noqa: E402
from labkit.matrix.run import run  # noqa: E402

__all__ = ["Cell", "Complaint", "Kind", "MatrixReport", "Observation", "Outcome", "Truth", "judge", "run"]
