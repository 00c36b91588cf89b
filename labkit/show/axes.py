"""The frame of the picture's upper part: the layout, the time axis and the deadline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.show.facts import outcome
from labkit.show.format import clip, exact_seconds, plain
from labkit.show.svg import DIM, INK, tag, text, width_of

if TYPE_CHECKING:
    from labkit.report import ResultLike

__all__ = ["LABEL_CHARS", "Plot", "axis", "deadline", "plot_of"]

LABEL_CHARS = 20
"""Most characters of a shard's name that are drawn; the tooltip has the whole name."""
UNTIMED = "not to scale: no measured times in a recorded notebook"


@dataclass(frozen=True, slots=True)
class Plot:
    """The layout in pixels; `span` is the seconds that the time axis covers from `left` to `right`.

    Unless it is `timed`, nothing measured is drawn, and nothing that depends on it.
    """

    left: float
    right: float
    top: float
    lane: float
    lanes: int
    span: float
    timed: bool = True

    @property
    def bottom(self) -> float:
        """The y of the time axis."""
        return self.top + self.lane * self.lanes

    def x(self, seconds: float) -> float:
        """The x of a moment of the read."""
        return self.left + (self.right - self.left) * seconds / self.span


def plot_of(result: ResultLike, left: float, right: float, top: float, *, timed: bool = True) -> Plot:
    """A plot for `result` between `left` and `right`, with room for names on its left and outcomes on its right."""
    reports = result.reports.values()
    names = max((width_of(clip(plain(report.shard), LABEL_CHARS)) for report in reports), default=0)
    outcomes = max((width_of(outcome(report, timed=timed)) for report in reports), default=0)
    latest = max((report.started + report.elapsed for report in reports if timed), default=0)
    return Plot(
        left=left + max(names, width_of("shard")) + 12,
        right=right - max(outcomes, width_of("outcome")) - 14,
        top=top,
        lane=28 if len(reports) <= 24 else 18,
        lanes=len(reports),
        span=max(result.timeout, result.elapsed if timed else 0, latest) * 1.1 or 1.0,
        timed=timed,
    )


def axis(plot: Plot) -> str:
    """The headings, the grid and the seconds below it."""
    y = plot.top - 14
    return "".join(
        [
            text(plot.left - 12, y, "shard", fill=DIM, text_anchor="end"),
            text(plot.right + 14, y, "outcome", fill=DIM),
            *(_tick(moment, plot) for moment in (_moments(plot.span) if plot.timed else ())),
            "" if plot.timed else text(plot.left, plot.bottom + 17, UNTIMED, fill=DIM, font_size=11),
            tag("line", x1=plot.left, y1=plot.bottom, x2=plot.right, y2=plot.bottom, stroke="#8c959f"),
        ]
    )


def deadline(timeout: float, plot: Plot) -> str:
    """The deadline, which the bar of a good answer never crosses, with its label."""
    x = plot.x(timeout)
    line = tag(
        "line", class_="deadline", data_seconds=str(float(timeout)), x1=x, y1=plot.top - 8, x2=x, y2=plot.bottom,
        stroke=INK, stroke_width=1.5, stroke_dasharray="5 3",
    )  # fmt: skip
    return line + text(x, plot.top - 14, f"deadline {exact_seconds(timeout)}", font_weight=600, text_anchor="middle")


def _tick(moment: float, plot: Plot) -> str:
    x = plot.x(moment)
    grid = tag("line", x1=x, y1=plot.top, x2=x, y2=plot.bottom + 4, stroke="#d8dee4")
    return grid + text(x, plot.bottom + 17, exact_seconds(moment), fill=DIM, font_size=11, text_anchor="middle")


def _moments(span: float) -> list[float]:
    """Three to seven round numbers of seconds within `span`, 0 first."""
    rough = span / 6
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * i for i in range(math.floor(span / step) + 1)]
