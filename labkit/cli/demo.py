"""`labkit demo`: four reads of real servers: all healthy, one frozen, another killed, all healthy again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from labkit import faults
from labkit.lab.lab import Lab
from labkit.merge import join
from labkit.result import ReadResult

__all__ = ["SCENES", "Scene", "play"]

FROZEN, DEAD = 2, 3


@dataclass(frozen=True)
class Scene:
    """One read of the demo: what is done to the lab first, and which shards must then be missing."""

    title: str
    change: Callable[[Lab], Awaitable[None]]
    down: tuple[int, ...]


async def _nothing(_lab: Lab) -> None: ...


async def _freeze(lab: Lab) -> None:
    await lab.inject(FROZEN, faults.Pause())


async def _kill(lab: Lab) -> None:
    await lab.inject(DEAD, faults.Kill())


async def _heal(lab: Lab) -> None:
    await lab.heal()


SCENES = (
    Scene("Three shards, one table", _nothing, ()),
    Scene(f"Shard {FROZEN} is frozen: it keeps its connections and says nothing", _freeze, (FROZEN,)),
    Scene(f"Shard {DEAD} is killed as well: its port refuses", _kill, (FROZEN, DEAD)),
    Scene("Both are healed", _heal, ()),
)


async def play(lab: Lab, console: Console, low: int | None = None, high: int | None = None) -> bool:
    """Plays the scenes on a started lab and prints each read; True if every read returned exactly what it should."""
    right = True
    for number, scene in enumerate(SCENES, start=1):
        await scene.change(lab)
        result = await lab.read(low, high)
        console.rule(Text(f"{number} · {scene.title}", style="bold"), align="left")
        console.print(result)
        console.print()
        right = right and _is_right(lab, result, scene, low, high)
    return right


def _is_right(lab: Lab, result: ReadResult, scene: Scene, low: int | None, high: int | None) -> bool:
    """Whether gaps and rows are exactly those expected with these shards down, judged against the truth."""
    plan: dict[Any, Any] = lab.router.prune(low, high)
    down = [shard for shard in scene.down if shard in plan]
    ids = [row_id for row_id in lab.rows["id"].tolist() if any(_inside(row_id, plan[s]) for s in plan if s not in down)]
    return result.missing == join(plan, down) and result.frame["id"].tolist() == ids


def _inside(row_id: int, ranges: Any) -> bool:
    return any(low <= row_id <= high for low, high in ranges)
