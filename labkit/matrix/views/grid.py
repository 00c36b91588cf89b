"""The matrix as a grid, for all views: a line a fault, a column a kind of server, lines of a layer together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from labkit.matrix.cells import BASELINE
from labkit.matrix.outcome import Outcome, Outcomes

__all__ = ["Line", "grid"]


@dataclass(frozen=True)
class Line:
    """One fault on all kinds of server; None where it cannot act."""

    title: str
    outcomes: tuple[Outcome | None, ...]


def grid(report: Outcomes) -> Iterator[tuple[str, list[Line]]]:
    """(layer, its lines), the one without faults first, in the order in which faults are listed."""
    found: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in report.cells:
        found.setdefault((outcome.cell.layer, outcome.cell.title), {})[outcome.cell.backend] = outcome
    layers = list(dict.fromkeys(layer for layer, _ in found))
    ordered = sorted(found, key=lambda key: layers.index(key[0]))
    for layer, keys in groupby(ordered, key=lambda key: key[0]):
        lines = [Line(key[1], tuple(found[key].get(backend) for backend in report.backends)) for key in keys]
        yield ("" if layer == BASELINE else layer), lines
