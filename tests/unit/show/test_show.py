"""How a result is shown: the picture, HTML, the terminal, plain text."""

import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from rich.console import Console

from labkit import CLASSIC, RangeRouter, ReadResult, ShardReader, ShardReport, Status
from labkit._types import INT64_MAX, INT64_MIN
from labkit.report import Window
from labkit.shards import MemoryShard
from labkit.show import format as words
from labkit.show.format import LOOKS
from labkit.tables import SCHEMA

SVG = "{http://www.w3.org/2000/svg}"
NASTY = 'a<b>&"c" [red]x[/red]\x1b[31m\n</svg><script>'


def table(*ranges, name="Test {}"):
    """Rows for every ID of `ranges`."""
    ids = [i for low, high in ranges for i in range(low, high + 1)]
    return SCHEMA.empty_table() if not ids else _rows(ids, [name.format(i) for i in ids])


def _rows(ids, names):
    return type(SCHEMA.empty_table()).from_pydict({"id": ids, "name": names}, schema=SCHEMA)


def report(shard, status, *ranges, elapsed=0.003, error=None, started=0.0):
    """A report with as many rows as its ranges hold, if it is OK."""
    rows = sum(high - low + 1 for low, high in ranges) if status is Status.OK else 0
    return ShardReport(shard, status, rows, started, elapsed, error, ranges)


def result(*reports, missing=(), elapsed=2.0, timeout=2.0, name="Test {}"):
    """A result built by hand, so that its numbers are the same in every run."""
    answered = sorted(pair for r in reports if r.status is Status.OK for pair in r.ranges)
    return ReadResult(table(*answered, name=name), {r.shard: r for r in reports}, missing, elapsed, timeout)


ONE, TWO, THREE = ((1, 10), (31, 40)), ((11, 20), (41, 50)), ((21, 30), (51, 60))


def one_timeout():
    """The classic table with shard 2 silent."""
    late = report(2, Status.TIMEOUT, *TWO, elapsed=2.0, error="no answer before the deadline")
    return result(report(1, Status.OK, *ONE), late, report(3, Status.OK, *THREE), missing=TWO)


def complete():
    """The classic table with all shards healthy."""
    return result(*(report(i, Status.OK, *ranges) for i, ranges in enumerate((ONE, TWO, THREE), 1)), elapsed=0.004)


def all_down():
    """Three shards, three ways to fail, one of them with a hostile error text."""
    return result(
        report(1, Status.UNREACHABLE, *ONE, error="connection refused"),
        report(2, Status.DISCONNECTED, *TWO, elapsed=0.5, error=NASTY),
        report(3, Status.TIMEOUT, *THREE, elapsed=2.0, error="no answer before the deadline"),
        missing=((1, 60),),
    )


def nothing_asked():
    """A window in which no shard owns an ID."""
    return result(*(report(i, Status.SKIPPED, elapsed=0.0) for i in (1, 2, 3)), elapsed=0.0)


def with_windows(*windows, what=None):
    """The classic table with shard 2 silent, and windows over its shards."""
    return replace(what or one_timeout(), windows=tuple(Window(*window) for window in windows))


def many(shards, ranges, down):
    """`shards` shards that own `ranges` ranges of ten IDs in turn; those in `down` are unreachable."""
    owned = {k: [(10 * i + 1, 10 * i + 10) for i in range(k, ranges, shards)] for k in range(shards)}
    state = {k: Status.UNREACHABLE if k in down else Status.OK for k in owned}
    gaps = tuple(sorted(pair for k in down for pair in owned[k]))
    return result(*(report(k, state[k], *pairs) for k, pairs in owned.items()), missing=gaps)


def drawn(what):
    """The picture of a result as an XML tree."""
    return ElementTree.fromstring(str(what.timeline()))


def by_class(tree, name):
    return [element for element in tree.iter() if element.get("class") == name]


def words_of(element):
    return " ".join("".join(t.itertext()) for t in element.iter(f"{SVG}text"))


def right_end(rect):
    return float(rect.get("x")) + float(rect.get("width"))


