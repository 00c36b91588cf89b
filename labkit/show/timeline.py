"""A read as a timeline: one bar per shard against the deadline, and what happened at the shard meanwhile."""

from __future__ import annotations

from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING

from labkit._replay import steady
from labkit.report import Status, Window
from labkit.show.axes import LABEL_CHARS, Plot, axis, deadline, plot_of
from labkit.show.facts import headline, outcome, outline
from labkit.show.format import LOOKS, clip, plain, ranges_text, seconds
from labkit.show.gaps import gap_hatching, strip, strip_height
from labkit.show.svg import DIM, PAD, WIDTH, Picture, card, tag, text, title, width_of

if TYPE_CHECKING:
    from labkit._types import ShardKey
    from labkit.report import ResultLike, ShardReport
    from labkit.show.axes import Plot

__all__ = ["bars", "hatchings", "timeline", "windows"]


def timeline(result: ResultLike) -> Picture:
    """An SVG picture of `result`: the same numbers give the same bytes.

    Where outputs are compared a notebook shows it without measured times: the bars are as long as is usual for their
    status, and faults last for the whole read.
    """
    return _picture(result, True, _picture(result, False))


def _picture(result: ResultLike, timed: bool, untimed: Picture | None = None) -> Picture:
    plot = plot_of(result, PAD, WIDTH - PAD, top=44.0, timed=timed)
    prefix = _prefix(result, timed)
    strip_top = plot.bottom + 46
    height = strip_top + strip_height(result)
    drawn = [
        tag("defs", hatchings(result, prefix), gap_hatching(prefix)),
        axis(plot),
        bars(result, plot, prefix),
        deadline(result.timeout, plot),
        strip(result, PAD, WIDTH - PAD, strip_top, prefix),
    ]
    return card(drawn, height, f"Timeline of a read. {headline(result)}", untimed)


def _prefix(result: ResultLike, timed: bool) -> str:
    """Derived from the content, so that pictures on one page do not use each other's patterns."""
    content: tuple[object, ...] = (list(result.reports.values()), result.missing, result.elapsed, result.timeout)
    if not timed:
        content = (outline(result), result.timeout)
    return "labkit-" + sha256(repr(content).encode("utf-8", "backslashreplace")).hexdigest()[:10]


_LEAST_BAR = 3.0  # pixels: one millisecond against a deadline of seconds must still be visible
_LEAST_CAUSE = 90.0  # pixels: a cause cut shorter than that is useless


def bars(result: ResultLike, plot: Plot, prefix: str) -> str:
    """One lane per shard, in the router's order; `prefix` begins the IDs of the hatchings."""
    lanes = [(report, plot.top + i * plot.lane) for i, report in enumerate(result.reports.values())]
    return "".join(
        _lane(report, result.timeout, plot, y, prefix) + windows(result, report.shard, plot, y) for report, y in lanes
    )


def hatchings(result: ResultLike, prefix: str) -> str:
    """The patterns with which `bars` fills failed bars."""
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
    parts = [title(_tooltip(report, plot)), text(plot.left - 12, baseline, name, font_weight=600, text_anchor="end")]
    if report.status is Status.SKIPPED:
        parts.append(text(plot.right + 14, baseline, outcome(report), fill=DIM, font_style="italic"))
    else:
        parts.append(_bar(report, timeout, plot, y, prefix))
        parts.append(_cause(report, timeout, plot, baseline))
        parts.append(text(plot.right + 14, baseline, outcome(report, timed=plot.timed)))
    return tag(
        "g", *parts, class_="shard", data_shard=str(report.shard), data_status=report.status.value,
        data_rows=report.rows,
        **({"data_started": f"{report.started:.6f}", "data_elapsed": f"{report.elapsed:.6f}"} if plot.timed else {}),
    )  # fmt: skip


_USUAL = {Status.OK: 0.2, Status.TIMEOUT: 1.0}
"""How long a bar without a measured time is, of the deadline; others are as short as can be seen."""


def _ends(report: ShardReport, timeout: float, plot: Plot) -> tuple[float, float]:
    """The left and right end of a bar."""
    if plot.timed:
        return plot.x(report.started), plot.x(report.started + report.elapsed)
    return plot.left, plot.x(_USUAL.get(report.status, 0.0) * timeout)


