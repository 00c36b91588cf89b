"""What all views share: the look of each status, seconds, counts, ID ranges, and text that is safe to print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from labkit._types import Range
from labkit.report import Status

__all__ = ["LOOKS", "Look", "clip", "count", "exact_seconds", "plain", "range_text", "ranges_text", "seconds"]


class Look(NamedTuple):
    """How a status looks: `colour` on a white ground, `angle` of its hatching in degrees, `style` for rich."""

    colour: str
    angle: int | None
    style: str


# Hues from the palettes of Okabe and Ito (https://jfly.uni-koeln.de/color/) and of Paul Tol: colour-blind readers can
# tell them apart, and so can print, by the hatching. Every view also writes the status as a word.
LOOKS: dict[Status, Look] = {
    Status.OK: Look("#009e73", None, "green"),
    Status.TIMEOUT: Look("#e69f00", 45, "yellow"),
    Status.UNREACHABLE: Look("#d55e00", -45, "red"),
    Status.DISCONNECTED: Look("#cc79a7", 90, "magenta"),
    Status.REJECTED: Look("#882255", 20, "bright_red"),
    Status.INVALID: Look("#5d3a9b", -20, "bright_magenta"),
    Status.ERROR: Look("#0072b2", 0, "bright_blue"),
    Status.SKIPPED: Look("#8c959f", None, "dim"),
}


def seconds(value: float) -> str:
    """A measured time for people: "<1 ms", "3 ms", "2.00 s", "150 s"."""
    if value < 0.0005:
        return "<1 ms" if value > 0 else "0 ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 99.995 else f"{value:,.0f} s"


def exact_seconds(value: float) -> str:
    """A chosen time, such as a deadline, without trailing zeros: "2 s", "0.2 s"."""
    return f"{value:g} s"


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 row", "1,000 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def range_text(pair: Range, dash: str = "–") -> str:
    """An ID range: "11–20"; a single ID is "7"; a negative end gives "-20 to -11", where a dash would mislead."""
    low, high = pair
    if low == high:
        return str(low)
    return f"{low} to {high}" if low < 0 else f"{low}{dash}{high}"


def ranges_text(ranges: Sequence[Range], most: int = 6, dash: str = "–") -> str:
    """At most `most` ranges, then the number of the others: "11–20, 41–50, … 3 more"."""
    # "1 more" takes as much room as that range itself
    shown = ranges if len(ranges) <= most + 1 else ranges[:most]
    parts = [range_text(pair, dash) for pair in shown]
    if len(shown) < len(ranges):
        parts.append(f"… {len(ranges) - len(shown):,} more")
    return ", ".join(parts)


def plain(value: object) -> str:
    """`value` as one line of printable characters.

    Keys, names and errors come from elsewhere: control characters could steer a terminal, and XML forbids them.
    """
    return "".join(" " if c.isspace() else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def clip(text: str, most: int) -> str:
    """`text` in at most `most` characters, cut with an ellipsis."""
    return text if len(text) <= most else text[: max(most - 1, 0)].rstrip() + "…"
