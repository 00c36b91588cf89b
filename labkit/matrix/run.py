"""The whole matrix: a lab a kind of server, its cells one after the other."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeAlias

from labkit.errors import NeverFired
from labkit.lab.lab import Lab
from labkit.matrix.cells import cells
from labkit.matrix.foreign import Foreign, found, named, takes_tables, their_reads
from labkit.matrix.outcome import Outcome
from labkit.matrix.progress import progress
from labkit.matrix.reading import our_reads
from labkit.matrix.report import MatrixReport
from labkit.matrix.rows import ROWS
from labkit.matrix.selection import known_backends, known_faults, refuse_impossible
from labkit.matrix.trial import tried

__all__ = ["run"]

Maker: TypeAlias = "Callable[..., Lab]"


async def run(
    *,
    backends: Iterable[str] = (),
    faults: Iterable[str] = (),
    launcher: str = "auto",
    timeout: float = 2.0,  # noqa: ASYNC109 - the deadline of the reads, not of this
    seed: int = 0,
    reader: str | Foreign | None = None,
) -> MatrixReport:
    """Tries every fault on every kind of server, or those named, and judges each read against the truth.

    `timeout` in seconds is the reads' deadline. `reader` is somebody else's: "module:function", or an async callable
    that takes {shard: url} and returns rows. Raises `UsageError` for what is not known, before anything starts, and
    `LabError` where no server can be started. On a terminal, bars on stderr show how far it is.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    theirs = None if reader is None else found(reader)
    kinds = known_backends(backends, tables_told=theirs is None or takes_tables(theirs))
    names = known_faults(faults)
    makers: dict[str, Maker] = {
        kind: partial(Lab, kind, rows=ROWS, launcher=launcher, timeout=timeout, seed=seed) for kind in kinds
    }
    for make in makers.values():
        refuse_impossible(names, kinds, make().launcher)
    outcomes: list[Outcome] = []
    launchers: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeverFired)  # is a complaint here
        # One kind after the other. Side by side would save a quarter of the time, and could tell neither whose sockets
        # are left nor whose work made a read late.
        for kind, make in makers.items():
            launchers[kind], found_here = await _kind(make, kinds, names, theirs)
            outcomes += found_here
    label = "" if reader is None else named(reader)
    return MatrixReport(tuple(outcomes), launchers, float(timeout), seed, label, clock() - started)


async def _kind(
    make: Maker, kinds: Sequence[str], names: Sequence[str], theirs: Foreign | None
) -> tuple[str, list[Outcome]]:
    """Tries all cells of a kind of server, those that need another lab last; says what ran the servers."""
    outcomes: list[Outcome] = []
    async with AsyncExitStack() as labs:
        lab, replicas = await labs.enter_async_context(make()), 0
        refuse_impossible(names, kinds, lab.launcher)
        todo = sorted(cells(lab.backend, lab.launcher, lab.timeout, names), key=lambda cell: cell.replicas)
        with progress(lab.backend, len(todo)) as tell:
            for cell in todo:
                tell(cell, _wrong(outcomes))
                if cell.replicas != replicas or (outcomes and outcomes[-1].spoilt):
                    await labs.aclose()
                    replicas = cell.replicas
                    lab = await labs.enter_async_context(make(replicas=replicas) if replicas else make())
                outcomes.append(await tried(lab, cell, their_reads(theirs, lab) if theirs else our_reads(lab)))
            tell(None, _wrong(outcomes))
        return lab.launcher, outcomes


def _wrong(outcomes: Sequence[Outcome]) -> int:
    return sum(not outcome.right for outcome in outcomes)
