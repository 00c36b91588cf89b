"""The picture of a read: a bar per shard against the deadline, and the IDs that are missing."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from labkit.show.bars import bars, hatchings
from labkit.show.elements import tag
from labkit.show.facts import headline
from labkit.show.picture import Picture
from labkit.show.plot import axis, deadline, plot_of
from labkit.show.strip import gap_hatching, strip, strip_height

if TYPE_CHECKING:
    from labkit.result import ReadResult

__all__ = ["timeline"]

_WIDTH = 780.0
_PAD = 18.0
_FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def timeline(result: ReadResult) -> Picture:
    """An SVG picture of `result`: the same numbers give the same bytes."""
    plot = plot_of(result, _PAD, _WIDTH - _PAD, top=44.0)
    prefix = _prefix(result)
    strip_top = plot.bottom + 46
    height = strip_top + strip_height(result)
    drawn = [
        tag("defs", hatchings(result, prefix), gap_hatching(prefix)),
        # a ground of its own: notebooks may be dark
        tag("rect", x=0.5, y=0.5, width=_WIDTH - 1, height=height - 1, rx=8, fill="#fff", stroke="#d0d7de"),
        axis(plot),
        bars(result, plot, prefix),
        deadline(result.timeout, plot),
        strip(result, _PAD, _WIDTH - _PAD, strip_top, prefix),
    ]
    label = f"Timeline of a read. {headline(result)}"
    return Picture(_svg(drawn, height, label), label)


def _svg(drawn: list[str], height: float, label: str) -> str:
    return tag(
        "svg", *drawn, xmlns="http://www.w3.org/2000/svg", width=_WIDTH, height=height,
        viewBox=f"0 0 {_WIDTH:g} {height:g}", style="max-width:100%;height:auto", role="img", aria_label=label,
        font_family=_FONTS, font_size=12,
    )  # fmt: skip


def _prefix(result: ReadResult) -> str:
    """Of the content, so that pictures on one page do not take each other's patterns."""
    content = (list(result.reports.values()), result.missing, result.elapsed, result.timeout)
    return "labkit-" + sha256(repr(content).encode("utf-8", "backslashreplace")).hexdigest()[:10]
