"""The report as HTML: a page for a browser, and the short form for a notebook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

from jinja2 import Environment, PackageLoader, StrictUndefined

from labkit.matrix.cells import COLD, WARM, YOURS
from labkit.matrix.evidence import Read
from labkit.matrix.judging import MARGIN
from labkit.matrix.outcome import Outcome, Outcomes, grid
from labkit.router import CLASSIC
from labkit.show.format import LOOKS, count, exact_seconds, plain, ranges_text, seconds

__all__ = ["notebook_html", "page"]

_WHOSE = {
    WARM: "by a reader with open connections",
    COLD: "by a reader without a connection",
    YOURS: "by the judged reader",
}


def page(report: Outcomes) -> str:
    """A self-contained page for a browser."""
    servers = ", ".join(f"{backend} ({launcher})" for backend, launcher in report.launchers.items())
    return _rendered("page.html", report, servers=servers, margin=MARGIN, looks=LOOKS, whose=_WHOSE)


def notebook_html(report: Outcomes) -> str:
    """HTML with inline styles only, no script."""
    return _rendered("notebook.html", report)


def _rendered(name: str, report: Outcomes, **more: object) -> str:
    templates = Environment(  # escapes everything but the timelines, which are labkit's own SVG
        loader=PackageLoader("labkit.matrix", "views"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"exact_seconds": exact_seconds, "plain": plain, "seconds": seconds}
    templates.globals |= {"anchor": _anchor, "count": count, "expected": _expected, "returned": _returned}
    return templates.get_template(name).render(report=report, layers=list(grid(report)), **more)


def _anchor(outcome: Outcome) -> str:
    """The ID of the cell's part of the page; following a link to it opens the closed details around it."""
    return "cell-" + sha256(f"{outcome.cell.backend} {outcome.cell.title}".encode()).hexdigest()[:10]


def _expected(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """How each read may report the broken shards ("timeout", or "2: unreachable; 3: timeout"), and the healing."""
    for read in outcome.reads:
        allowed = {s: " or ".join(sorted(statuses)) for s, statuses in outcome.cell.allowed(read.who).items()}
        broken = {shard: allowed[shard] for shard in outcome.cell.samples or allowed}
        same = len(set(broken.values())) == 1
        each = (f"{shard}: {words}" for shard, words in broken.items())
        yield f"{read.who} must be", next(iter(broken.values())) if same else "; ".join(each)
    yield "healthy again", "never" if outcome.healed is None else f"after {seconds(outcome.healed)}"


def _returned(read: Read) -> str:
    """What a read without a timeline returned."""
    seen = read.seen
    if seen.rows is None:
        return f"It raised {seen.error}" if seen.error else seen.malformed or seen.crashed or "It was stopped"
    owners = Counter(CLASSIC.locate(row_id) for row_id in {row[0] for row in seen.rows if type(row[0]) is int})
    counts = (f"{owners[shard]} of shard {shard}" for shard in CLASSIC.shards)
    missing = "" if seen.missing is None else f"; it reports {ranges_text(seen.missing, 20) or 'nothing'} as missing"
    return f"{count(len(seen.rows), 'row')} returned, {', '.join(counts)}{missing}"
