"""The picture of measured times: bars in parts, compared with a base."""

import math
from xml.etree import ElementTree

import pytest

from labkit import errors
from labkit.show.stacked import span_of, stacked_bars

SVG = "{http://www.w3.org/2000/svg}"
WAYS = {"wire": {"fetch": 0.010}, "COPY": {"fetch": 0.012, "decode": 0.003}, "rows": {"fetch": 0.4, "frame": 0.6}}


def drawn(picture):
    """Each lane with the boxes of its parts: {bar: {part: (x, width)}}, and all text."""
    root = ElementTree.fromstring(str(picture))
    lanes = {
        lane.get("data-bar"): {
            part.get("data-part"): tuple(float(part.find(f"{SVG}rect").get(key)) for key in ("x", "width"))
            for part in lane.iter(f"{SVG}g")
            if part.get("data-part")
        }
        for lane in root.iter(f"{SVG}g")
        if lane.get("data-bar")
    }
    return lanes, [line.text for line in root.iter(f"{SVG}text")]


def test_parts_stand_side_by_side_in_proportion():
    """A part begins where the previous one ends, and is as wide as its share of the longest bar."""
    lanes, _ = drawn(stacked_bars("Ladder", WAYS))
    (begin, fetch), (middle, frame) = lanes["rows"]["fetch"], lanes["rows"]["frame"]
    assert middle == pytest.approx(begin + fetch, abs=0.02)
    assert frame / fetch == pytest.approx(1.5, abs=0.01)
    assert lanes["COPY"]["fetch"][1] / (fetch + frame) == pytest.approx(0.012, abs=0.001)


def test_the_shortest_part_can_be_seen():
    """A microsecond beside a second is a pixel and a half wide."""
    lanes, _ = drawn(stacked_bars("Sliver", {"read": {"sliver": 1e-6, "rest": 1.0}}))
    assert lanes["read"]["sliver"][1] == 1.5


def test_shares_make_all_bars_equally_wide():
    """With `shares` the parts of a short bar are as wide in total as those of a long one."""
    lanes, _ = drawn(stacked_bars("Shares", WAYS, shares=True))
    wide = {name: sum(width for _, width in parts.values()) for name, parts in lanes.items()}
    assert wide["COPY"] == pytest.approx(wide["rows"], abs=0.05)
    assert lanes["COPY"]["decode"][1] == pytest.approx(wide["COPY"] / 5, abs=0.05)


def test_times_and_ratios_are_written():
    """After each bar stand its time and its ratio to the base; the label has them as text."""
    picture = stacked_bars("Ladder", WAYS, base="wire")
    _, lines = drawn(picture)
    assert {"10 ms · 1.0 ×", "15 ms · 1.5 ×", "1.00 s · 100 ×", "fetch", "decode", "frame"} <= set(lines)
    assert "COPY 15 ms · 1.5 ×" in picture._repr_html_()


def test_an_only_part_is_written_once_and_needs_no_legend():
    """A single part is labelled only by the bar's time; several each get their own time, and a legend of colours."""
    _, lines = drawn(stacked_bars("x", {"a": {"whole": 0.2}}))
    assert lines == ["x", "a", "200 ms"]
    _, lines = drawn(stacked_bars("x", {"a": {"first": 0.2, "second": 0.1}}))
    assert lines == ["x", "a", "200 ms", "100 ms", "300 ms", "first", "second"]


def test_a_bar_that_took_no_time_is_drawn():
    """Zeros cause no division: neither a bar without parts nor a base of zero."""
    lanes, lines = drawn(stacked_bars("Nothing", {"none": {}, "zero": {"fetch": 0.0}}, base="none", shares=True))
    assert lanes["none"] == {}
    assert lanes["zero"]["fetch"][1] > 0
    assert "0 µs" in lines


def test_names_are_text_not_markup():
    """Names of bars and parts are escaped."""
    lanes, lines = drawn(stacked_bars("a<b", {"<svg>": {'"&': 0.1}}))
    assert lanes["<svg>"].keys() == {'"&'}
    assert "a<b" in lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.000085, "85 µs"),
        (0.0042, "4.2 ms"),
        (0.00999, "10 ms"),
        (0.31, "310 ms"),
        (0.9999, "1.00 s"),
        (1.25, "1.25 s"),
    ],
)
def test_spans_have_two_or_three_digits(seconds, words):
    """Microseconds, milliseconds and seconds, each rounded to what a measurement can resolve."""
    assert span_of(seconds) == words


@pytest.mark.parametrize(
    ("bars", "base"), [({}, None), (WAYS, "nobody"), ({"a": {"b": -1.0}}, None), ({"a": {"b": math.nan}}, None)]
)
def test_what_cannot_be_drawn_is_refused(bars, base):
    """No bars, an unknown base, and a time that is negative or not a number are refused."""
    with pytest.raises(errors.UsageError):
        stacked_bars("x", bars, base=base)
