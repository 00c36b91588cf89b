"""The results as tables for a terminal."""

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
"""Cores that other processes may keep busy without a warning."""
TIMED = (
    "Timed: the read, up to the named answer. Not timed: starting a fresh process for each measurement, imports, "
    "connecting and a first row of each shard (polars, connectorx and dask keep no connection, so their connecting is "
    "timed), and the check that rows, order, ids and text are right. Peak memory is the process's, above what it held "
    "before the read. Ratios are of medians of the same rounds, in which contestants take turns."
)
"""The note below the tables."""


def tables(results: Results) -> Iterator[Table | Text]:
    """One table per part and one of the promised limits; a warning if the machine was busy."""
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
        yield Text(
            f"{results.machine['load']} cores were busy at the start: do not trust these figures.",
            "bold red",
        )


def _of_part(part: Part) -> Table:
    table = Table("", title=part.title, title_justify="left")
    for head, _ in COLUMNS[part.kind]:
        table.add_column(head, justify="right")
    table.add_column("")
    for name, score in part.scores.items():
        style = "bold" if name == OURS else None
        table.add_row(label(part.kind, name), *cells(part, name), score.note, style=style)
    return table
