"""Rows of any table as people see them, in the terminal and in a notebook."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from labkit import ReadResult, ShardReport, Status
from labkit.show.rows import COLUMNS, Rows, rows_html
from labkit.tables import NUMBER

NOON = dt.datetime(2026, 11, 28, 12, 0, tzinfo=dt.UTC)
ORDERS = pa.table(
    {
        "order_id": pa.array([1, 2, 3], pa.int64()),
        "amount": pa.array([Decimal("12.30"), None, Decimal("-1000000000.05")], pa.decimal128(12, 2)),
        "created_at": pa.array([NOON, NOON + dt.timedelta(microseconds=1500), None], pa.timestamp("us", "UTC")),
        "note": pa.array([None, "", "NULL"], pa.large_string()),
        "tags": pa.array([["a", None], [], None], pa.list_(pa.large_string())),
        "ratio": pa.array([1 / 3, float("nan"), 1e300], pa.float64()),
        "paid": pa.array([True, False, None], pa.bool_()),
    }
)


def wide(columns: int, rows: int = 2) -> pa.Table:
    """A table of this many columns of text behind the key."""
    texts = pa.array(["some text"] * rows, pa.large_string())
    return pa.table({"id": pa.array(range(rows), pa.int64()), **{f"column {i}": texts for i in range(1, columns)}})


def in_terminal(what: Any, width: int = 200, **options: Any) -> list[str]:
    """The lines that rich prints."""
    out = StringIO()
    Console(file=out, width=width, **options).print(what)
    return out.getvalue().splitlines()


class Cells(HTMLParser):
    """The rows of a table: text and style of each cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs).get("style") or ""))

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            text, style = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, style)

    @property
    def texts(self) -> list[list[str]]:
        return [[text for text, _ in row] for row in self.rows]


def test_every_type_is_written_for_people() -> None:
    """Decimals exact, floats with six digits, times without a fraction of zero, lists as JSON; NULL is not ''."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in in_terminal(Rows(ORDERS))]
    assert lines == [
        ["order_id", "amount", "created_at", "note", "tags", "ratio", "paid"],
        ["1", "12.30", "2026-11-28 12:00:00Z", "NULL", '["a", null]', "0.333333", "true"],
        ["2", "NULL", "2026-11-28 12:00:00.0015Z", '""', "[]", "NaN", "false"],
        ["3", "-1000000000.05", "NULL", "NULL", "NULL", "1e+300", "NULL"],
    ]
    assert Cells(rows_html(ORDERS)).texts == lines


def test_the_text_null_is_not_null() -> None:
    """What stands for an absent value is dim and italic in both views; the text of the same letters is not."""
    notes = [row[3] for row in Cells(rows_html(ORDERS)).rows[1:]]
    assert ["italic" in style for _, style in notes] == [True, True, False]
    lines = in_terminal(Rows(ORDERS.select(["order_id", "note"])), force_terminal=True)
    assert ["\x1b[2;3m" in line for line in lines[1:]] == [True, True, False]


def test_numbers_stand_on_the_right() -> None:
    """Integers, decimals, floats, and numbers that are kept as text; all else is on the left."""
    text = pa.table(
        [[1], ["9.50"]], schema=pa.schema([("id", pa.int64()), pa.field("x", pa.string(), metadata=NUMBER)])
    )
    right = [[("text-align:right" in style) for _, style in Cells(rows_html(one)).rows[1]] for one in (ORDERS, text)]
    assert right == [[True, True, False, False, False, True, False], [True, True]]
    head, first, second, _ = in_terminal(Rows(ORDERS.select(["order_id", "amount"])))
    assert head.rstrip().endswith("amount")
    assert {len(line.rstrip()) for line in (head, first, second)} == {len(head.rstrip())}


def test_a_narrow_terminal_gets_the_first_and_the_last_columns() -> None:
    """As many as fit in whole, with a line that counts and names the others; the key is always there."""
    lines = in_terminal(Rows(wide(40)), 80)
    head = re.split(r"\s{2,}", lines[0].strip())
    dots = head.index("…")
    assert head[:2] == ["id", "column 1"]
    assert head[-1] == "column 39"
    assert head[dots - 1 : dots + 2] == [f"column {dots - 1}", "…", f"column {40 - (len(head) - dots - 1)}"]
    told = " ".join(" ".join(lines[3:]).split())
    assert told.startswith(f"… {40 - len(head) + 1} more columns: column {dots},")
    assert told.endswith("…")


def test_long_texts_give_way_to_columns() -> None:
    """Texts are cut before columns are left out; a number or a time is never cut."""
    table = pa.table({"id": [2**62], "at": pa.array([NOON], pa.timestamp("us")), "a": ["x" * 90], "b": ["y" * 90]})
    (_, line) = in_terminal(Rows(table), 90)
    assert str(2**62) in line
    assert "2026-11-28 12:00:00" in line
    assert re.findall(r"x+…|y+…", line) == ["x" * 15 + "…", "y" * 15 + "…"]


@pytest.mark.parametrize("table", [ORDERS, wide(40), wide(1), ORDERS.slice(0, 0)])
@pytest.mark.parametrize("width", [1, 12, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(table: pa.Table, width: int) -> None:
    """However narrow it is."""
    assert max(map(len, in_terminal(Rows(table, total=7, marks=["!"] * table.num_rows), width)), default=0) <= width


def test_wide_characters_take_two_cells() -> None:
    """Columns stay aligned: a cut text has at most as many cells as there are."""
    table = pa.table({"id": [1, 2], "a": ["漢字" * 40, "x"], "b": ["end", "end"]})
    first, second = in_terminal(Rows(table), 80)[1:]
    cut = re.search(r"[漢字]+…", first)
    assert cut
    assert 2 * (len(cut[0]) - 1) + 1 <= 48
    assert second.index("end") - first.index("end") in (len(cut[0]) - 1, len(cut[0]) - 2)


def test_html_has_ten_of_very_many_columns_at_each_end() -> None:
    """The result says how many there are; a table of 20 columns is shown whole."""
    assert Cells(rows_html(wide(COLUMNS))).texts[0] == ["id", *(f"column {i}" for i in range(1, COLUMNS))]
    table = wide(31)
    head = Cells(rows_html(table)).texts[0]
    assert head == ["id", *(f"column {i}" for i in range(1, 10)), "…", *(f"column {i}" for i in range(21, 31))]
    report = ShardReport(1, Status.OK, 2, 0.0, 0.1, None, ((0, 1),))
    html = ReadResult(table, {1: report}, (), 0.1, 2.0)._repr_html_()
    assert "2 rows; of 31 columns the first and the last 10<" in html


def test_html_cuts_and_escapes_values() -> None:
    """Fifty characters of a value, the rest in its tooltip; names and values are text, never markup."""
    evil = "<img src=x onerror=alert(1)>\"'" * 4
    html = rows_html(pa.table({"id": [1], "<b>": [evil], "short": ["<i>"]}))
    assert Cells(html).texts == [["id", "<b>", "short"], ["1", f"{evil[:49]}…", "<i>"]]
    assert [unescape(found) for found in re.findall(r'title="([^"]*)"', html)] == [evil]
    assert "<img" not in html