def _bar(report: ShardReport, timeout: float, plot: Plot, y: float, prefix: str) -> str:
    start, end = _ends(report, timeout, plot)
    look = LOOKS[report.status]
    return tag(
        "rect", class_="bar", x=start, y=y + 4, width=max(end - start, _LEAST_BAR), height=plot.lane - 8, rx=2,
        fill=f"url(#{prefix}-{report.status})" if report.failed else look.colour, stroke=look.colour,
    )  # fmt: skip


def _cause(report: ShardReport, timeout: float, plot: Plot, baseline: float) -> str:
    """The cause of a quick failure, in the space between its short bar and the deadline."""
    left, right = _ends(report, timeout, plot)
    start = max(right, left + _LEAST_BAR) + 7
    room = plot.x(timeout) - 6 - start
    if not report.error or room < _LEAST_CAUSE:
        return ""
    return text(start, baseline, clip(_cause_text(report, plot), int(room / width_of("m", 11))), fill=DIM, font_size=11)


def _cause_text(report: ShardReport, plot: Plot) -> str:
    cause = plain(report.error or "")
    return cause if plot.timed else steady(cause)


def _tooltip(report: ShardReport, plot: Plot) -> str:
    asked = f"asked for {ranges_text(report.ranges)}" if report.ranges else "owns no ID that was asked for"
    cause = f": {_cause_text(report, plot)}" if report.error else ""
    return f"shard {report.shard}, {outcome(report, timed=plot.timed)}{cause} ({asked})"


_COLOUR = "#6639ba"
_LEAST = 4.0  # pixels: a very short window must still be visible
_SIZE = 10.0
_HALO: dict[str, str | float] = {"paint_order": "stroke", "stroke": "#fff", "stroke_width": 3}


def windows(result: ResultLike, shard: ShardKey, plot: Plot, y: float) -> str:
    """The frames in the lane of `shard`, whose top is at `y`; windows that coincide share one."""
    mine = [window for window in result.windows if window.shard == shard]
    if plot.timed:
        mine.sort(key=_extent)
    else:
        mine = [Window(shard, label, 0.0, None) for label in dict.fromkeys(window.label for window in mine)]
    deadline = plot.x(result.timeout)
    return "".join(_frame(list(group), plot, y, deadline) for _, group in groupby(mine, key=_extent))


def _extent(window: Window) -> tuple[float, float]:
    return window.started, float("inf") if window.ended is None else window.ended


def _frame(group: list[Window], plot: Plot, y: float, deadline: float) -> str:
    started, ended = group[0].started, group[0].ended
    left = plot.x(started)
    right = plot.right if ended is None else max(plot.x(ended), left + _LEAST)
    label = " + ".join(plain(window.label) for window in group)
    lasted = f", from {seconds(started)} to {'the end of the read, and after it' if ended is None else seconds(ended)}"
    closing = "" if ended is None else f"{ended:.6f}"
    bottom = y + plot.lane - 1
    # no right edge if it went on after the read
    border = f"M{right:.2f},{y + 1:.2f} H{left:.2f} V{bottom:.2f} H{right:.2f}{'' if ended is None else ' Z'}"
    return tag(
        "g",
        title(label + (lasted if plot.timed else "")),
        tag("rect", x=left, y=y + 1, width=right - left, height=plot.lane - 2, fill=_COLOUR, fill_opacity=0.08),
        tag("path", d=border, fill="none", stroke=_COLOUR, stroke_dasharray="3 2"),
        _name(label, left, min(right, deadline), y + plot.lane - 4),
        class_="window", data_label=label,
        **({"data_started": f"{started:.6f}", "data_ended": closing} if plot.timed else {}),
    )  # fmt: skip


def _name(label: str, left: float, right: float, baseline: float) -> str:
    """At the right end, away from short bars and their causes; if there is no room, only the tooltip has it."""
    most = int((right - left - 8) / width_of("m", _SIZE))
    if most < 3:
        return ""
    return text(
        right - 5, baseline, clip(label, most), fill=_COLOUR, font_size=_SIZE, font_weight=600, text_anchor="end",
        **_HALO,
    )  # fmt: skip
