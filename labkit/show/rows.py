"""Rows of any table for people: numbers on the right, NULL unlike an empty text, long values and many columns cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pyarrow as pa
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from labkit.show.format import clip, count, plain
from labkit.tables import is_number, to_json

__all__ = ["COLUMNS", "NOTE", "Rows", "rows_html"]

_WIDTHS = (48, 24, 16, 12)
"""Most characters of a value in a terminal: the first of these with which all columns fit, else the last but one."""
_GAP, _INDENT = 2, 2
_CHARS, _TITLE = 50, 1000
"""Most characters of a value in HTML, as in pandas, and of its tooltip."""
COLUMNS = 20
"""Most columns in HTML, as in pandas: of more the first and the last ones are shown."""
NOTE = "margin:4px 0;opacity:0.75"
"""The style of a line below a table in HTML."""
_CELL = "padding:3px 14px 3px 0;white-space:nowrap;vertical-align:baseline"
_ABSENT = "opacity:0.6;font-style:italic"


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    numeric: bool
    whole: bool
    """Whether its values are shown whole where long texts are cut: part of a number or a time would mislead."""
    cells: list[tuple[str, bool]]
    """The text of each value, and whether it stands for one that has none, such as NULL."""

    def width(self, most: int) -> int:
        """Cells of a terminal that it takes."""
        cells = max((cell_len(text) for text, _ in self.cells), default=0)
        return max(min(cell_len(self.name), most), min(cells, self.most(most)))

    def most(self, most: int) -> int:
        """Most cells of a value, if texts have `most`."""
        return _WIDTHS[0] if self.whole else most


class Rows:
    """The first rows of a table for rich: as many columns as fit, the first and the last ones, as in pandas."""

    def __init__(self, table: pa.Table, total: int | None = None, marks: Sequence[str] = ()) -> None:
        """`total` is the number of rows of which these are the first; `marks` are further cells before each row."""
        self._columns = list(_columns(table))
        self._rows, self._total, self._marks = table.num_rows, total, marks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The rows with their columns' names, and a line about those that are not shown."""
        room = options.max_width - _INDENT - max(map(cell_len, self._marks), default=-_GAP) - _GAP
        shown, most = _fitting(self._columns, room)
        grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
        if self._marks:
            grid.add_column("", no_wrap=True)
        for column in shown:
            name = Text("…" if column is None else _cut(plain(column.name), most))
            grid.add_column(name, justify="right" if column and column.numeric else "left", no_wrap=True)
        for place in range(self._rows):
            cells = [_text(column, place, most) for column in shown]
            grid.add_row(*([Text(self._marks[place])] if self._marks else []), *cells)
        yield Padding(grid, (0, 0, 0, _INDENT))
        if words := self._left_out(shown):
            yield Text(f"  … {words}", style="dim")

    def _left_out(self, shown: Sequence[_Column | None]) -> str:
        rows = 0 if self._total is None else self._total - self._rows
        names = [clip(plain(column.name), 24) for column in self._columns if column not in shown]
        more = [f"{rows:,} more"] if rows and not names else [count(rows, "more row")] if rows else []
        listed = f"{count(len(names), 'more column')}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
        return "; ".join([*more, listed] if names else more)


