"""Stacked horizontal bars of measured times, as a picture for notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from labkit._checks import unknown
from labkit.errors import UsageError
from labkit.show.format import clip
from labkit.show.svg import DIM, PAD, WIDTH, Picture, card, tag, text, title, width_of

__all__ = ["Bars", "span_of", "stacked_bars"]

Bars: TypeAlias = Mapping[str, Mapping[str, float]]
"""For each bar, from top to bottom, its parts from left to right, in seconds."""

_TOP = 48.0
_LANE = 30.0
_LEAST = 1.5  # pixels: a part that took next to no time must still be visible
_NAME_CHARS = 32
_COLOURS = ("#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#f0e442", "#d55e00", "#b8bfc6")
"""The colours of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) on which black text is readable."""


@dataclass(frozen=True, slots=True)
class _Plot:
    """The layout in pixels; `longest` is the seconds from `left` to `right`, None if each bar has its own scale."""

    left: float
    right: float
    longest: float | None
    colours: dict[str, str]

    def width(self, seconds: float, whole: float) -> float:
        share = seconds / ((whole if self.longest is None else self.longest) or 1.0)
        return max((self.right - self.left) * share, _LEAST)


def stacked_bars(headline: str, bars: Bars, *, base: str | None = None, shares: bool = False) -> Picture:
    """An SVG picture of `bars`: the same numbers give the same bytes.

    Each bar is followed by its total time, and by its ratio to the bar `base`. With `shares` all bars are equally wide,
    so that the parts of a short one are visible too.
    Raises `UsageError` if there is no bar, no bar named `base`, or a time that is negative or not finite.
    """
    wholes = _wholes(bars, base)
    written = {name: _written(whole, None if base is None else wholes[base]) for name, whole in wholes.items()}
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    plot = _Plot(
        left=PAD + max(width_of(clip(name, _NAME_CHARS)) for name in bars) + 12,
        right=WIDTH - PAD - max(map(width_of, written.values())) - 12,
        longest=None if shares else max(wholes.values()),
        colours={part: _COLOURS[i % len(_COLOURS)] for i, part in enumerate(parts)},
    )
    bottom = _TOP + _LANE * len(bars)
    lanes = [_lane(name, bars[name], written[name], plot, _TOP + i * _LANE) for i, name in enumerate(bars)]
    legend, height = (_legend(plot, bottom + 26), bottom + 44) if parts[1:] else ("", bottom + 16)
    drawn = [text(PAD, 28, headline, font_weight=600), *lanes, legend]
    label = f"{headline}: " + "; ".join(f"{name} {figures}" for name, figures in written.items())
    return card(drawn, height, label)


def span_of(value: float) -> str:
    """A measured time with two or three digits: "85 µs", "4.2 ms", "310 ms", "1.25 s"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= 0.9995 * size:
            figure = value / size
            return f"{figure:.2f} s" if unit == "s" else f"{figure:.{1 if figure < 9.95 else 0}f} ms"
    return f"{value * 1e6:.0f} µs"


def _wholes(bars: Bars, base: str | None) -> dict[str, float]:
    if not bars:
        raise UsageError("there are no bars: pass at least one")
    if base is not None and base not in bars:
        raise UsageError(unknown("bar", base, bars))
    for name, bar in bars.items():
        for part, value in bar.items():
            if not 0 <= value < math.inf:
                raise UsageError(
                    f"{part!r} of bar {name!r} must be a finite number of seconds, 0 or more, not {value!r}"
                )
    return {name: sum(bar.values()) for name, bar in bars.items()}


def _written(whole: float, base: float | None) -> str:
    return span_of(whole) if not base else f"{span_of(whole)} · {whole / base:.{1 if whole < 9.95 * base else 0}f} ×"


def _lane(name: str, bar: Mapping[str, float], figures: str, plot: _Plot, y: float) -> str:
    whole, x, baseline = sum(bar.values()), plot.left, y + _LANE / 2 + 4
    drawn = [text(plot.left - 12, baseline, clip(name, _NAME_CHARS), text_anchor="end")]
    for part, value in bar.items():
        width = plot.width(value, whole)
        drawn.append(_segment(part, value, plot.colours[part], x, width, y, labelled=len(bar) > 1))
        x += width
    drawn.append(text(x + 10, baseline, figures, font_weight=600))
    return tag("g", *drawn, class_="lane", data_bar=name, data_seconds=f"{whole:.6f}")


def _segment(part: str, value: float, colour: str, x: float, width: float, y: float, *, labelled: bool) -> str:
    """A part's box, with its time inside if it fits; for a single part, the time after the bar is enough."""
    figure = span_of(value)
    box = tag(
        "rect", title(f"{part}: {figure}"), x=x, y=y + 4, width=width, height=_LANE - 8,
        fill=colour, stroke="#fff", stroke_width=0.5 if width > 2 * _LEAST else 0,
    )  # fmt: skip
    fits = labelled and width_of(figure, 11) <= width - 4
    label = text(x + width / 2, y + _LANE / 2 + 4, figure, font_size=11, text_anchor="middle") if fits else ""
    return tag("g", box, label, class_="part", data_part=part, data_seconds=f"{value:.6f}")


def _legend(plot: _Plot, y: float) -> str:
    """The parts with their colours, in order of first appearance."""
    drawn, x = [], PAD
    for part, colour in plot.colours.items():
        drawn += [tag("rect", x=x, y=y - 10, width=12, height=12, fill=colour), text(x + 18, y, part, fill=DIM)]
        x += 18 + width_of(part) + 12
    return tag("g", *drawn, class_="legend")
