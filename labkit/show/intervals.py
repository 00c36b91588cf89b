"""What is known of an aggregate while shards are missing, as a picture: the interval that holds the true value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from hashlib import sha256
from html import escape
from typing import Any, Protocol

import pyarrow as pa
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.text import Text

from labkit._types import Ranges
from labkit.report import Status
from labkit.show.facts import missing_text
from labkit.show.format import LOOKS, clip, count, plain
from labkit.show.gaps import gap_hatching
from labkit.show.rows import NOTE, Rows, rows_html
from labkit.show.svg import DIM, INK, PAD, WIDTH, Picture, card, tag, text, title, width_of

__all__ = ["interval_html", "interval_renderable"]

_GOOD, _BAD = LOOKS[Status.OK].colour, "#b3261e"
_BAR, _Y = 14.0, 66.0
"""The height of the bar, and where it is in the picture."""
_OPEN = 0.14
"""The share of the picture's width that an open side takes."""
_CHARS = 34
"""Most characters of a value; the tooltip has more."""
_DIGITS = 12
"""Significant digits of a float, since rounding may have changed the last ones, and of an endless quotient."""
_EXACT = 24
"""Most characters of a decimal that is written exactly."""
_CELLS = 48
"""Cells of a terminal that the interval takes."""


class Known(Protocol):
    """What is shown of a `labkit.result.AggregateResult`; see there."""

    @property
    def aggregate(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def at_least(self) -> Any: ...
    @property
    def at_most(self) -> Any: ...
    @property
    def missing(self) -> Ranges: ...
    @property
    def complete(self) -> bool: ...
    @property
    def table(self) -> pa.Table: ...
    @property
    def certain(self) -> Sequence[bool]: ...


def interval_html(result: Known) -> str:
    """For a notebook: a picture of the interval, or the rows of a `top` with the certain ones marked."""
    if result.aggregate.kind == "top":
        rows = rows_html(result.table, marks=_marks(result)) if result.value else ""
        return f'<div class="labkit-top"><p style="{NOTE}">{escape(_headline(result))}</p>{rows}</div>'
    return _picture(result)._repr_html_()


def interval_renderable(result: Known) -> RenderableType:
    """The same for rich."""
    style = "bold green" if result.complete else "bold red"
    lines: list[RenderableType] = [Text(_headline(result), style=style)]
    if result.aggregate.kind == "top":
        lines += [Rows(result.table, marks=_marks(result))] if result.value else []
    elif not result.complete:
        lines.append(_Line(result))
    return Group(*lines)


def _headline(result: Known) -> str:
    """The result in one line: "count(): from 40 to 60; missing 11–20, 41–50 (20 IDs)"."""
    name = plain(result.aggregate)
    if result.aggregate.kind == "top":
        rows = count(len(result.value), "row")
        said = f"{name}: {rows}, exact" if result.complete else f"{name}: {rows}, {sum(result.certain)} certain"
    elif result.complete:
        said = f"{name} = {_said(result.value)}, exact"
    else:
        said = f"{name}: {_bounds(result.at_least, result.at_most)}"
    return said if result.complete else f"{said}; missing {missing_text(result.missing)}"


def _bounds(low: Any, high: Any) -> str:
    if low is None and high is None:
        return "neither bound is known"
    if low is None or high is None:
        return f"at most {_said(high)}" if low is None else f"at least {_said(low)}"
    return f"exactly {_said(low)}" if low == high else f"from {_said(low)} to {_said(high)}"


def _marks(result: Known) -> list[str]:
    if result.complete:
        return []
    return ["✓ certain" if certain else "? perhaps" for certain in result.certain]


def _said(value: Any, most: int = _CHARS) -> str:
    """A value in words: numbers with separators, times with a space, NULL for no value."""
    if value is None:
        return "NULL"
    if isinstance(value, int) and not isinstance(value, bool):
        return clip(f"{value:,}", most)
    if isinstance(value, float) and math.isfinite(value):
        return clip(f"{value:,.{_DIGITS}g}", most)
    if isinstance(value, Decimal) and value.is_finite():
        exact = f"{value:,f}"
        return exact if len(exact) <= min(_EXACT, most) else clip(f"{value:,.{_DIGITS}g}", most)
    return clip(plain(value).replace("+00:00", "Z"), most) or '""'


def _share(value: Any, low: Any, high: Any) -> float:
    """Where `value` lies between the bounds, from 0 to 1; half way where the distance of two values means nothing."""
    if value in (low, high):
        return 0.0 if value == low else 1.0
    try:
        share = float((value - low) / (high - low))
    except (TypeError, ValueError, ArithmeticError):
        return 0.5
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.5


def _places(result: Known) -> tuple[float, float | None, float]:
    """Where the interval starts, where the value of what answered lies, and where it ends, from 0 to 1."""
    value, low, high = result.value, result.at_least, result.at_most
    start, end = 0.0 if low is None else _OPEN, 1.0 if high is None else 1 - _OPEN
    if value is None:
        return start, None, end
    if low is None or high is None:
        known = low if high is None else high
        at = 0.5 if known is None else (_OPEN if high is None else 1 - _OPEN) if known == value else 0.5
        return start, at, end
    return start, start + _share(value, low, high) * (end - start), end


def _certain(result: Known) -> float | None:
    """The share of the greatest count or sum that there is at least; None of what does not add up from zero."""
    low, high = result.at_least, result.at_most
    if result.aggregate.kind not in ("count", "sum") or low is None or high is None:
        return None
    try:
        share = float(low / high)
    except (TypeError, ArithmeticError):
        return None
    return share if low >= 0 and math.isfinite(share) else None


def _picture(result: Known) -> Picture:
    """An SVG picture: the same result gives the same bytes."""
    prefix = f"labkit-{sha256(repr((str(result.aggregate), result.value, result.missing)).encode()).hexdigest()[:10]}"
    drawn = [tag("defs", gap_hatching(prefix)), text(PAD, 28, clip(_headline(result), 106), font_weight=600)]
    if result.complete:
        drawn.append(tag("circle", cx=WIDTH - PAD - 8, cy=24.0, r=6.0, fill=_GOOD))
        return card(drawn, 46, _headline(result))
    certain = _certain(result)
    start, at, end = _places(result)
    if certain is not None:
        at = None if at is None else certain + (at - start) / (end - start) * (1 - certain)
        start, end = certain, 1.0
        drawn.append(_box(0.0, start, fill=_GOOD, fill_opacity=0.3))
    drawn += [_box(start, end, fill=f"url(#{prefix}-gap)"), *_ends(result, start, end, from_zero=certain is not None)]
    if at is not None:
        anchor = "start" if at < 0.3 else "end" if at > 0.7 else "middle"
        drawn.append(text(_x(at), _Y - 10, f"{_said(result.value)} of what answered", fill=INK, text_anchor=anchor))
        middle = {"cx": _x(at), "cy": _Y + _BAR / 2, "r": 6.0}
        drawn.append(tag("circle", title(plain(result.value)), **middle, fill=_GOOD, stroke="#fff"))
    return card(drawn, 116, _headline(result))


def _x(share: float) -> float:
    return PAD + share * (WIDTH - 2 * PAD)


def _box(start: float, end: float, **attributes: str | float) -> str:
    return tag("rect", x=_x(start), y=_Y, width=_x(end) - _x(start), height=_BAR, **attributes)


def _ends(result: Known, start: float, end: float, *, from_zero: bool) -> Iterator[str]:
    """A line at each known end, and words below that do not touch."""
    least, most = (
        "not bounded" if bound is None else f"{words} {_said(bound)}"
        for bound, words in ((result.at_least, "at least"), (result.at_most, "at most"))
    )
    left = min(_x(start), _x(end) - width_of(most) - 12 - width_of(least))
    places = ((start, result.at_least, least, left, "start"), (end, result.at_most, most, _x(end), "end"))
    for share, bound, words, x, anchor in places:
        if bound is None:
            yield text(x, _Y + 32, words, fill=DIM, font_style="italic", text_anchor=anchor)
            continue
        line = {"x1": _x(share), "y1": _Y - 5, "x2": _x(share), "y2": _Y + _BAR + 5}
        yield tag("line", **line, stroke=_BAD, stroke_width=2.5)
        yield text(x, _Y + 32, words, text_anchor=anchor)
    if from_zero and left > _x(0) + 20:
        yield text(_x(0), _Y + 32, "0", fill=DIM)


class _Line:
    """The interval in cells: `40 ├●━━━━━━━━━━━━━━┤ 60`; an open side is dotted."""

    def __init__(self, result: Known) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[Text]:
        result = self._result
        low = _said(result.at_least, 20) if result.at_least is not None else ""
        high = _said(result.at_most, 20) if result.at_most is not None else ""
        cells = max(min(_CELLS, options.max_width - len(low) - len(high) - 6), 8)
        start, at, end = (None if one is None else round(one * (cells - 1)) for one in _places(result))
        assert start is not None
        assert end is not None
        drawn = ["·"] * cells if result.value is not None or low or high else [" "] * cells
        first, last = start if low else round(_OPEN * (cells - 1)), end if high else round((1 - _OPEN) * (cells - 1))
        drawn[:first] = [" " if low else "·"] * first
        drawn[first : last + 1] = "━" * (last + 1 - first)
        drawn[last + 1 :] = [" " if high else "·"] * (cells - last - 1)
        if low:
            drawn[first] = "├"
        if high:
            drawn[last] = "┤"
        if at is not None:
            drawn[at] = "●"
        line = "".join(drawn).strip()
        shown = Text("  ") + Text(f"{low} " if low else "") + Text(line, style="red") + Text(f" {high}" if high else "")
        value = "no value" if result.value is None else f"● {_said(result.value)}"
        return [shown, Text(f"  {value} of what answered", style="dim")]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(20, options.max_width), options.max_width)
