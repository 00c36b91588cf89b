"""A picture that a notebook displays and a script saves."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

__all__ = ["Picture"]


class Picture:
    """SVG text, and `label`, what it shows in words.

    In a notebook it is an HTML image: Jupyter shows neither SVG outputs nor inline SVG of a notebook that
    it does not trust, which is every recorded one that somebody opens for the first time.
    """

    __slots__ = ("_label", "_svg")

    def __init__(self, svg: str, label: str) -> None:
        self._svg = svg
        self._label = label

    def save(self, path: str | Path) -> None:
        """Writes the SVG to `path`, as UTF-8."""
        Path(path).write_text(self._svg, encoding="utf-8")

    def _repr_html_(self) -> str:
        data = b64encode(self._svg.encode()).decode()
        return f'<img alt="{escape(self._label)}" src="data:image/svg+xml;base64,{data}">'

    def __str__(self) -> str:
        return self._svg

    def __repr__(self) -> str:
        return "<Picture: SVG, str() gives its text>"
