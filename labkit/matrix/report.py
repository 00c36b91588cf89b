"""What the matrix found, and the ways to show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.matrix.outcome import Outcomes

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["MatrixReport"]


@dataclass(frozen=True, repr=False)
class MatrixReport(Outcomes):
    """All cells, tried and judged; shows itself in a terminal and in a notebook."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        from labkit.matrix.views.document import report_dict

        return report_dict(self)

    def to_html(self) -> str:
        """The report as a self-contained HTML page."""
        from labkit.matrix.views.html import page

        return page(self)

    def to_junit(self) -> bytes:
        """The report as JUnit's XML, for CI servers: a test case per cell."""
        from labkit.matrix.views.junit import junit_xml

        return junit_xml(self)

    def _repr_html_(self) -> str:
        from labkit.matrix.views.html import notebook_html

        return notebook_html(self)

    def __rich__(self) -> RenderableType:
        from labkit.matrix.views.terminal import report_renderable

        return report_renderable(self)

    def __repr__(self) -> str:
        return f"<MatrixReport: {self.headline}>"