def in_terminal(what, width=80):
    """What rich prints for a result, without colours."""
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(what)
    return console.file.getvalue()


class Page(HTMLParser):
    """Collects tags, all text, and the cells of each table by row."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.seen, self.tables, self._cell = [], [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "td":
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag != "td"

    def handle_data(self, data):
        self.seen.append(data)
        if self._cell:
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return "".join(self.seen)

    @property
    def shards(self):
        return self.tables[0][1:]

    @property
    def rows(self):
        return self.tables[1][1:]


def page(what):
    return Page(what._repr_html_())


# the picture


def test_picture_has_a_lane_per_shard_in_order():
    """Each shard has a group that carries its name, status and numbers, in the router's order."""
    lanes = by_class(drawn(one_timeout()), "shard")
    assert [(g.get("data-shard"), g.get("data-status"), g.get("data-rows")) for g in lanes] == [
        ("1", "ok", "20"),
        ("2", "timeout", "0"),
        ("3", "ok", "20"),
    ]
    assert [words_of(g) for g in lanes] == ["1 ok · 20 rows · 3 ms", "2 timeout · 2.00 s", "3 ok · 20 rows · 3 ms"]


def test_picture_puts_the_late_bar_at_the_deadline():
    """The bar of a timed-out shard ends at the deadline; bars of shards that answered end before it."""
    tree = drawn(one_timeout())
    (line,) = by_class(tree, "deadline")
    ends = [right_end(bar) for bar in by_class(tree, "bar")]
    assert line.get("data-seconds") == "2.0"
    assert ends[1] == pytest.approx(float(line.get("x1")), abs=0.05)
    assert max(ends[0], ends[2]) < float(line.get("x1")) - 100


def test_picture_scales_bars_by_time():
    """A bar of a quarter of the deadline is a quarter of the full width, wherever it starts."""
    tree = drawn(
        result(report(1, Status.OK, (1, 1), elapsed=0.5, started=1.0), report(2, Status.OK, (2, 2), elapsed=2.0))
    )
    later, whole = by_class(tree, "bar")
    assert float(later.get("width")) == pytest.approx(float(whole.get("width")) / 4, abs=0.05)
    assert float(later.get("x")) == pytest.approx((float(whole.get("x")) + right_end(whole)) / 2, abs=0.05)


def test_picture_shows_a_bar_of_a_microsecond():
    """A bar too short to draw to scale is still visible."""
    (bar,) = by_class(drawn(result(report(1, Status.OK, (1, 1), elapsed=1e-6))), "bar")
    assert float(bar.get("width")) >= 2


def test_picture_marks_exact_gaps():
    """The strip has one box per gap, with its exact range as data and as a label."""
    tree = drawn(one_timeout())
    gaps = by_class(tree, "gap")
    assert [(g.get("data-low"), g.get("data-high")) for g in gaps] == [("11", "20"), ("41", "50")]
    asked = [(g.get("data-low"), g.get("data-high")) for g in by_class(tree, "asked")]
    assert asked == [("1", "10"), ("21", "30"), ("31", "40"), ("51", "60")]
    (ids,) = by_class(tree, "ids")
    assert {"11–20", "41–50", "1–10"} <= set(words_of(ids).split())


def test_picture_places_gaps_between_what_answered():
    """Boxes of answered and missing ranges lie side by side in ID order and never overlap."""
    tree = drawn(one_timeout())
    boxes = sorted(by_class(tree, "gap") + by_class(tree, "asked"), key=lambda box: float(box.get("x")))
    lows = [int(box.get("data-low")) for box in boxes]
    assert lows == [1, 11, 21, 31, 41, 51]
    assert all(right_end(a) <= float(b.get("x")) for a, b in pairwise(boxes))


def test_picture_draws_one_box_for_gaps_that_were_joined():
    """A gap joined from ranges of several shards is as wide as all of them."""
    (gap,) = by_class(drawn(all_down()), "gap")
    assert (gap.get("data-low"), gap.get("data-high")) == ("1", "60")
    (one,) = by_class(drawn(result(report(1, Status.OK, (1, 60)))), "asked")
    assert float(gap.get("width")) == pytest.approx(float(one.get("width")))