def rows_html(table: pa.Table, most: int | None = None, marks: Sequence[str] = ()) -> str:
    """The rows as an HTML table with inline styles, readable on light and dark; above `most` rows the first and the
    last ones.
    """
    total = table.num_rows
    half = total if most is None or total <= most else most // 2
    ends = table if half == total else pa.concat_tables([table.slice(0, half), table.slice(total - half)])
    columns: list[_Column | None] = list(_columns(ends))
    if len(columns) > COLUMNS:
        columns = [*columns[: COLUMNS // 2], None, *columns[-COLUMNS // 2 :]]
    head = "".join(map(_th, columns))
    body = [_tr(columns, place, marks) for place in range(ends.num_rows)]
    if half < total:
        dots = "".join(f'<td style="{_align(one)}">…</td>' for one in columns)
        body.insert(half, f"<tr>{'<td></td>' * bool(marks)}{dots}</tr>")
    first = "<th></th>" if marks else ""
    return (
        '<div style="overflow-x:auto"><table class="rows" style="border-collapse:collapse;margin:0">'
        f"<thead><tr>{first}{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _columns(table: pa.Table) -> Iterator[_Column]:
    values = [list(row.values()) for row in to_json(table)]
    for place, field in enumerate(table.schema):
        kind, types = field.type, pa.types
        numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or is_number(field)
        time = types.is_timestamp(kind)
        written = _moment if time else _short if types.is_floating(kind) else _written
        yield _Column(field.name, numeric, numeric or time, [_cell(row[place], written) for row in values])


def _cell(value: Any, written: Callable[[Any], str]) -> tuple[str, bool]:
    return ("NULL", True) if value is None else ('""', True) if value == "" else (plain(written(value)), False)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(value: float | str) -> str:
    """A float with six significant digits, as in pandas."""
    return value if isinstance(value, str) else f"{value:.6g}"


def _moment(text: str) -> str:
    """A time in ISO 8601, with a space and without a fraction that is zero: "2026-11-28 09:30:00Z"."""
    seconds, dot, rest = text.replace("T", " ").partition(".")
    digits = rest.rstrip("Z").rstrip("0")
    return seconds + (dot + digits) * bool(digits) + "Z" * text.endswith("Z") * bool(dot)


def _fitting(columns: list[_Column], room: int) -> tuple[list[_Column | None], int]:
    """The columns that are shown, with None for those between, and the most characters of a value."""

    def fits(some: Sequence[_Column | None], most: int) -> bool:
        return sum(1 if one is None else one.width(most) for one in some) + _GAP * (len(some) - 1) <= room

    for most in _WIDTHS:
        if fits(columns, most):
            return list(columns), most
    most, left, right = _WIDTHS[-2], 1, 0
    for _ in columns:
        for more_left, more_right in ((0, 1), (1, 0)):
            some = [*columns[: left + more_left], None, *columns[len(columns) - right - more_right :]]
            if fits(some, most):
                left, right = left + more_left, right + more_right
    return [*columns[:left], None, *columns[len(columns) - right :]], most


def _text(column: _Column | None, place: int, most: int) -> Text:
    if column is None:
        return Text("…", style="dim")
    text, absent = column.cells[place]
    return Text(_cut(text, column.most(most)), style="dim italic" if absent else "")


def _cut(text: str, most: int) -> str:
    """`text` in at most `most` cells of a terminal."""
    return text if cell_len(text) <= most else set_cell_size(text, most - 1).rstrip() + "…"


def _align(column: _Column | None) -> str:
    return f"text-align:{'right' if column and column.numeric else 'left'};{_CELL}"


def _th(column: _Column | None) -> str:
    name = "…" if column is None else escape(clip(plain(column.name), _CHARS))
    return f'<th style="{_align(column)}">{name}</th>'


def _tr(columns: Sequence[_Column | None], place: int, marks: Sequence[str]) -> str:
    first = f'<td style="{_align(None)}">{escape(marks[place])}</td>' if marks else ""
    return f"<tr>{first}{''.join(_td(one, place) for one in columns)}</tr>"


def _td(column: _Column | None, place: int) -> str:
    if column is None:
        return f'<td style="{_align(None)}">…</td>'
    text, absent = column.cells[place]
    if absent:
        return f'<td style="{_align(column)};{_ABSENT}">{escape(text)}</td>'
    tooltip = f' title="{escape(clip(text, _TITLE))}"' if len(text) > _CHARS else ""
    return f'<td style="{_align(column)}"{tooltip}>{escape(clip(text, _CHARS))}</td>'
