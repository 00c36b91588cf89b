"""The results in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from tests.bench.columns import COLUMNS, cells, label
from tests.bench.limits import verdicts
from tests.bench.machine import described
from tests.bench.results import OURS, Part, Results

__all__ = ["TIMED", "tables"]

BUSY = 0.3
"""Cores that others may keep busy."""
TIMED = (
    "On the clock: the read, to the answer that is named. Not on it: starting a fresh process for each measurement, "
    "imports, connecting and a first row of each shard (polars, connectorx and dask connect on the clock: they keep no "
    "connection), and the check that rows, order, ids and text are right. Peak memory is the process's, above what it "
    "held then. Ratios are of medians of the same rounds, in which contestants take turns."
)
"""What is said below the tables."""


def tables(results: Results) -> Iterator[Table | Text]:
    """A table a part, and one of what was promised; a warning where the machine had other work."""
    for part in results.parts:
        yield _of_part(part)
    found = verdicts(results)
    if found:
        machine = described(results.machine)
        table = Table("promised", "at most", "measured", "", title=f"Limits: {results.date[:10]}, {machine}")
        for verdict in found:
            style = "green" if verdict.held else "bold red"
            table.add_row(verdict.claim, verdict.allowed, verdict.seen, verdict.mark, style=style)
        yield table
    if results.machine.get("load", 0.0) > BUSY:
        yield Text(f"Others kept {results.machine['load']} cores busy when this began: do not trust it.", "bold red")


def _of_part(part: Part) -> Table:
    table = Table("", title=part.title, title_justify="left")
    for head, _ in COLUMNS[part.kind]:
        table.add_column(head, justify="right")
    table.add_column("")
    for name, score in part.scores.items():
        style = "bold" if name == OURS else None
        table.add_row(label(part.kind, name), *cells(part, name), score.note, style=style)
    return table
