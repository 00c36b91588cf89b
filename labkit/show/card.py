"""The ground that pictures are drawn on, with a description for who cannot see them."""

from __future__ import annotations

from labkit.show.elements import tag
from labkit.show.picture import Picture

__all__ = ["PAD", "WIDTH", "card"]

WIDTH, PAD = 780.0, 18.0
"""Of every picture, and of its margin, in pixels."""
_FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def card(drawn: list[str], height: float, label: str) -> Picture:
    """What is drawn, as a picture of that height in pixels."""
    # a ground of its own: notebooks may be dark
    ground = tag("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, fill="#fff", stroke="#d0d7de")
    image = tag(
        "svg", ground, *drawn, xmlns="http://www.w3.org/2000/svg", width=WIDTH, height=height,
        viewBox=f"0 0 {WIDTH:g} {height:g}", style="max-width:100%;height:auto", role="img", aria_label=label,
        font_family=_FONTS, font_size=12,
    )  # fmt: skip
    return Picture(image, label)
