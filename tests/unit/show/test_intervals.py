"""What is known of an aggregate, as a notebook and a terminal show it."""

from __future__ import annotations

import datetime as dt
import re
from base64 import b64decode
from decimal import Decimal
from io import StringIO
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from labkit.aggregates import Aggregate, avg, count, max_, min_, sum_, top
from labkit.result import AggregateResult
from labkit.show.svg import width_of

NOON = dt.datetime(2026, 11, 28, 12, 0, tzinfo=dt.UTC)
GAPS = ((11, 20), (41, 50))
WHOLE = 744.0
"""Pixels of the picture's inner width."""


def known(aggregate: Aggregate, value: Any, low: Any, high: Any, missing: Any = GAPS, certain: Any = ()) -> Any:
    """A result built by hand."""
    return AggregateResult(aggregate, value, low, high, missing, {}, certain)


def in_terminal(what: Any, width: int = 80) -> list[str]:
    """The lines that rich prints."""
    out = StringIO()
    Console(file=out, width=width).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def picture(what: Any) -> ElementTree.Element:
    """The SVG in the HTML of a result."""
    data = re.search(r"base64,([^\"]+)", what._repr_html_())
    assert data
    return ElementTree.fromstring(re.sub(r' xmlns="[^"]+"', "", b64decode(data[1]).decode()))


def interval(what: Any) -> tuple[float, float | None, float]:
    """Where the picture's interval starts, where its mark is, and where it ends, from 0 to 1."""
    svg = picture(what)
    [box] = [one for one in svg.iter("rect") if "-gap" in one.get("fill", "")]
    start, width = float(box.get("x", "")) - 18, float(box.get("width", ""))
    marks = [float(one.get("cx", "")) - 18 for one in svg.iter("circle")]
    return start / WHOLE, marks[0] / WHOLE if marks else None, (start + width) / WHOLE


def texts(what: Any) -> list[str]:
    """The words of the picture."""
    return [one.text or "" for one in picture(what).iter("text")]


def test_a_count_with_a_hole() -> None:
    """The headline has both bounds and the gaps; below it are the interval and what answered."""
    counted = known(count(), 40, 40, 60)
    assert in_terminal(counted) == [
        "count(): from 40 to 60; missing 11–20, 41–50 (20 IDs)",
        "  40 ●" + "━" * 32 + "┤ 60",
        "  ● 40 of what answered",
    ]
    assert texts(counted) == [
        "count(): from 40 to 60; missing 11–20, 41–50 (20 IDs)",
        *("at least 40", "at most 60", "0", "40 of what answered"),
    ]


@pytest.mark.parametrize(
    ("what", "sides"),
    [
        (known(count(), 40, 40, 60), (2 / 3, 2 / 3, 1)),
        (known(count(), 0, 0, 20), (0, 0, 1)),
        (known(sum_("x"), Decimal(30), Decimal(10), Decimal(50)), (0.2, 0.6, 1)),
        (known(sum_("x"), 2**70, 2**70, 2**72), (0.25, 0.25, 1)),
        (known(sum_("x"), 30, -10, 50), (0.14, 0.62, 0.86)),
        (known(max_("x"), 40, 40, 60), (0.14, 0.14, 0.86)),
    ],
)
def test_what_adds_up_is_drawn_from_zero(what: Any, sides: tuple[float, ...]) -> None:
    """To scale: filled as far as the true value reaches at least, hatched as far as it can reach."""
    assert interval(what) == pytest.approx(sides, abs=0.01)
    filled = [float(one.get("width", "")) for one in picture(what).iter("rect") if one.get("fill-opacity") == "0.3"]
    assert filled == ([pytest.approx(sides[0] * WHOLE, abs=0.1)] if sides[2] == 1 else [])


@pytest.mark.parametrize("answered", [0, 1, 30, 58, 59])
def test_the_words_of_both_ends_do_not_touch(answered: int) -> None:
    """However close the ends are."""
    spans = []
    for one in picture(known(count(), answered, answered, 60)).iter("text"):
        if re.match(r"at (least|most)|0$", one.text or ""):
            x, width = float(one.get("x", "")), width_of(one.text or "")
            spans.append((x - width, x) if one.get("text-anchor") == "end" else (x, x + width))
    assert all(end < start for (_, end), (start, _) in pairwise(sorted(spans)))


def test_what_is_complete_is_exact() -> None:
    """Without a gap there is no interval, but the word."""
    exact = known(count(), 60, 60, 60, ())
    assert in_terminal(exact) == ["count() = 60, exact"]
    assert texts(exact) == ["count() = 60, exact"]
    assert not [one for one in picture(exact).iter("rect") if "-gap" in one.get("fill", "")]


@pytest.mark.parametrize(
    ("low", "high", "sides", "words", "line"),
    [
        (None, 7, (0.0, 0.86), "at most 7", "·······" + "━" * 33 + "● 7"),
        (7, None, (0.14, 1.0), "at least 7", "7 ●" + "━" * 33 + "·······"),
        (None, None, (0.0, 1.0), "neither bound is known", "·······" + "━" * 17 + "●" + "━" * 16 + "·······"),
    ],
)
def test_an_open_side_is_open(low: Any, high: Any, sides: tuple[float, float], words: str, line: str) -> None:
    """A side without a bound runs to the edge, is dotted in the terminal, and is called not bounded."""
    what = known(min_("x"), 7, low, high)
    start, _, end = interval(what)
    assert (start, end) == pytest.approx(sides, abs=0.01)
    assert texts(what).count("not bounded") == (low is None) + (high is None)
    assert in_terminal(what)[0] == f"min(x): {words}; missing 11–20, 41–50 (20 IDs)"
    assert in_terminal(what)[1].strip() == line


