"""What a replay alone does not notice: cells that never ran, pictures that nobody checks, faults that never fired."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from labkit.notebook.book import Book, Cell, Output, Problem
from labkit.notebook.outputs import UNCOMPARED, pictured, printed

__all__ = ["leftover", "never_fired", "recorded"]

_ASSERT = re.compile(r"^\s*(?:[\w.]+\.)?assert\w*\b", re.MULTILINE)
_SKIPS = {"nbval-skip", "skip-execution"}


def recorded(book: Book) -> list[Problem]:
    """What is wrong with the notebook as it is stored: all cells ran, in order and without an unexpected error, and an
    assert follows each picture.
    """
    if not book.cells:
        return [book.problem("it has no code cell: nothing can be checked")]
    if all(cell.node.execution_count is None for cell in book):
        return [book.problem("none of its cells ever ran: record the notebook")]
    return [book.problem(text, cell) for cell in book for text in _of(cell, book.cells)]


def never_fired(outputs: Iterable[Output]) -> list[str]:
    """The faults that never fired, by the warnings that a cell shows."""
    return [
        f"{told}: it tests nothing; read while it lasts, or remove it"
        for told in re.findall(r"\bNeverFired: (.+)", printed(outputs, "stderr"))
    ]


def leftover(left: Sequence[str]) -> str:
    """What to say of what is left of labs."""
    return f"it leaves {', '.join(left)}: in the last cell, stop everything that was started (await lab.stop())"


def _of(cell: Cell, cells: Sequence[Cell]) -> Iterator[str]:
    count, outputs = cell.node.execution_count, cell.node.outputs
    if skips := cell.tags & _SKIPS:
        yield f"it is tagged {min(skips)!r}, so it is never checked: remove the tag, or make it Markdown"
    elif count is None:
        yield "it never ran: record the notebook"
    elif count != cell.number:
        yield f"it ran out of order, as number {count}: record the notebook"
    if not cell.may_raise and (errors := [output for output in outputs if output["output_type"] == "error"]):
        yield (
            f"its recorded output is an error, {errors[0]['ename']}: "
            "correct the cell, or tag it 'raises-exception' if that is the point"
        )
    if cell.compared and (kinds := {kind for output in outputs for kind in output.get("data", {})} & {*UNCOMPARED}):
        yield f"it shows {min(kinds)}, which cannot be compared: draw SVG, or tag it 'nbval-ignore-output'"
    if any(map(pictured, outputs)) and not any(_ASSERT.search(near.source) for near in cells[cell.number - 1 :][:2]):
        yield "no assert follows its picture: in this cell or the next one, assert what it shows"
