"""The report in a notebook: the sum, the grid, and what is wrong. No times: stored outputs are compared."""

from __future__ import annotations

from html import escape

from labkit.matrix.outcome import Line, Outcome, Outcomes, grid
from labkit.show.format import count

__all__ = ["notebook_html"]

# inline styles and no colour of text of ours: notebooks take out style sheets, and may be dark
_CELL = "text-align:left;padding:3px 16px 3px 0;vertical-align:baseline"
_LAYER = f"{_CELL};font-weight:400;font-style:italic;opacity:0.7"


def notebook_html(report: Outcomes) -> str:
    """HTML with inline styles only, no script; everything that comes from elsewhere is escaped."""
    heads = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in ("fault", *report.backends))
    body = "".join(_layer(layer, lines, len(report.backends) + 1) for layer, lines in grid(report))
    return (
        f'<div class="labkit-matrix"><p style="margin:4px 0 8px;font-size:1.1em">{_sum(report)}</p>'
        f'<table style="border-collapse:collapse;margin:0"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        f"{''.join(map(_wrong, report.wrong))}</div>"
    )


def _sum(report: Outcomes) -> str:
    right = len(report.cells) - len(report.wrong)
    told = f"<b>{count(len(report.cells), 'cell')}</b>: {right} right, {len(report.wrong)} wrong"
    ended = "; interrupted" if report.interrupted else ""
    return f'{told}{ended} <span style="opacity:0.7">· contract {report.contract}</span>'


def _layer(layer: str, lines: list[Line], width: int) -> str:
    head = f'<tr><th style="{_LAYER}" colspan="{width}">{layer}</th></tr>' if layer else ""
    return head + "".join(map(_line, lines))


def _line(line: Line) -> str:
    squares = "".join(f'<td style="{_CELL}">{_square(outcome)}</td>' for outcome in line.outcomes)
    return f'<tr><td style="{_CELL}"><code>{escape(line.title)}</code></td>{squares}</tr>'


def _square(outcome: Outcome | None) -> str:
    if outcome is None:
        return "–"
    return f"{'✓' if outcome.right else '✗'} {escape(outcome.status)}"


def _wrong(outcome: Outcome) -> str:
    kinds = ", ".join(dict.fromkeys(complaint.kind.value for complaint in outcome.complaints))
    name = escape(f"{outcome.cell.backend} · {outcome.cell.title}")
    return f'<p style="margin:4px 0">✗ {name}: {kinds}</p>'
