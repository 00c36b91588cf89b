"""The schedule: contestants take turns in a new order each round, so a busy moment of the machine hits them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from typing import Any

from tests.bench.process import Absent, Failed, Worker, worker
from tests.bench.results import FAILED, Part, Score
from tests.bench.task import Task

__all__ = ["bursts", "fresh", "in_turns"]

Say = Callable[[str], None]


def in_turns(names: list[str], rounds: int, seed: str, fewer: Mapping[str, int] | None = None) -> Iterator[list[str]]:
    """The names for each round, in an order drawn from `seed`; `fewer` gives the rounds of those that leave early."""
    random = Random(seed)
    for number in range(rounds):
        order = [name for name in names if number < (fewer or {}).get(name, rounds)]
        random.shuffle(order)
        yield order


async def fresh(
    part: Part, tasks: Mapping[str, Task], rounds: int, seed: str, say: Say, fewer: Mapping[str, int] | None = None
) -> Part:
    """One measurement per round and contestant, each in a fresh process; a failed contestant is not measured again."""
    part.scores = {name: Score(name) for name in tasks}
    for name, count in (fewer or {}).items():
        if name in part.scores and count < rounds:
            part.scores[name].note = f"{count} of {rounds} rounds"
    for number, order in enumerate(in_turns(list(tasks), rounds, f"{seed}|{part.kind}|{part.size}", fewer), start=1):
        for name in order:
            score = part.scores[name]
            if not score.out:
                say(f"{part.kind} {part.size:,}: round {number} of {rounds}, {name}")
                await _note_failure(score, partial(_measure_once, tasks[name], score))
    return part


async def _measure_once(task: Task, score: Score) -> None:
    async with worker(task) as ready:
        _take(score, await ready.measure())


async def bursts(part: Part, tasks: Mapping[str, Task], visits: int, count: int, seed: str, say: Say) -> Part:
    """`visits` rounds of `count` short reads; each contestant keeps one process."""
    part.scores = {name: Score(name) for name in tasks}
    say(part.title)
    async with AsyncExitStack() as stack:
        ready: dict[str, Worker] = {}

        async def enter(name: str) -> None:
            ready[name] = await stack.enter_async_context(worker(tasks[name]))

        async def visit(name: str) -> None:
            _take(part.scores[name], await ready[name].measure(count))

        for name in tasks:
            await _note_failure(part.scores[name], partial(enter, name))
        for order in in_turns(list(ready), visits, f"{seed}|{part.kind}|{part.size}"):
            for name in order:
                if not part.scores[name].out:
                    await _note_failure(part.scores[name], partial(visit, name))
    return part


def _take(score: Score, answer: Mapping[str, Any]) -> None:
    score.add("seconds", answer["seconds"])
    score.add("peak", [answer["peak"]])
    for name, value in answer["figures"].items():
        score.add(name, [value])


async def _note_failure(score: Score, work: Callable[[], Awaitable[None]]) -> None:
    """Notes a failure of `work` in the score, and discards earlier samples."""
    try:
        await work()
    except (Absent, Failed) as error:
        score.note = str(error) if isinstance(error, Absent) else f"{FAILED}{error}"
        score.samples, score.out = {}, True