def test_picture_of_a_complete_read_has_no_gap():
    """Without gaps the picture has no gap box and says "nothing missing"."""
    tree = drawn(complete())
    assert by_class(tree, "gap") == []
    assert words_of(tree).endswith("nothing missing")
    assert "nothing missing" in tree.get("aria-label")


def test_picture_of_skipped_shards():
    """A skipped shard has a lane but no bar, and is not a gap."""
    tree = drawn(nothing_asked())
    assert [words_of(g) for g in by_class(tree, "shard")] == ["1 not asked", "2 not asked", "3 not asked"]
    assert by_class(tree, "bar") == by_class(tree, "gap") == []
    assert "no shard owns an ID that was asked for" in words_of(tree)


def test_picture_names_the_cause():
    """The cause of a quick failure stands beside its bar, and any cause is in the tooltip."""
    one, _, three = by_class(drawn(all_down()), "shard")
    assert "connection refused" in words_of(one)
    assert "no answer before the deadline" not in words_of(three)
    assert "no answer before the deadline" in three.find(f"{SVG}title").text


def test_picture_tells_statuses_apart_without_colour():
    """Failed bars are hatched, each status in its own direction; bars of shards that answered are plain."""
    tree = drawn(all_down())
    turns = {f"url(#{p.get('id')})": p.get("patternTransform") for p in tree.iter(f"{SVG}pattern")}
    assert len({turns[bar.get("fill")] for bar in by_class(tree, "bar")}) == 3
    angles = [look.angle for status, look in LOOKS.items() if status not in (Status.OK, Status.SKIPPED)]
    assert len(set(angles)) == len(angles) == 6
    assert by_class(drawn(complete()), "bar")[0].get("fill").startswith("#")


def test_picture_escapes_what_comes_from_elsewhere():
    """Keys and errors with <, &, quotes and control characters stay text, and the XML stays well-formed."""
    tree = drawn(result(report(NASTY, Status.REJECTED, (1, 5), error=NASTY), missing=((1, 5),)))
    (lane,) = by_class(tree, "shard")
    assert lane.get("data-shard").startswith('a<b>&"c" [red]x[/red]')
    assert lane.find(f"{SVG}title").text.count("<script>") == 2
    assert list(tree.iter("script")) == list(tree.iter(f"{SVG}script")) == []
    assert "\x1b" not in ElementTree.tostring(tree, encoding="unicode")


def test_picture_is_the_same_in_every_process():
    """The same numbers give the same bytes under any hash seed."""
    code = "from tests.unit.show.test_show import all_down as it; open(1, 'wb').write(str(it().timeline()).encode())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {str(all_down().timeline()).encode()}


def test_pictures_on_one_page_do_not_share_ids():
    """Pattern IDs differ between pictures, and each picture refers only to its own."""
    seen = [
        {e.get("id") for e in drawn(what).iter() if e.get("id")} for what in (one_timeout(), all_down(), complete())
    ]
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert {bar.get("fill")[5:-1] for bar in by_class(drawn(all_down()), "bar")} < seen[1]


def test_picture_grows_with_shards():
    """A hundred shards get a hundred lanes that do not overlap, inside the picture."""
    tree = drawn(many(100, 100, down={7, 42}))
    bars = by_class(tree, "bar")
    tops = [float(bar.get("y")) for bar in bars]
    assert len(bars) == 100
    assert all(a + float(bar.get("height")) <= b for a, b, bar in zip(tops, tops[1:], bars, strict=False))
    assert tops[-1] < float(tree.get("height")) - 50
    assert [g.get("data-low") for g in by_class(tree, "gap")] == ["71", "421"]


def test_picture_of_thousands_of_ranges_stays_small():
    """Gaps too close to draw apart share boxes, which count every one of them."""
    what = many(2, 20_000, down={1})
    gaps = by_class(drawn(what), "gap")
    assert len(gaps) < 300
    assert sum(int(g.get("data-gaps")) for g in gaps) == 10_000
    assert len(str(what.timeline())) < 100_000
    assert "… 9,99" in words_of(drawn(what))


