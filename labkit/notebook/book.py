"""A notebook file, its code cells, and what is wrong with them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import nbformat

from labkit._files import replace
from labkit._streams import visible
from labkit.errors import LabkitError, UsageError

__all__ = ["Book", "Cell", "Output", "Problem"]

Output: TypeAlias = dict[str, Any]
"""An output as nbformat has it."""
_MOST = 48


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a cell, or with the whole notebook, and what to do about it."""

    path: Path
    cell: Cell | None
    text: str

    def __str__(self) -> str:
        place = f", cell {self.cell.number} ({self.cell.first_line})" if self.cell else ""
        return f"{visible(str(self.path))}{place}: {visible(self.text)}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A code cell with content; `number` counts these from 1, as the execution counts of a complete run do."""

    number: int
    node: Any
    """The cell as nbformat has it."""

    @property
    def source(self) -> str:
        return str(self.node.source)

    @property
    def tags(self) -> set[str]:
        """Its tags, and nbval's comments as the tags that they stand for."""
        comments = re.findall(r"^\s*#+ *(NBVAL_\w+) *$", self.source, re.MULTILINE)
        return {*self.node.metadata.get("tags", []), *(name.lower().replace("_", "-") for name in comments)}

    @property
    def compared(self) -> bool:
        """Whether its outputs are compared with the recorded ones."""
        return "nbval-ignore-output" not in self.tags

    @property
    def may_raise(self) -> bool:
        return bool(self.tags & {"raises-exception", "nbval-raises-exception"})

    @property
    def first_line(self) -> str:
        line = visible(self.source.strip().splitlines()[0]).rstrip(":")
        return line if len(line) <= _MOST else f"{line[: _MOST - 1]}…"


class Book:
    """A notebook file; `UsageError` for one that cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # older notebooks have no cell IDs: they get some
                self.node: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be read: {(error.strerror or str(error)).lower()}") from None
        except Exception as error:
            raise UsageError(f"{str(path)!r} is not a notebook: {str(error).splitlines()[0]}") from None
        code = (node for node in self.node.cells if node.cell_type == "code" and node.source.strip())
        self.cells = [Cell(number, node) for number, node in enumerate(code, 1)]

    def problem(self, text: str, cell: Cell | None = None) -> Problem:
        """One about this notebook."""
        return Problem(self.path, cell, text)

    def save(self) -> None:
        """Writes the file whole or not at all; `LabkitError` if the system refuses."""
        try:
            text = nbformat.writes(self.node)  # type: ignore[no-untyped-call]
            replace(self.path, f"{text.rstrip()}\n".encode())
        except OSError as error:
            raise LabkitError(f"{str(self.path)!r} was not written: {(error.strerror or str(error)).lower()}") from None

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)
