"""What went on at a shard during the read, drawn over its bar: a frame for as long as it lasted, with its name."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from labkit.show.elements import tag, text, title, width_of
from labkit.show.format import clip, plain, seconds

if TYPE_CHECKING:
    from labkit._types import ShardKey
    from labkit.report import Read, Window
    from labkit.show.axes import Plot

__all__ = ["windows"]

_COLOUR = "#6639ba"
_LEAST = 4.0  # pixels: a moment must be seen too
_SIZE = 10.0
_HALO: dict[str, str | float] = {"paint_order": "stroke", "stroke": "#fff", "stroke_width": 3}


def windows(result: Read, shard: ShardKey, plot: Plot, y: float) -> str:
    """The frames in the lane of `shard`, whose upper end is at `y`; those that coincide share one."""
    mine = sorted((w for w in result.windows if w.shard == shard), key=_extent)
    deadline = plot.x(result.timeout)
    return "".join(_frame(list(group), plot, y, deadline) for _, group in groupby(mine, key=_extent))


def _extent(window: Window) -> tuple[float, float]:
    return window.started, float("inf") if window.ended is None else window.ended


def _frame(group: list[Window], plot: Plot, y: float, deadline: float) -> str:
    started, ended = group[0].started, group[0].ended
    left = plot.x(started)
    right = plot.right if ended is None else max(plot.x(ended), left + _LEAST)
    label = " + ".join(plain(window.label) for window in group)
    lasted = f"from {seconds(started)} to {'the end of the read, and after it' if ended is None else seconds(ended)}"
    bottom = y + plot.lane - 1
    # open at the side on which it goes on
    outline = f"M{right:.2f},{y + 1:.2f} H{left:.2f} V{bottom:.2f} H{right:.2f}{'' if ended is None else ' Z'}"
    return tag(
        "g",
        title(f"{label}, {lasted}"),
        tag("rect", x=left, y=y + 1, width=right - left, height=plot.lane - 2, fill=_COLOUR, fill_opacity=0.08),
        tag("path", d=outline, fill="none", stroke=_COLOUR, stroke_dasharray="3 2"),
        _name(label, left, min(right, deadline), y + plot.lane - 4),
        class_="window", data_label=label, data_started=f"{started:.6f}",
        data_ended="" if ended is None else f"{ended:.6f}",
    )  # fmt: skip


def _name(label: str, left: float, right: float, baseline: float) -> str:
    """At the right end, where short bars and their causes are not; of one that has no room, the tooltip tells."""
    most = int((right - left - 8) / width_of("m", _SIZE))
    if most < 3:
        return ""
    return text(
        right - 5, baseline, clip(label, most), fill=_COLOUR, font_size=_SIZE, font_weight=600, text_anchor="end",
        **_HALO,
    )  # fmt: skip
