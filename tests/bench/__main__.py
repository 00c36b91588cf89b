"""Benchmarks of labkit against the floor and the peers a user would pick: `python -m tests.bench`.

\b
bulk     all rows of three Postgres shards to one sorted DataFrame
wide     eight columns of all rows of three Postgres shards to one sorted DataFrame
count    the number of rows of three Postgres shards
small    20 rows per shard of 3 to 100 Postgres shards
redis    all rows of three Redis shards to one sorted DataFrame
stream   all rows of three Postgres shards in Arrow batches
router   look-ups among 1,000 shards with 100,000 ranges
late     a frozen shard's deadline during bulk reads on the same event loop
serve    GET /data for twenty clients, compared with a hand-written endpoint
proxy    what a lab's proxy costs (also: python -m tests.bench.proxy)

Contestants take turns, each in a fresh process. Figures are medians and ratios to the floor.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tests.bench import proxy
from tests.bench.machine import busy, machine
from tests.bench.parts import PARTS, Plan, run
from tests.bench.report import TIMED, tables
from tests.bench.results import Results
from tests.bench.task import MODULES, contestants

__all__ = ["main", "plan_of"]

FULL_ROWS, QUICK_ROWS = (1_000_000, 10_000_000), (100_000,)


def plan_of(
    parts: tuple[str, ...], rounds: int | None, rows: tuple[int, ...], only: tuple[str, ...], seed: str, quick: bool
) -> Plan:
    """The plan for these options, with defaults filled in; click.BadParameter for an unknown contestant."""
    chosen = tuple(part for part in PARTS if part in parts) or tuple(p for p in PARTS if not (quick and p == "proxy"))
    known = {name for part in chosen if part in MODULES for name in contestants(part)}
    for name in only:
        if name not in known:
            raise click.BadParameter(f"unknown contestant {name!r}; expected one of {', '.join(sorted(known))}")
    sizes = tuple(sorted(set(rows))) or (QUICK_ROWS if quick else FULL_ROWS)
    few = {"shards": (3, 100), "visits": 3, "burst": 10, "requests": 200} if quick else {}
    return Plan(chosen, sizes, rounds or (1 if quick else 7), seed=seed, only=only, **few)  # type: ignore[arg-type]


async def _execute(plan: Plan, quick: bool, console: Console, say: Callable[[str], None]) -> Results:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    results = Results(now, run={**asdict(plan), "quick": quick})
    load = busy()
    results.machine = {**machine(await run(plan, results, say)), "load": load}
    if plan.has("proxy"):
        costs, late = await proxy.measured(console, rounds=plan.rounds, seconds=1)
        results.proxy = proxy.to_dict(costs, late)
        for table in proxy.tables(costs, late):
            console.print(table)
    return results


def _console() -> Console:
    """A console as wide as the terminal, or wide enough for the tables when redirected."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


@click.command(help=__doc__)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Run only this part; repeatable.")
@click.option("--rounds", type=click.IntRange(1), help="Measurements per contestant: 7, or 1 with --quick.")
@click.option("--rows", multiple=True, type=click.IntRange(60), help="Number of rows; repeatable.")
@click.option("--only", multiple=True, help="Run only this contestant; repeatable: --only floor --only labkit.")
@click.option("--seed", default="0", show_default=True, help="Seed of the order of turns.")
@click.option("--quick", is_flag=True, help="Take about a minute: few rows, one round, no proxy.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write every sample here.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Plot the results here: .svg or .png.")
def main(file: Path | None, plot: Path | None, quick: bool, **asked: Any) -> None:
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: `make bench` installs it")
    console, progress = _console(), Console(stderr=True, style="dim")
    plan = plan_of(quick=quick, **asked)
    results = asyncio.run(_execute(plan, quick, console, lambda words: progress.print(words, soft_wrap=True)))
    for table in tables(results):
        console.print(table)
    console.print(TIMED, style="dim")
    if file is not None:
        results.save(file)
    if plot is not None:
        from tests.bench.plot import draw

        draw(results, plot)
    if any(score.failed for part in results.parts for score in part.scores.values()):
        raise click.ClickException("a contestant failed: the table shows its error beside its name")


if __name__ == "__main__":
    main()
