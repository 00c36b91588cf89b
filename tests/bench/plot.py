"""The results as a picture: times ÷ the floor, memory ÷ the frame, small reads by the number of shards."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.columns import label
from tests.bench.machine import described
from tests.bench.results import FLOOR, OURS, Part, Results

__all__ = ["draw"]

OUR_COLOUR, THEIR_COLOUR, FLOOR_COLOUR = "#009e73", "#b8bfc6", "#4d5560"
"""The green is from Okabe and Ito's palette, as in labkit's other pictures."""
LINES = {"floor": FLOOR_COLOUR, "labkit": OUR_COLOUR, "labkit_frame": "#56b4e9", "sqlalchemy": "#e69f00"}
PANEL = 6.4, 3.4
"""Width and height in inches."""
SLOTS = 7
"""The bars a panel has room for; fewer bars are not drawn thicker."""


def draw(results: Results, path: Path) -> None:
    """Writes a picture of all measured parts in the format of the suffix. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = _panels(results)
    rows = math.ceil(len(panels) / 2)
    with mpl.rc_context(
        {"svg.hashsalt": "labkit", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = plt.subplots(
            rows, 2, figsize=(2 * PANEL[0], rows * PANEL[1]), squeeze=False, layout="constrained"
        )
        for ax, panel in zip(axes.flat, panels, strict=False):
            panel(ax)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        figure.suptitle(f"{results.date[:10]} · {described(results.machine)}", fontsize=9, color=FLOOR_COLOUR)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _panels(results: Results) -> list[Callable[[Any], None]]:
    panels: list[Callable[[Any], None]] = []
    for kind in ("bulk", "redis", "stream"):
        for part in results.of(kind):
            if part.median(FLOOR) is not None:
                panels.append(partial(_bars, part, "time ÷ floor", _ratios(part)))
            if kind != "stream" and part.median(OURS, "bytes"):
                panels.append(partial(_bars, part, "peak memory ÷ the frame", _memory(part)))
    if results.of("small"):
        panels.append(partial(_lines, results.of("small")))
    return panels


def _ratios(part: Part) -> dict[str, float]:
    found = {name: part.ratio(name) for name in part.scores}
    return {name: value for name, value in found.items() if value is not None}


def _memory(part: Part) -> dict[str, float]:
    frame = part.median(OURS, "bytes") or 1.0
    found = {name: part.median(name, "peak") for name in part.scores if name != FLOOR}
    return {name: value / frame for name, value in found.items() if value is not None}


def _bars(part: Part, what: str, values: dict[str, float], ax: Any) -> None:
    """Draws horizontal bars with their values, the shortest on top."""
    order = sorted(values, key=lambda name: values[name], reverse=True)
    colours = [_colour(name) for name in order]
    bars = ax.barh([label(part.kind, name) for name in order], [values[name] for name in order], color=colours)
    ax.bar_label(bars, fmt="{:.2f}", padding=3)
    ax.set_title(f"{part.title.split(':')[0]}, {part.size:,} rows: {what}", loc="left", fontsize=10)
    ax.set_ylim(len(order) - 0.5 - max(len(order), SLOTS), len(order) - 0.5)
    ax.set_xlim(0, max(values.values(), default=1.0) * 1.12)
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _lines(parts: list[Part], ax: Any) -> None:
    """Draws the p50 of small reads on two logarithmic axes."""
    sizes = [part.size for part in parts]
    for name, colour in LINES.items():
        points = [(part.size, value * 1e3) for part in parts if (value := part.median(name)) is not None]
        if points:
            ax.plot(*zip(*points, strict=True), marker="o", color=colour, label=label("small", name))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_title("Small read, 20 rows per shard: p50 in ms, by shards", loc="left", fontsize=10)
    ax.legend(frameon=False, fontsize=8)


def _colour(name: str) -> str:
    return FLOOR_COLOUR if name == FLOOR else OUR_COLOUR if name.startswith(OURS) else THEIR_COLOUR
