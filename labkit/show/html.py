"""A result in a notebook: headline, one line per shard, the picture, the first and the last rows."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from labkit._replay import replaying, steady
from labkit.report import Status
from labkit.show.facts import headline
from labkit.show.format import LOOKS, count, plain, ranges_text, seconds
from labkit.show.rows import COLUMNS, NOTE, rows_html
from labkit.show.timeline import timeline

if TYPE_CHECKING:
    from labkit.report import ResultLike, ShardReport

__all__ = ["result_html"]

_MAX_ROWS = 10
# no text colour: the page's own is readable on the page's background, light or dark
_CELL = "padding:3px 14px 3px 0;vertical-align:baseline"
_TEXT = f"text-align:left;{_CELL}"
_SHORT = f"text-align:left;white-space:nowrap;{_CELL}"
_NUMBER = f"text-align:right;white-space:nowrap;{_CELL}"
_COLUMNS = (
    ("shard", _TEXT),
    ("status", _SHORT),
    ("rows", _NUMBER),
    ("elapsed", _NUMBER),
    ("asked IDs", _SHORT),
    ("cause", _TEXT),
)


def result_html(result: ResultLike) -> str:
    """HTML with inline styles only and no script; all text from elsewhere is escaped.

    Where outputs are compared, it is without measured times.
    """
    return (
        '<div class="labkit-result">'
        f"{_headline(result)}{_shards(result.reports.values(), timed=not replaying())}"
        f'<div style="margin:10px 0">{timeline(result)._repr_html_()}</div>{_rows(result)}</div>'
    )


def _headline(result: ResultLike) -> str:
    word, rest = headline(result).split(":", 1)
    status = Status.OK if result.complete else Status.UNREACHABLE
    style = "margin:4px 0 8px;font-size:1.1em"
    return f'<p class="headline" style="{style}">{_badge(word, LOOKS[status].colour)}{escape(rest)}</p>'


def _badge(word: str, colour: str) -> str:
    # its own background and dark text: readable in every theme
    style = (
        f"display:inline-block;padding:0 8px;border:2px solid {colour};border-left-width:8px;border-radius:4px;"
        "background:#fff;color:#1f2328;font-weight:600;line-height:1.5"
    )
    return f'<span class="badge" style="{style}">{escape(word)}</span>'


def _shards(reports: Iterable[ShardReport], *, timed: bool) -> str:
    head = "".join(f'<th style="{style}">{name}</th>' for name, style in _COLUMNS if timed or name != "elapsed")
    body = "".join(_shard(report, timed) for report in reports)
    return (
        '<table class="shards" style="border-collapse:collapse;margin:0">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _shard(report: ShardReport, timed: bool) -> str:
    asked = report.status is not Status.SKIPPED
    word = report.status.value if asked else "not asked"
    cause = plain(report.error or "")
    cells = (
        escape(plain(report.shard)),
        _badge(word, LOOKS[report.status].colour),
        f"{report.rows:,}" if asked else "",
        seconds(report.elapsed) if asked else "",
        escape(ranges_text(report.ranges, most=3)),
        escape(cause if timed else steady(cause)),
    )
    told = zip(cells, _COLUMNS, strict=True)
    styled = "".join(f'<td style="{style}">{cell}</td>' for cell, (name, style) in told if timed or name != "elapsed")
    return f'<tr data-shard="{escape(plain(report.shard))}" data-status="{report.status.value}">{styled}</tr>'


def _rows(result: ResultLike) -> str:
    total = result.table.num_rows
    if total == 0:
        return f'<p class="rows" style="{NOTE}">no rows</p>'
    note = count(total, "row")
    if total > _MAX_ROWS:
        note += f"; shown are the first and the last {_MAX_ROWS // 2}"
    if (columns := result.table.num_columns) > COLUMNS:
        note += f"; of {columns:,} columns the first and the last {COLUMNS // 2}"
    return f'{rows_html(result.table, _MAX_ROWS)}<p class="rows" style="{NOTE}">{note}</p>'
