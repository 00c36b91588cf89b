"""What the matrix found, and the ways to look at it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from labkit import __version__
from labkit.matrix.contract import Contract
from labkit.matrix.outcome import Outcome
from labkit.show.format import count

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

__all__ = ["MatrixReport"]


@dataclass(frozen=True, repr=False)
class MatrixReport:
    """All cells, tried and judged."""

    cells: tuple[Outcome, ...]
    launchers: Mapping[str, str]
    """What ran the servers of each kind."""
    timeout: float
    seed: int
    reader: str
    """Somebody else's reader that was judged; "" for labkit's own."""
    elapsed: float
    """Seconds that all of it took."""
    contract: Contract = Contract.GAPS
    """What the reader was judged by."""
    interrupted: bool = False
    """True when it was ended before all cells had been tried."""
    versions: str = f"labkit {__version__}, Python {platform.python_version()}"

    @property
    def backends(self) -> tuple[str, ...]:
        """The kinds of server."""
        return tuple(self.launchers)

    @property
    def right(self) -> bool:
        """True when no cell is wrong."""
        return not self.wrong

    @cached_property
    def wrong(self) -> tuple[Outcome, ...]:
        """The cells that are wrong."""
        return tuple(outcome for outcome in self.cells if not outcome.right)

    @property
    def headline(self) -> str:
        """How many cells there are, how many are right and wrong, and how long it took."""
        right = len(self.cells) - len(self.wrong)
        told = f"{count(len(self.cells), 'cell')}: {right:,} right, {len(self.wrong):,} wrong, in {self.elapsed:.0f} s"
        return f"{told}; interrupted" if self.interrupted else told

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per cell: fault, backend, status, verdict. No times: it is the same in every run."""
        import pandas as pd

        columns = ["fault", "backend", "status", "verdict"]
        rows = [(o.cell.title, o.cell.backend, o.status, "right" if o.right else "wrong") for o in self.cells]
        return pd.DataFrame(rows, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        from labkit.matrix.views.document import report_dict

        return report_dict(self)

    def to_html(self) -> str:
        """The report as a page that needs nothing else."""
        from labkit.matrix.views.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from labkit.matrix.views.notebook import notebook_html

        return notebook_html(self)

    def __rich__(self) -> RenderableType:
        from labkit.matrix.views.terminal import report_renderable

        return report_renderable(self)

    def __repr__(self) -> str:
        return f"<MatrixReport: {self.headline}>"