@pytest.mark.parametrize(
    ("value", "low", "high", "share"),
    [
        (40, 40, 60, 0.0),
        (Decimal("2.5"), 0, Decimal(10), 0.25),
        (1.0, -1.0, 1.0, 1.0),
        (NOON, NOON - dt.timedelta(1), NOON + dt.timedelta(3), 0.25),
        (2**200, 0, 2**201, 0.5),
        ("m", "a", "z", 0.5),
        (0.0, float("-inf"), 5.0, 0.5),
    ],
)
def test_the_mark_is_drawn_to_scale(value: Any, low: Any, high: Any, share: float) -> None:
    """Wherever the distance of two values is a number; half way between texts."""
    start, mark, end = interval(known(max_("x"), value, low, high))
    assert mark is not None
    assert (mark - start) / (end - start) == pytest.approx(share, abs=0.01)


def test_nothing_answered() -> None:
    """There is an interval, but no mark in it."""
    what = known(sum_("x"), None, 0, 500)
    assert interval(what)[1] is None
    assert in_terminal(what)[1:] == ["  0 ├" + "━" * 32 + "┤ 500", "  no value of what answered"]


def test_values_are_written_for_people() -> None:
    """Separators, amounts exactly, twelve digits of floats and endless quotients, times with Z."""
    said = in_terminal(known(avg("x"), Decimal(1) / Decimal(3), Decimal("-1234.50"), 1234567.5))
    assert said[0].startswith("avg(x): from -1,234.50 to 1,234,567.5;")
    assert said[2] == "  ● 0.333333333333 of what answered"
    for value, text in (
        (Decimal("1234567890123456.78"), "1,234,567,890,123,456.78"),
        (Decimal(100_000_000) / 3, "33,333,333.3333"),
        (Decimal(10) ** 40 / 3, "3.33333333333e+39"),
        (0.1 + 0.2, "0.3"),
    ):
        assert in_terminal(known(avg("x"), value, value, value, ())) == [f"avg(x) = {text}, exact"]
    assert in_terminal(known(min_("x"), NOON, NOON, NOON, ())) == ["min(x) = 2026-11-28 12:00:00Z, exact"]


def test_values_are_text_never_markup() -> None:
    """Neither rich's nor HTML's, nor control characters."""
    evil = "[red]<script>\x1b[31m"
    what = known(max_("<b>"), evil, evil, None)
    assert "[red]<script>" in in_terminal(what, 200)[0]
    assert "\x1b" not in "".join(in_terminal(what))
    assert picture(what).find(".//script") is None
    assert "<script>" not in known(top(1, evil), [{"id": 1, "x": evil}], None, None, GAPS, (True,))._repr_html_()


def test_the_rows_of_a_top_say_which_are_certain() -> None:
    """In both views, as long as something is missing."""
    rows = [{"id": 3, "x": 9}, {"id": 1, "x": 8}]
    some, exact = known(top(2, "x"), rows, None, None, GAPS, (True, False)), known(top(2, "x"), rows, None, None, ())
    assert in_terminal(some) == [
        "top(2, x): 2 rows, 1 certain; missing 11–20, 41–50 (20 IDs)",
        "             id  x",
        "  ✓ certain   3  9",
        "  ? perhaps   1  8",
    ]
    assert in_terminal(exact) == ["top(2, x): 2 rows, exact", "  id  x", "   3  9", "   1  8"]
    assert ["✓ certain" in html for html in (some._repr_html_(), exact._repr_html_())] == [True, False]
    assert in_terminal(known(top(2, "x"), [], None, None, GAPS)) == [
        "top(2, x): 0 rows, 0 certain; missing 11–20, 41–50 (20 IDs)"
    ]


@pytest.mark.parametrize("width", [1, 12, 30, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """However narrow it is."""
    what = known(max_("created_at"), NOON, NOON, NOON + dt.timedelta(days=3))
    assert max(map(len, in_terminal(what, width))) <= width


def test_in_json_types() -> None:
    """Decimals and times as text, integers as they are, whatever their size."""
    told = known(sum_("x"), Decimal("1.50"), 2**70, NOON).to_dict()
    assert told == {
        "aggregate": "sum(x)", "value": "1.50", "at_least": 2**70, "at_most": "2026-11-28T12:00:00.000000Z",
        "complete": False, "missing": [[11, 20], [41, 50]], "shards": {},
    }  # fmt: skip
    rows = [{"id": 1, "x": Decimal("0.10"), "y": b"a"}, {"id": 2, "x": Decimal(10) ** 90, "y": None}]
    told = known(top(2, "x"), rows, None, None, GAPS, (True, False)).to_dict()
    assert told["value"] == [{"id": 1, "x": "0.10", "y": "YQ=="}, {"id": 2, "x": f"1{'0' * 90}", "y": None}]
    assert told["certain"] == [True, False]
