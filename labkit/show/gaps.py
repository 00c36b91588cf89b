"""The lower part of the picture: the IDs that were asked for, and the gaps in them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from labkit.report import Status
from labkit.show.facts import missing_text
from labkit.show.format import LOOKS, clip, count, range_text, ranges_text
from labkit.show.svg import DIM, tag, text, title, width_of

if TYPE_CHECKING:
    from labkit._types import Range, Ranges
    from labkit.report import ResultLike

__all__ = ["gap_hatching", "strip", "strip_height"]


_BAR = 24.0
_RED = "#b3261e"
_GREEN = LOOKS[Status.OK].colour
_COLUMN = 3.0  # pixels: the width of the columns in which thousands of gaps are drawn
_HALO: dict[str, str | float] = {"paint_order": "stroke", "stroke": "#fff", "stroke_width": 4}  # text on hatching
_SEPARATE = 40  # most asked ranges that are drawn one by one


@dataclass(frozen=True, slots=True)
class _Line:
    """The asked ranges side by side, equally wide: IDs may be 2**63 apart, or one."""

    left: float
    right: float
    y: float
    asked: Ranges
    lows: list[int]
    gaps: Ranges

    def x(self, position: int) -> float:
        return self.left + (self.right - self.left) * position / len(self.asked)

    def missing(self, pair: Range) -> bool:
        i = bisect_right(self.gaps, pair[0], key=lambda gap: gap[0]) - 1
        return i >= 0 and pair[0] <= self.gaps[i][1]

    def extent(self, gap: Range) -> tuple[float, float]:
        first = bisect_left(self.lows, gap[0])
        return self.x(first), self.x(max(bisect_right(self.lows, gap[1]), first + 1))


def strip_height(result: ResultLike) -> float:
    """The height in pixels of the strip with its lines of text."""
    return 74.0 if any(report.ranges for report in result.reports.values()) else 22.0


def strip(result: ResultLike, left: float, right: float, y: float, prefix: str) -> str:
    """Answered ranges filled, missing ones hatched and labelled, with a summary in words below."""
    asked = tuple(sorted(pair for report in result.reports.values() for pair in report.ranges))
    if not asked:
        return text(left, y, "no shard owns an ID that was asked for", fill=DIM, font_style="italic")
    line = _Line(left, right, y + 8, asked, [low for low, _ in asked], result.missing)
    return "".join(
        [
            text(left, y, _caption(asked), fill=DIM, font_size=11),
            tag("g", *_answered(line), *_gaps(line, prefix), class_="ids"),
            _summary(result, line),
        ]
    )


def gap_hatching(prefix: str) -> str:
    """The pattern that `strip` fills gaps with."""
    ground = tag("rect", width=7, height=7, fill="#fdeceb")
    stripe = tag("rect", width=2, height=7, fill="#e5534b", fill_opacity=0.7)
    return tag(
        "pattern", ground, stripe, id=f"{prefix}-gap", width=7, height=7,
        patternUnits="userSpaceOnUse", patternTransform="rotate(45)",
    )  # fmt: skip


def _caption(asked: Ranges) -> str:
    whole = range_text((asked[0][0], asked[-1][1]))
    return f"IDs asked for: {whole}, in {count(len(asked), 'range')}" + (", drawn equally wide" if asked[1:] else "")


def _answered(line: _Line) -> Iterable[str]:
    """The answered ranges; if there are very many, one box for all, over which the gaps are drawn."""
    if len(line.asked) > _SEPARATE:
        yield _box(line, line.left, line.right, class_="asked", fill=_GREEN, fill_opacity=0.3)
        return
    for i, pair in enumerate(line.asked):
        if line.missing(pair):
            continue
        left, right = line.x(i), line.x(i + 1)
        yield _box(
            line, left, right - 2, class_="asked", data_low=str(pair[0]), data_high=str(pair[1]),
            fill=_GREEN, fill_opacity=0.3, stroke=_GREEN,
        )  # fmt: skip
        yield _label(range_text(pair), left, right - 2, line)


def _gaps(line: _Line, prefix: str) -> Iterable[str]:
    """The gaps; those in the same pixel column share a box, which is the more opaque the more of it is missing."""
    room = 2 if len(line.asked) <= _SEPARATE else 0
    for _, group in groupby(line.gaps, key=lambda gap: int(line.extent(gap)[0] / _COLUMN)):
        gaps = tuple(group)
        left, right = line.extent(gaps[0])[0], line.extent(gaps[-1])[1] - room
        yield _gap(line, left, max(right, left + _COLUMN / 2), gaps, prefix)
        if len(gaps) == 1:
            yield _label(range_text(gaps[0]), left, right, line, fill=_RED, font_weight=700, **_HALO)


def _gap(line: _Line, left: float, right: float, gaps: Ranges, prefix: str) -> str:
    wide = right - left > 2 * _COLUMN  # hatching and outline need room
    lost = sum(end - start for start, end in map(line.extent, gaps))
    return _box(
        line, left, right, title(f"missing: {ranges_text(gaps)}"), class_="gap",
        data_low=str(gaps[0][0]), data_high=str(gaps[-1][1]), data_gaps=len(gaps),
        fill=f"url(#{prefix}-gap)" if wide else _RED, stroke=_RED, stroke_width=1.5 if wide else 0,
        fill_opacity=1.0 if len(gaps) == 1 else min(max(lost / (right - left), 0.2), 1.0),
    )  # fmt: skip


def _box(line: _Line, left: float, right: float, *children: str, **attributes: str | float) -> str:
    return tag("rect", *children, x=left, y=line.y, width=right - left, height=_BAR, **attributes)


def _label(content: str, left: float, right: float, line: _Line, **attributes: str | float) -> str:
    """The label in the middle of its box, if it fits."""
    if width_of(content) > right - left - 4:
        return ""
    return text((left + right) / 2, line.y + _BAR / 2 + 4, content, text_anchor="middle", **attributes)


def _summary(result: ResultLike, line: _Line) -> str:
    y = line.y + _BAR + 18
    if not result.missing:
        return text(line.left, y, "nothing missing", class_="summary", fill="#00664b", font_weight=600)
    # as many ranges as fit on the line; result.missing has them all
    options = (f"missing {missing_text(result.missing, most)}" for most in range(8, 0, -1))
    most = int((line.right - line.left) / width_of("m"))
    content = next((option for option in options if len(option) <= most), f"missing {missing_text(result.missing, 1)}")
    return text(line.left, y, clip(content, most), class_="summary", fill=_RED, font_weight=600)