def test_picture_of_the_whole_of_int64():
    """Ranges at both ends of int64 are drawn equally wide and labelled exactly."""
    low, high = (INT64_MIN, INT64_MIN + 1), (INT64_MAX - 1, INT64_MAX)
    tree = drawn(result(report(1, Status.INVALID, low), report(2, Status.OK, high), missing=(low,)))
    (gap,), (asked,) = by_class(tree, "gap"), by_class(tree, "asked")
    assert gap.get("data-low") == str(INT64_MIN)
    assert gap.get("width") == asked.get("width")
    assert f"{INT64_MIN} to {INT64_MIN + 1}" in words_of(tree)


def test_picture_keeps_text_inside():
    """No label starts outside the picture, and the longest outcome ends inside it."""
    what = result(report("x" * 200, Status.OK, (1, 1_000_000), elapsed=1.234), timeout=0.001, elapsed=1.234)
    tree = drawn(what)
    width = float(tree.get("width"))
    assert all(0 < float(t.get("x")) < width for t in tree.iter(f"{SVG}text"))
    outcome = next(t for t in tree.iter(f"{SVG}text") if t.text == "ok · 1,000,000 rows · 1.23 s")
    assert float(outcome.get("x")) + 6.5 * len(outcome.text) < width


def test_picture_has_a_ground_and_a_name():
    """The picture paints its own white background, and describes itself to screen readers."""
    tree = drawn(one_timeout())
    ground = next(e for e in tree if e.tag == f"{SVG}rect")
    assert ground.get("fill") == "#fff"
    assert tree.get("role") == "img"
    assert tree.get("aria-label") == "Timeline of a read. incomplete: 40 rows, missing 11–20, 41–50 (20 IDs)"


def test_picture_is_displayed_once_and_saved(tmp_path):
    """Notebooks get the SVG as an image, which untrusted ones show too; `save` writes the same text."""
    picture = one_timeout().timeline()
    shown = ElementTree.fromstring(picture._repr_html_()[:-1] + "/>")
    kind, _, data = shown.get("src").partition(",")
    assert (shown.tag, kind) == ("img", "data:image/svg+xml;base64")
    assert b64decode(data).decode() == str(picture)
    assert "40 rows" in shown.get("alt")
    assert not hasattr(picture, "_repr_svg_")
    picture.save(tmp_path / "read.svg")
    assert (tmp_path / "read.svg").read_text(encoding="utf-8") == str(picture)
    assert "<svg" not in repr(picture)


# windows on the picture


def test_a_window_is_drawn_in_the_lane_of_its_shard():
    """Each window's frame gives its label, start and end, over the bar of its own shard."""
    tree = drawn(with_windows((2, "Pause", 0.0, None), (3, "Latency", 0.5, 1.25)))
    frames = by_class(tree, "window")
    assert [(f.get("data-label"), f.get("data-started"), f.get("data-ended")) for f in frames] == [
        ("Pause", "0.000000", ""),
        ("Latency", "0.500000", "1.250000"),
    ]
    bars = by_class(tree, "bar")
    for frame, bar in zip(frames, bars[1:], strict=True):
        box = frame.find(f"{SVG}rect")
        top, bottom = float(box.get("y")), float(box.get("y")) + float(box.get("height"))
        assert top <= float(bar.get("y")) < float(bar.get("y")) + float(bar.get("height")) <= bottom


def test_a_window_has_the_scale_of_the_bars():
    """A window of half the deadline is half as wide as the bar that reaches it; an open one extends to the edge."""
    tree = drawn(with_windows((2, "A", 1.0, 2.0), (3, "B", 1.0, None)))
    late = by_class(tree, "bar")[1]
    half, opened = (frame.find(f"{SVG}rect") for frame in by_class(tree, "window"))
    assert float(half.get("width")) == pytest.approx(float(late.get("width")) / 2, abs=0.05)
    assert right_end(half) == pytest.approx(right_end(late), abs=0.05)
    assert right_end(opened) > right_end(late) + 5


