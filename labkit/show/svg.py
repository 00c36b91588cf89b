"""The picture of a read: a bar per shard against the deadline, and the IDs that are missing."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from labkit.show.axes import axis, deadline, plot_of
from labkit.show.bars import bars, hatchings
from labkit.show.card import PAD, WIDTH, card
from labkit.show.elements import tag
from labkit.show.facts import headline
from labkit.show.gaps import gap_hatching, strip, strip_height
from labkit.show.picture import Picture

if TYPE_CHECKING:
    from labkit.report import Read

__all__ = ["timeline"]


def timeline(result: Read) -> Picture:
    """An SVG picture of `result`: the same numbers give the same bytes."""
    plot = plot_of(result, PAD, WIDTH - PAD, top=44.0)
    prefix = _prefix(result)
    strip_top = plot.bottom + 46
    height = strip_top + strip_height(result)
    drawn = [
        tag("defs", hatchings(result, prefix), gap_hatching(prefix)),
        axis(plot),
        bars(result, plot, prefix),
        deadline(result.timeout, plot),
        strip(result, PAD, WIDTH - PAD, strip_top, prefix),
    ]
    return card(drawn, height, f"Timeline of a read. {headline(result)}")


def _prefix(result: Read) -> str:
    """Of the content, so that pictures on one page do not take each other's patterns."""
    content = (list(result.reports.values()), result.missing, result.elapsed, result.timeout)
    return "labkit-" + sha256(repr(content).encode("utf-8", "backslashreplace")).hexdigest()[:10]
