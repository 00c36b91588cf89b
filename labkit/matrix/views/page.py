"""The report as one page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from labkit.matrix.cells import COMBINED
from labkit.matrix.judging import MARGIN
from labkit.matrix.outcome import Line, Outcome, Outcomes, grid
from labkit.matrix.views.details import anchor, details, mark
from labkit.matrix.views.style import CSS
from labkit.report import Status
from labkit.show.format import count, exact_seconds, plain, seconds
from labkit.show.palette import LOOKS

__all__ = ["page"]

_TITLES = {"": "No fault", COMBINED: "Several faults at once"}


def page(report: Outcomes) -> str:
    """HTML that a browser opens from a file."""
    layers = list(grid(report))
    sections = "".join(_section(layer, lines, report.timeout) for layer, lines in layers)
    body = f"{_head(report)}{_wrong(report)}{_grid(report, layers)}{sections}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(_title(report))}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def _title(report: Outcomes) -> str:
    return f"Failure matrix: {report.headline}"


def _head(report: Outcomes) -> str:
    verdict = "right" if report.right else "wrong"
    number = len(report.cells) if report.right else len(report.wrong)
    said = f"{number:,} of {count(len(report.cells), 'cell')} {verdict}{', interrupted' if report.interrupted else ''}"
    facts = {
        "servers": ", ".join(f"{backend} ({launcher})" for backend, launcher in report.launchers.items()),
        "reader": report.reader or "labkit's own",
        "contract": report.contract,
        "deadline": exact_seconds(report.timeout),
        "seed": str(report.seed),
        "took": seconds(report.elapsed),
        "with": report.versions,
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(plain(fact))}</dd></div>" for name, fact in facts.items())
    return (
        f'<h1>Failure matrix</h1><div class="sum"><span class="{verdict} verdict">{mark(report.right)}{said}</span>'
        f'<dl class="facts">{listed}</dl></div>{_promise(report)}{_legend(report)}'
    )


def _promise(report: Outcomes) -> str:
    late = exact_seconds(report.timeout + MARGIN)
    return (
        "<p>Each cell breaks shard 2 of three real servers (or what its name says), reads all of them, and holds the "
        f"answer against the truth. The contract is <b>{report.contract}</b>: {report.contract.promise}. A cell is "
        "right when that is so, the rows are exactly those of the shards that answered, the read is back within "
        f"{late} (time in which another program had the processor does not count), is complete again within a second "
        "after the fault is undone, and leaves no task, thread or socket behind; and when the fault really fired. The "
        "words are how the broken shards were reported (or how many rows came), the time is that of the "
        "slowest read.</p>"
    )


def _legend(report: Outcomes) -> str:
    seen = {status for outcome in report.cells for status in outcome.statuses}
    items = "".join(f"<li>{_chip(status)}{status}</li>" for status in LOOKS if status in seen)
    return f'<ul class="legend">{items}</ul>' if items else ""


def _wrong(report: Outcomes) -> str:
    if report.right:
        return ""
    return f'<h2 id="wrong">What is wrong</h2><ul>{"".join(map(_wrong_cell, report.wrong))}</ul>'


def _wrong_cell(outcome: Outcome) -> str:
    complaints = "".join(f"<li>{escape(plain(complaint))}</li>" for complaint in outcome.complaints)
    name = escape(f"{outcome.cell.backend} · {outcome.cell.title}")
    return f'<li><a href="#{anchor(outcome)}">{name}</a><ul class="complaints">{complaints}</ul></li>'


def _grid(report: Outcomes, layers: Iterable[tuple[str, list[Line]]]) -> str:
    heads = "".join(f'<th scope="col">{escape(backend)}</th>' for backend in report.backends)
    width = len(report.backends) + 1
    return (
        f'<h2>All cells</h2><div class="scroll"><table><thead><tr><th scope="col">fault</th>{heads}</tr></thead>'
        f"{''.join(_layer(layer, lines, width) for layer, lines in layers)}</table></div>"
    )


def _layer(layer: str, lines: list[Line], width: int) -> str:
    head = f'<tr><th class="layer" scope="rowgroup" colspan="{width}">{layer}</th></tr>' if layer else ""
    return f"<tbody>{head}{''.join(map(_line, lines))}</tbody>"


def _line(line: Line) -> str:
    squares = "".join(f"<td>{_square(outcome)}</td>" for outcome in line.outcomes)
    return f'<tr><th scope="row"><code>{escape(line.title)}</code></th>{squares}</tr>'


def _square(outcome: Outcome | None) -> str:
    if outcome is None:
        return '<span class="dim">– <span class="hidden">cannot act here</span></span>'
    verdict = "right" if outcome.right else "wrong"
    chips = "".join(map(_chip, outcome.statuses))
    return (
        f'<a class="{verdict} square" href="#{anchor(outcome)}">{mark(outcome.right)}{chips}{escape(outcome.status)} '
        f'<span class="dim">{seconds(outcome.slowest)}</span></a>'
    )


def _chip(status: Status) -> str:
    return f'<span class="chip" style="background:{LOOKS[status].colour}"></span>'


def _section(layer: str, lines: list[Line], timeout: float) -> str:
    told = "".join(details(line, timeout) for line in lines)
    return f"<h2>{escape(_TITLES.get(layer, layer))}</h2>{told}"
