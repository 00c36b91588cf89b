"""The lanes of the picture: each shard's name, its bar, its cause and its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.report import Status
from labkit.show.axes import LABEL_CHARS, Plot
from labkit.show.elements import DIM, tag, text, title, width_of
from labkit.show.facts import outcome
from labkit.show.format import clip, plain, ranges_text
from labkit.show.palette import LOOKS
from labkit.show.windows import windows

if TYPE_CHECKING:
    from labkit.report import Read, ShardReport

__all__ = ["bars", "hatchings"]

_LEAST_BAR = 3.0  # pixels: one millisecond against a deadline of seconds must still be seen
_LEAST_CAUSE = 90.0  # pixels: a cause cut shorter than that says nothing


def bars(result: Read, plot: Plot, prefix: str) -> str:
    """A lane per shard, in the router's order; `prefix` is that of the hatchings' IDs."""
    lanes = [(report, plot.top + i * plot.lane) for i, report in enumerate(result.reports.values())]
    return "".join(
        _lane(report, result.timeout, plot, y, prefix) + windows(result, report.shard, plot, y) for report, y in lanes
    )


def hatchings(result: Read, prefix: str) -> str:
    """The patterns that `bars` fills failed bars with."""
    statuses = dict.fromkeys(report.status for report in result.reports.values() if report.failed)
    return "".join(_hatching(status, prefix) for status in statuses)


def _hatching(status: Status, prefix: str) -> str:
    look = LOOKS[status]
    ground = tag("rect", width=7, height=7, fill=look.colour, fill_opacity=0.25)
    stripe = tag("rect", width=3, height=7, fill=look.colour)
    turn = f"rotate({look.angle})"
    return tag(
        "pattern", ground, stripe, id=f"{prefix}-{status}", width=7, height=7,
        patternUnits="userSpaceOnUse", patternTransform=turn,
    )  # fmt: skip


def _lane(report: ShardReport, timeout: float, plot: Plot, y: float, prefix: str) -> str:
    baseline = y + plot.lane / 2 + 4
    name = clip(plain(report.shard), LABEL_CHARS)
    parts = [title(_tooltip(report)), text(plot.left - 12, baseline, name, font_weight=600, text_anchor="end")]
    if report.status is Status.SKIPPED:
        parts.append(text(plot.right + 14, baseline, outcome(report), fill=DIM, font_style="italic"))
    else:
        parts.append(_bar(report, plot, y, prefix))
        parts.append(_cause(report, timeout, plot, baseline))
        parts.append(text(plot.right + 14, baseline, outcome(report)))
    return tag(
        "g", *parts, class_="shard", data_shard=str(report.shard), data_status=report.status.value,
        data_rows=report.rows, data_started=f"{report.started:.6f}", data_elapsed=f"{report.elapsed:.6f}",
    )  # fmt: skip


def _bar(report: ShardReport, plot: Plot, y: float, prefix: str) -> str:
    start, end = plot.x(report.started), plot.x(report.started + report.elapsed)
    look = LOOKS[report.status]
    return tag(
        "rect", class_="bar", x=start, y=y + 4, width=max(end - start, _LEAST_BAR), height=plot.lane - 8, rx=2,
        fill=f"url(#{prefix}-{report.status})" if report.failed else look.colour, stroke=look.colour,
    )  # fmt: skip


def _cause(report: ShardReport, timeout: float, plot: Plot, baseline: float) -> str:
    """The cause of a quick failure, in the room its short bar leaves before the deadline."""
    start = max(plot.x(report.started + report.elapsed), plot.x(report.started) + _LEAST_BAR) + 7
    room = plot.x(timeout) - 6 - start
    if not report.error or room < _LEAST_CAUSE:
        return ""
    return text(start, baseline, clip(plain(report.error), int(room / width_of("m", 11))), fill=DIM, font_size=11)


def _tooltip(report: ShardReport) -> str:
    asked = f"asked for {ranges_text(report.ranges)}" if report.ranges else "owns no ID that was asked for"
    cause = f": {report.error}" if report.error else ""
    return f"shard {report.shard}, {outcome(report)}{cause} ({asked})"
