"""Prints the README's tables from a file of results: `python -m tests.bench.readme FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.bench.columns import label
from tests.bench.limits import verdicts
from tests.bench.machine import described
from tests.bench.results import OURS, Part, Results

__all__ = ["markdown"]


def markdown(results: Results) -> str:
    """The date and machine, the bulk reads side by side, and the promised limits with their measurements."""
    return "\n".join([_head(results), "", *_bulk(results.of("bulk")), *_limits(results)]) + "\n"


def _head(results: Results) -> str:
    rounds = results.run.get("rounds", 1)
    versions = results.machine.get("versions", {})
    servers = ", ".join(f"{name} {versions[name]}" for name in ("Postgres", "Redis", "Python") if name in versions)
    return (
        f"Measured on {results.date[:10]} with {described(results.machine)}; the servers ran on the same machine "
        f"({servers}). Medians of at most {rounds} rounds in turns, each in a fresh process."
    )


def _bulk(parts: list[Part]) -> Iterator[str]:
    if not parts:
        return
    heads = [head for part in parts for head in (f"{_short(part.size)} rows", "× floor", "peak MB")]
    yield from _table(["three Postgres shards to one sorted DataFrame", *heads], _bulk_rows(parts))
    notes = [(name, score.note) for part in parts for name, score in part.scores.items() if score.note]
    for name, note in dict(notes).items():
        yield f"{label('bulk', name)}: {note}."
        yield ""


def _bulk_rows(parts: list[Part]) -> Iterator[list[str]]:
    """The rows, fastest first in the last part, which has the most rows."""
    names = {name for part in parts for name in part.scores if part.median(name) is not None}
    for name in sorted(names, key=lambda name: parts[-1].median(name) or float("inf")):
        cells = [cell for part in parts for cell in _cells(part, name)]
        text = [label("bulk", name), *cells]
        yield [f"**{cell}**" if cell else "" for cell in text] if name == OURS else text


def _cells(part: Part, name: str) -> list[str]:
    seconds, ratio, peak = part.median(name), part.ratio(name), part.median(name, "peak")
    return [
        "" if seconds is None else f"{seconds:.2f} s",
        "" if ratio is None else f"{ratio:.2f}",
        "" if peak is None else f"{peak / 1e6:.0f}",
    ]


def _limits(results: Results) -> Iterator[str]:
    found = verdicts(results)
    if found:
        rows = [
            [verdict.claim, verdict.allowed, verdict.seen, "yes" if verdict.held else "**no**"] for verdict in found
        ]
        yield from _table(["", "promised: at most", "measured", "held"], rows)


def _table(heads: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" + "--:|" * (len(heads) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _short(size: int) -> str:
    """10000000 as 10M."""
    for unit, letter in ((10**6, "M"), (10**3, "k")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{letter}"
    return f"{size:,}"


if __name__ == "__main__":
    sys.stdout.write(markdown(Results.load(Path(sys.argv[1]))))
