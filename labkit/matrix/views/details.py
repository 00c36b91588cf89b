"""A cell on the page: what was done, what had to come, the timelines, and what is wrong."""

from __future__ import annotations

from hashlib import sha256
from html import escape

from labkit._types import Ranges
from labkit.matrix.cells import COLD, WARM, YOURS, Cell, by_shard
from labkit.matrix.evidence import Read
from labkit.matrix.outcome import Line, Outcome
from labkit.report import Status
from labkit.show.format import exact_seconds, plain, seconds
from labkit.show.palette import LOOKS

__all__ = ["anchor", "details", "mark"]

_WHOSE = {
    WARM: "by a reader whose connections were there before",
    COLD: "by a reader that had no connection yet",
    YOURS: "by the reader that is judged",
}


def anchor(outcome: Outcome) -> str:
    """The ID of the cell's part of the page; a browser opens what it is in."""
    return "cell-" + sha256(f"{outcome.cell.backend} {outcome.cell.title}".encode()).hexdigest()[:10]


def mark(right: bool) -> str:
    """✓ or ✗, for ears as well."""
    kind, word, sign = ("yes", "right", "✓") if right else ("no", "wrong", "✗")
    return f'<span class="mark {kind}" role="img" aria-label="{word}">{sign}</span>'


def details(line: Line, timeout: float) -> str:
    """One fault on all kinds of server. Closed, but where something is wrong; `timeout` was the reads' deadline."""
    outcomes = [outcome for outcome in line.outcomes if outcome]
    right = all(outcome.right for outcome in outcomes)
    heads = "".join(f"<span>{_head(outcome) if outcome else ''}</span>" for outcome in line.outcomes)
    return (
        f'<details class="{"right" if right else "wrong"}"{"" if right else " open"}>'
        f"<summary><code>{escape(line.title)}</code>{heads}</summary>"
        f"<p>{_prose(outcomes[0].cell.summary)}</p>{''.join(_part(outcome, timeout) for outcome in outcomes)}</details>"
    )


def _head(outcome: Outcome) -> str:
    return f'{mark(outcome.right)}{escape(outcome.cell.backend)} <span class="dim">{escape(outcome.status)}</span>'


def _prose(text: str) -> str:
    """Docstrings have names between backticks."""
    parts = escape(plain(text)).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _part(outcome: Outcome, timeout: float) -> str:
    figures = "".join(_figure(outcome, read, timeout) for read in outcome.reads)
    return (
        f'<div class="part" id="{anchor(outcome)}"><h3>{mark(outcome.right)}{escape(outcome.cell.backend)}</h3>'
        f'{_complaints(outcome)}<dl class="facts">{_facts(outcome)}</dl><div class="reads">{figures}</div></div>'
    )


def _complaints(outcome: Outcome) -> str:
    listed = "".join(f"<li>{escape(plain(complaint))}</li>" for complaint in outcome.complaints)
    return f'<ul class="complaints">{listed}</ul>' if listed else ""


def _facts(outcome: Outcome) -> str:
    healed = "never" if outcome.healed is None else f"after {seconds(outcome.healed)}"
    facts = [(f"{read.who} must be", _expected(outcome.cell, read.who)) for read in outcome.reads]
    return "".join(
        f"<div><dt>{name}</dt><dd>{escape(fact)}</dd></div>" for name, fact in [*facts, ("well again", healed)]
    )


def _expected(cell: Cell, who: str) -> str:
    """How the broken shards may be reported: "timeout", or "2: unreachable; 3: timeout"."""
    allowed = {shard: " or ".join(sorted(statuses)) for shard, statuses in cell.allowed(who).items()}
    broken = {shard: allowed[shard] for shard in cell.samples or allowed}
    if len(set(broken.values())) == 1:
        return next(iter(broken.values()))
    return "; ".join(f"{shard}: {words}" for shard, words in broken.items())


def _figure(outcome: Outcome, read: Read, timeout: float) -> str:
    result = outcome.picture(read)
    drawn = _bar(read, timeout) if result is None else str(result.timeline())
    caption = f"<b>{read.who}</b> {_WHOSE[read.who]} · {seconds(read.seen.elapsed)}"
    return f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>"


def _bar(read: Read, timeout: float) -> str:
    """Of a reader that tells nothing of single shards: its time against the deadline, and whose rows there are."""
    seen = read.seen
    span = max(timeout, seen.elapsed) * 1.1
    outcome = Status.TIMEOUT if seen.elapsed > timeout else Status.SKIPPED if seen.rows is None else Status.OK
    took, due = (f"{100 * moment / span:.1f}%" for moment in (seen.elapsed, timeout))
    return (
        f'<div class="track"><span style="left:0;width:{took};background:{LOOKS[outcome].colour}"></span>'
        f'<span class="due" style="left:{due}"></span></div>'
        f'<p>{escape(plain(_came(read)))} <span class="dim">(dashed: the deadline, {exact_seconds(timeout)})</span></p>'
    )


def _came(read: Read) -> str:
    seen = read.seen
    if seen.rows is None:
        return f"It raised {seen.error}" if seen.error else seen.malformed or seen.crashed or "It was stopped"
    ids = {row_id for row_id, _ in seen.rows if type(row_id) is int}
    counts = (f"{len(ids & {i for i, _ in held})} of shard {shard}" for shard, held in by_shard().items())
    said = "" if seen.missing is None else f"; it says that {_ranges(seen.missing)} is missing"
    return f"{len(seen.rows)} rows came, with IDs {', '.join(counts)}{said}"


def _ranges(ranges: Ranges) -> str:
    shown = ", ".join(f"{low}–{high}" for low, high in ranges[:20]) or "nothing"
    return shown if len(ranges) <= 20 else f"{shown}, …"
