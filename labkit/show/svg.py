"""SVG: elements, a card around them, and the picture that a notebook shows."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

from labkit._replay import replaying
from labkit.show.format import plain

__all__ = ["DIM", "INK", "PAD", "WIDTH", "Picture", "card", "tag", "text", "title", "width_of"]

INK = "#1f2328"
DIM = "#59636e"


def tag(name: str, *children: str, **attributes: str | float) -> str:
    """An element; `children` are SVG already. `class_` becomes class, and `data_low` data-low."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def text(x: float, y: float, content: str, **attributes: str | float) -> str:
    """A line of text with its baseline at y."""
    return tag("text", escape(plain(content)), x=x, y=y, **{"fill": INK, **attributes})


def title(content: str) -> str:
    """A tooltip for the element that holds it."""
    return tag("title", escape(plain(content)))


def width_of(content: str, size: float = 12) -> float:
    """An upper bound in pixels for the width of `content` in common sans-serif fonts: 0.6 em per character."""
    return len(content) * size * 0.6


def _value(value: str | float) -> str:
    if isinstance(value, float):
        # two decimals are finer than a pixel, and give the same bytes on every platform
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(plain(value))


WIDTH, PAD = 780.0, 18.0
"""The width of every picture and of its margin, in pixels."""
_FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def card(drawn: list[str], height: float, label: str, untimed: Picture | None = None) -> Picture:
    """The elements `drawn` as a picture; `height` is in pixels. For `untimed` see `Picture`."""
    # its own background: notebooks may be dark
    ground = tag("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, fill="#fff", stroke="#d0d7de")
    image = tag(
        "svg", ground, *drawn, xmlns="http://www.w3.org/2000/svg", width=WIDTH, height=height,
        viewBox=f"0 0 {WIDTH:g} {height:g}", style="max-width:100%;height:auto", role="img", aria_label=label,
        font_family=_FONTS, font_size=12,
    )  # fmt: skip
    return Picture(image, label, untimed)


class Picture:
    """An SVG picture, and `label`, which describes it in words.

    In a notebook it is an HTML image: Jupyter shows neither SVG outputs nor inline SVG in an untrusted notebook, and a
    recorded notebook is untrusted when it is opened for the first time.
    `untimed` is shown instead where outputs are compared: a picture of the same without measured times.
    """

    __slots__ = ("_label", "_svg", "_untimed")

    def __init__(self, svg: str, label: str, untimed: Picture | None = None) -> None:
        self._svg = svg
        self._label = label
        self._untimed = untimed

    def save(self, path: str | Path) -> None:
        """Writes the SVG to `path`, as UTF-8."""
        Path(path).write_text(self._svg, encoding="utf-8")

    def _repr_html_(self) -> str:
        if self._untimed is not None and replaying():
            return self._untimed._repr_html_()
        data = b64encode(self._svg.encode()).decode()
        return f'<img alt="{escape(self._label)}" src="data:image/svg+xml;base64,{data}">'

    def __str__(self) -> str:
        return self._svg

    def __repr__(self) -> str:
        return "<Picture: SVG, str() gives its text>"
