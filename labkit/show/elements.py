"""SVG elements as text: the one place that escapes, and that decides how numbers are written."""

from __future__ import annotations

from html import escape

from labkit.show.format import plain

__all__ = ["DIM", "INK", "tag", "text", "title", "width_of"]

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
    """Pixels that `content` takes at most in common sans-serif fonts (0.6 em a character is the wide ones)."""
    return len(content) * size * 0.6


def _value(value: str | float) -> str:
    if isinstance(value, float):
        # two decimals are finer than a screen, and the same numbers give the same bytes everywhere
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(plain(value))