def test_a_window_of_a_moment_is_seen():
    """A window of any length is wide enough to see."""
    (frame,) = by_class(drawn(with_windows((2, "Down", 1.0, 1.0))), "window")
    assert float(frame.find(f"{SVG}rect").get("width")) >= 4


def test_windows_that_coincide_share_a_frame():
    """Faults over the same period share one frame with all their names; others have separate frames."""
    tree = drawn(with_windows((2, "Pause", 0.0, None), (2, "Down", 0.0, None), (2, "Latency", 0.0, 1.0)))
    assert [frame.get("data-label") for frame in by_class(tree, "window")] == ["Latency", "Pause + Down"]


def test_windows_are_named_where_there_is_room():
    """A wide window carries its name; a narrow one has it only in its tooltip, which gives the times as well."""
    wide, narrow = by_class(drawn(with_windows((2, "Pause", 0.0, None), (3, "Latency", 1.0, 1.01))), "window")
    assert words_of(wide) == "Pause"
    assert wide.find(f"{SVG}title").text == "Pause, from 0 ms to the end of the read, and after it"
    assert words_of(narrow) == ""
    assert narrow.find(f"{SVG}title").text == "Latency, from 1.00 s to 1.01 s"


def test_names_of_windows_are_escaped():
    """A label with markup adds no element and no control character."""
    tree = drawn(with_windows((2, NASTY, 0.0, None)))
    (frame,) = by_class(tree, "window")
    assert frame.get("data-label").startswith('a<b>&"c" [red]x[/red]')
    assert list(tree.iter("script")) == list(tree.iter(f"{SVG}script")) == []
    assert "\x1b" not in ElementTree.tostring(tree, encoding="unicode")


@pytest.mark.parametrize("what", [one_timeout(), complete(), all_down(), nothing_asked()])
def test_a_picture_without_windows_is_the_picture_it_was(what):
    """Windows add their frames and change not a byte of the rest; a window of an unknown shard adds nothing."""
    plain = str(what.timeline())
    assert "window" not in plain
    assert str(with_windows(("nowhere", "Pause", 0.0, None), what=what).timeline()) == plain
    marked = str(with_windows((2, "Pause", 0.0, None), (1, "Kill", 0.1, 0.2), what=what).timeline())
    assert marked != plain
    assert re.sub(r'<g class="window".*?</g>|<g [^>]*class="window".*?</g>', "", marked) == plain


# HTML


def test_html_has_a_row_per_shard():
    """The table names each shard's status, rows, time, ranges and cause."""
    assert page(one_timeout()).shards == [
        ["1", "ok", "20", "3 ms", "1–10, 31–40", ""],
        ["2", "timeout", "0", "2.00 s", "11–20, 41–50", "no answer before the deadline"],
        ["3", "ok", "20", "3 ms", "21–30, 51–60", ""],
    ]


def test_html_of_skipped_shards_claims_no_numbers():
    """A skipped shard has no rows, time, ranges or cause."""
    assert page(nothing_asked()).shards[0] == ["1", "not asked", "", "", "", ""]
    assert "no rows" in page(nothing_asked()).text


@pytest.mark.parametrize(
    ("what", "headline"),
    [(complete(), "60 rows, nothing missing"), (one_timeout(), "40 rows, missing 11–20, 41–50 (20 IDs)")],
)
def test_html_opens_with_the_verdict(what, headline):
    """The first words say whether the read is complete, and what is missing."""
    verdict = "complete" if what.complete else "incomplete"
    assert page(what).text.startswith(f"{verdict} {headline}")


def test_html_shows_ten_rows_at_most():
    """Of many rows the first and last are shown, with their total; of few rows all."""
    many_rows, few_rows = page(complete()), page(result(report(1, Status.OK, (1, 10))))
    assert [row[0] for row in many_rows.rows] == ["1", "2", "3", "4", "5", "…", "56", "57", "58", "59", "60"]
    assert many_rows.text.endswith("60 rows; shown are the first and the last 5")
    assert few_rows.rows == [[str(i), f"Test {i}"] for i in range(1, 11)]
    assert few_rows.text.endswith("10 rows")


