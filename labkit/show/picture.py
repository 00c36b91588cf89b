"""A picture that a notebook displays and a script saves."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Picture"]


class Picture:
    """SVG text. It has no `_repr_html_`: a notebook would show it twice."""

    __slots__ = ("_svg",)

    def __init__(self, svg: str) -> None:
        self._svg = svg

    def save(self, path: str | Path) -> None:
        """Writes the SVG to `path`, as UTF-8."""
        Path(path).write_text(self._svg, encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self._svg

    def __str__(self) -> str:
        return self._svg

    def __repr__(self) -> str:
        return "<Picture: SVG, str() gives its text>"
