"""One look per status. Colours only help the eye: every view writes the status as a word too."""

from __future__ import annotations

from typing import NamedTuple

from labkit.report import Status

__all__ = ["LOOKS", "Look"]


class Look(NamedTuple):
    """How a status looks: `colour` on a white ground, `angle` of its hatching in degrees, `style` for rich."""

    colour: str
    angle: int | None
    style: str


# Hues of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) and of Paul Tol's: they stay apart
# for colour-blind readers; the hatching keeps them apart in print.
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