def test_html_holds_the_picture():
    """The timeline is part of the HTML, unchanged."""
    assert one_timeout().timeline()._repr_html_() in one_timeout()._repr_html_()


def test_html_escapes_what_comes_from_elsewhere():
    """Keys, errors and names with markup add no element to the page."""
    clean = result(report("a", Status.OK, (1, 3)), report("b", Status.REJECTED, (4, 5), error="c"), missing=((4, 5),))
    nasty = result(
        report(NASTY, Status.OK, (1, 3)),
        report(NASTY + "2", Status.REJECTED, (4, 5), error=NASTY),
        missing=((4, 5),),
        name="<i>{}</i>",
    )
    assert page(nasty).tags == page(clean).tags
    assert "<i>1</i>" in page(nasty).text


def test_html_sets_no_letter_colour_outside_its_own_grounds():
    """Text on the page's background has the page's colour, so that it is readable in dark themes too."""
    html = one_timeout()._repr_html_().replace(one_timeout().timeline()._repr_html_(), "")
    styles = [part.split('"')[0] for part in html.split('style="')[1:]]
    assert any("background:#fff;color:#1f2328" in style for style in styles)
    assert all("background:" in style for style in styles if ";color:" in style or style.startswith("color:"))


# the terminal


def test_terminal_shows_each_shard_against_the_deadline():
    """The bar of a late shard reaches the deadline mark, which is in the same column on every line."""
    lines = in_terminal(one_timeout()).splitlines()
    one, two, three = (next(line for line in lines if line.startswith(f"{i} ")) for i in (1, 2, 3))
    assert one.index("│") == two.index("│") == three.index("│")
    assert two[two.index("│") - 1] == "█"
    assert "█" not in one
    assert "▏" in one
    assert two.split()[:5] == ["2", "timeout", "0", "2.00", "s"]


def test_terminal_scales_bars_by_time():
    """A bar of half the deadline is half as long as one that reaches it."""
    half, whole = report(1, Status.OK, (1, 1), elapsed=1.0), report(2, Status.TIMEOUT, (2, 2), elapsed=2.0)
    lines = [line for line in in_terminal(result(half, whole, missing=((2, 2),))).splitlines() if "█" in line]
    short, long = (line.count("█") for line in lines)
    assert long >= 30
    assert short == pytest.approx(long / 2, abs=1)


def test_terminal_says_what_is_there_and_what_is_not():
    """Headline, cause, answered ranges and the first rows are printed."""
    text = in_terminal(one_timeout())
    assert text.startswith("incomplete: 40 rows, missing 11–20, 41–50 (20 IDs)\n")
    assert "no answer before the deadline" in text
    assert "answered 1–10, 21–40, 51–60 (40 rows)" in text
    assert [line.split() for line in text.splitlines()[-4:]] == [
        ["1", "Test", "1"],
        ["2", "Test", "2"],
        ["3", "Test", "3"],
        ["…", "37", "more"],
    ]


@pytest.mark.parametrize("what", [complete(), one_timeout(), all_down(), nothing_asked(), many(100, 300, {3})])
@pytest.mark.parametrize("width", [1, 12, 40, 80, 200])
def test_terminal_fits_any_width(what, width):
    """No line is wider than the terminal, however narrow."""
    lines = in_terminal(what, width).splitlines()
    assert lines
    assert max(map(len, lines)) <= width


def test_terminal_keeps_words_whole_in_80_columns():
    """In 80 columns no status, time or row number is cut, even the longest."""
    huge = report("a shard with a long name", Status.OK, (1, 2), elapsed=1.234)
    lost = report(2, Status.DISCONNECTED, (3, 4), elapsed=1.5, error="reset")
    text = in_terminal(result(huge, lost, missing=((3, 4),)))
    assert "disconnected" in text
    assert "1.23 s" in text
    assert "1.50 s" in text


def test_terminal_takes_nothing_for_markup():
    """Markup and escape sequences in keys, errors and names are printed as text or neutralised."""
    what = result(
        report("[b]k[/b]", Status.OK, (1, 1)), report(2, Status.REJECTED, (2, 2), error=NASTY), name="[i]{}[/i]\x1b[2J"
    )
    text = in_terminal(what, 120)
    assert "[b]k[/b]" in text
    assert "[red]x[/red]" in text
    assert "[i]1[/i]" in text
    assert "\x1b" not in text


# plain text


def test_text_is_a_line_and_a_line_per_failure():
    """`print(result)` names rows, shards, gaps and causes."""
    assert str(one_timeout()) == (
        "40 rows of shards 1, 3; missing 11-20, 41-50\nshard 2 timeout: no answer before the deadline"
    )
    assert str(complete()) == "60 rows of shards 1, 2, 3; complete"
    assert str(result(report(1, Status.OK, (7, 7)))) == "1 row of shard 1; complete"
    assert str(nothing_asked()) == "0 rows; complete"


def test_text_stays_short_and_on_its_lines():
    """Many shards are counted, not named; an error with line breaks and escapes stays on one line."""
    assert str(many(100, 100, {7})).splitlines()[0] == "990 rows of 99 shards; missing 71-80"
    assert len(str(all_down()).splitlines()) == 4
    assert "\x1b" not in str(all_down())


def test_text_holds_no_times():
    """Two reads that differ only in their times print the same."""
    quick, slow = (result(report(1, Status.OK, (1, 2), elapsed=s), elapsed=s) for s in (0.001, 1.5))
    assert str(quick) == str(slow)


# words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.0001, "<1 ms"),
        (0.003, "3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (2, "2.00 s"),
        (150.4, "150 s"),
    ],
)
def test_seconds_read_well(value, text):
    """Times are in ms below a second, in seconds from there on."""
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("pair", "text"),
    [((11, 20), "11–20"), ((7, 7), "7"), ((-20, -11), "-20 to -11"), ((-5, -5), "-5"), ((0, 3), "0–3")],
)
def test_ranges_read_well(pair, text):
    """A single ID is one number, and a dash never stands beside a minus sign."""
    assert words.range_text(pair) == text


def test_many_ranges_are_counted():
    """Ranges past the limit are counted; one that fits in place of "1 more" is shown."""
    ranges = [(i, i) for i in range(10)]
    assert words.ranges_text(ranges, most=3) == "0, 1, 2, … 7 more"
    assert words.ranges_text(ranges[:4], most=3) == "0, 1, 2, 3"


# real reads


async def test_views_of_a_real_read_agree():
    """All views of a read of memory shards name the same statuses and gaps."""
    shards = {
        1: MemoryShard([(i, f"Test {i}") for low, high in ONE for i in range(low, high + 1)]),
        2: MemoryShard(delay=5.0),
        3: MemoryShard(error=ConnectionRefusedError("connection refused")),
    }
    async with ShardReader(CLASSIC, shards, timeout=0.4) as reader:
        what = await reader.read(1, 45)
    tree = drawn(what)
    expected = [what.reports[i].status.value for i in (1, 2, 3)]
    assert expected == ["ok", "timeout", "unreachable"]
    assert [g.get("data-status") for g in by_class(tree, "shard")] == expected
    assert [row[1] for row in page(what).shards] == expected
    assert all(word in in_terminal(what) for word in expected)
    gaps = tuple((int(g.get("data-low")), int(g.get("data-high"))) for g in by_class(tree, "gap"))
    assert gaps == what.missing == ((11, 30), (41, 45))


async def test_views_of_a_pruned_read():
    """Every view shows a shard outside the window as not asked."""
    router = RangeRouter({"a": [(1, 5)], "b": [(6, 10)]})
    async with ShardReader(router, {"a": MemoryShard([(2, "x")]), "b": MemoryShard()}, timeout=1.0) as reader:
        what = await reader.read(1, 5)
    assert by_class(drawn(what), "shard")[1].get("data-status") == "skipped"
    assert page(what).shards[1][:2] == ["b", "not asked"]
    assert "not asked" in in_terminal(what)
