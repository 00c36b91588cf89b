"""The whole matrix: one lab per kind of server, and its cells one after the other."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from labkit._checks import unknown
from labkit.errors import NeverFired, UsageError
from labkit.lab.lab import Lab
from labkit.lab.launch import each
from labkit.matrix.cells import VICTIM, Cell, cells
from labkit.matrix.contract import Contract
from labkit.matrix.contract import contract as known_contract
from labkit.matrix.dataset import ROWS, Dataset
from labkit.matrix.dataset import dataset as known_table
from labkit.matrix.external import ExternalReader
from labkit.matrix.outcome import Outcome
from labkit.matrix.process import ReaderProcess, TheirReads
from labkit.matrix.programs import TOPOLOGY, Command, Program, Service
from labkit.matrix.report import MatrixReport
from labkit.matrix.selection import known_backends, known_faults, refuse_impossible
from labkit.matrix.trial import OurReads, try_cell
from labkit.matrix.views.script import script
from labkit.matrix.views.terminal import progress
from labkit.topology import Topology
from labkit.topology.file import check_free, written

__all__ = ["Session", "run"]


async def run(
    *,
    backends: Iterable[str] = (),
    faults: Iterable[str] = (),
    launcher: str = "auto",
    timeout: float = 2.0,  # noqa: ASYNC109 - the deadline of the reads, not of this
    seed: int = 0,
    reader: str | ExternalReader | None = None,
    reader_cmd: str | None = None,
    reader_url: str | None = None,
    topology: str = TOPOLOGY,
    contract: str = "gaps",
    table: str = "classic",
    jobs: int = 1,
) -> MatrixReport:
    """Tries every fault on every kind of server, or those named, and judges each read against the truth.

    `timeout` is the reads' deadline in seconds. `reader` replaces labkit's own: "module:function", or a callable that
    takes {shard: url} (and {shard: table or key}, if it has a second parameter); unless it is async, it is called in a
    thread. It returns rows, `{"rows": …, "missing": [[low, high], …]}`, a pair (rows, missing) or a `ReadResult`.
    `reader_cmd` is a program instead, started for each read, and `reader_url` an HTTP service on this machine, which
    finds the shards in the file `topology`: see `labkit.matrix.programs`. Each is judged by its `contract`: "gaps" (it
    reports exactly what is missing), "all-or-nothing" (all rows, or an exception in time) or "best-effort" (it need not
    report what is missing). labkit's own readers are always judged by "gaps".

    `table` is what the shards hold: "classic" has the columns (id, name); "wide" has further ones, of 16 types, with
    NULLs, extremes and texts that a syntax could mistake, which `seed` deals to the rows. All columns are judged.

    Such a reader runs in a separate process, which is killed with all its descendants when a read is three seconds
    late; a service only loses its connection. A callable runs in a fork of this process: it sees everything it refers
    to; its changes stay in the fork.

    `jobs` cells are tried at the same time, each in a lab and a process of the reader of its own. It must be 1 for
    labkit's own reads, which share a process with the labs, and for a service, which has one topology.

    Raises `UsageError` for unknown names before anything starts, and `LabError` if no server can be started.
    On a terminal, stderr shows progress bars.
    """
    session = Session(
        backends=backends,
        faults=faults,
        launcher=launcher,
        timeout=timeout,
        seed=seed,
        reader=reader,
        reader_cmd=reader_cmd,
        reader_url=reader_url,
        topology=topology,
        contract=contract,
        table=table,
        jobs=jobs,
    )
    await session.play()
    return session.report()


class Session:
    """One run of the matrix: `play()` tries its cells; `report()` covers those tried so far, also when cancelled."""

    def __init__(
        self,
        *,
        backends: Iterable[str],
        faults: Iterable[str],
        contract: str,
        reader: str | ExternalReader | None = None,
        reader_cmd: str | None = None,
        reader_url: str | None = None,
        topology: str = TOPOLOGY,
        table: str = "classic",
        jobs: int = 1,
        lines: bool = False,
        **options: Any,
    ) -> None:
        """Takes what `run` does; with `lines`, stderr gets one line per cell when it is not a terminal."""
        promised, judged = known_contract(contract), _only(reader, reader_cmd, reader_url, topology)
        self._contract = Contract.GAPS if judged is None else promised
        self._requested = [backends] if isinstance(backends, str) else list(backends)
        self._backends, self._faults = known_backends(self._requested), known_faults(faults)
        _check_jobs(jobs, judged)
        self._readers = [ReaderProcess(judged) for _ in range(jobs)] if judged is not None else [None]
        self._dataset = known_table(table, options.get("seed", 0))
        self._options, self._lines = options, lines
        self._outcomes: list[tuple[int, int, Outcome]] = []
        """Each with the number of its kind of server, and its own among them."""
        self._launchers: dict[str, str] = {}
        self._elapsed = 0.0
        for kind in self._backends:
            refuse_impossible(self._faults, self._backends, self._lab(kind).launcher)

    async def play(self) -> None:
        """Tries all cells. However it ends, its labs and the reader's process are gone afterwards."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            kinds = await self._readable_kinds()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NeverFired)  # reported as a complaint
                # One kind at a time. Running them side by side would save a quarter of the time, but could tell
                # neither whose sockets are left over nor whose work made a read late.
                for kind in kinds:
                    await self._try(kind)
        finally:
            self._elapsed = clock() - started
            for reader in self._readers:
                if reader is not None:
                    await reader.aclose()

    def report(self, interrupted: bool = False) -> MatrixReport:
        """The report on the cells tried so far."""
        return MatrixReport(
            tuple(outcome for _, _, outcome in sorted(self._outcomes, key=lambda tried: tried[:2])),
            dict(self._launchers),
            float(self._options["timeout"]),
            self._options["seed"],
            "" if self._readers[0] is None else self._readers[0].name,
            self._elapsed,
            self._contract,
            interrupted,
            table=self._dataset.name,
        )

    def explain(self, title: str) -> str:
        """A script that reproduces the cell "Pause()", or "Pause() on 2"; `UsageError` for an unknown one."""
        wanted = title.strip().removesuffix(f" on {VICTIM}")
        known: dict[str, Cell] = {}
        for kind in self._backends:
            for cell in cells(kind, self._lab(kind).launcher, self._options["timeout"], self._faults):
                known.setdefault(cell.title, cell)
        if wanted not in known:
            raise UsageError(unknown("cell", title, list(known)))
        judged = None if self._readers[0] is None else self._readers[0].reader
        if judged is not None and not isinstance(judged, str | Program):
            raise UsageError("only a reader that has a name, module:function, can be written into a script")
        cell = known[wanted]
        return script(
            cell,
            judged,
            launcher=self._options.get("launcher", "auto"),
            timeout=self._options["timeout"],
            seed=self._options["seed"],
            table=self._dataset.name,
        )

    async def _readable_kinds(self) -> list[str]:
        """Starts the reader, which shows what kinds of server it can read."""
        for reader in self._readers:
            if reader is None:
                return self._backends
            await reader.start()
        return known_backends(self._requested, takes_tables=all(one.takes_tables for one in self._readers if one))

    async def _try(self, kind: str) -> None:
        """Tries all cells of one kind of server; those that need a lab with replicas come last."""
        benches = [_Bench(partial(self._lab, kind), reader) for reader in self._readers]
        async with AsyncExitStack() as running:
            for bench in benches:
                running.push_async_callback(bench.aclose)
            await each(benches, lambda bench: bench.renew(0), len(benches))
            place, launcher = len(self._launchers), benches[0].lab.launcher
            self._launchers[kind] = launcher
            refuse_impossible(self._faults, self._backends, launcher)
            todo = sorted(cells(kind, launcher, self._options["timeout"], self._faults), key=lambda cell: cell.replicas)
            tried: list[Outcome] = []
            with progress(kind, len(todo), self._lines) as show:
                following = iter(enumerate(todo))

                async def work(bench: _Bench) -> None:
                    for number, cell in following:  # whoever is free takes the next one
                        show(cell, tried)
                        outcome = await bench.try_cell(cell, self._contract, self._dataset)
                        tried.append(outcome)
                        self._outcomes.append((place, number, outcome))

                await each(benches, work, len(benches))
                show(None, tried)

    def _lab(self, kind: str, replicas: int = 0) -> Lab:
        rows = ROWS if self._dataset.name == "classic" else self._dataset.table
        return Lab(kind, rows=rows, replicas=replicas, **self._options)


class _Bench:
    """A lab and the external reader that reads it, None for labkit's own. After a cell that spoilt it, and for one that
    needs other replicas, there is a new lab.
    """

    def __init__(self, new_lab: Callable[[int], Lab], reader: ReaderProcess | None) -> None:
        self._new_lab, self._reader = new_lab, reader
        self._running = AsyncExitStack()
        self._replicas, self._spoilt = 0, False
        self.lab = new_lab(0)

    async def renew(self, replicas: int) -> None:
        """Starts a new lab, and tells a service where it is."""
        await self.aclose()
        self.lab, self._replicas, self._spoilt = self._new_lab(replicas), replicas, False
        await self._running.enter_async_context(self.lab)
        if self._reader is not None and isinstance(service := self._reader.reader, Service):
            self._running.enter_context(written(Path(service.topology), Topology.of(self.lab).to_toml(), "matrix"))
            await service.ready()

    async def try_cell(self, cell: Cell, contract: Contract, dataset: Dataset) -> Outcome:
        """Tries a cell, in a new lab if it needs one."""
        if cell.replicas != self._replicas or self._spoilt:
            await self.renew(cell.replicas)
        ours, theirs = OurReads(self.lab, dataset), self._reader
        reads = ours if theirs is None else TheirReads(theirs, self.lab, dataset.schema)
        outcome = await try_cell(self.lab, cell, reads, contract, dataset)
        self._spoilt = outcome.spoilt
        return outcome

    async def aclose(self) -> None:
        """Stops the lab."""
        await self._running.aclose()


def _check_jobs(jobs: int, judged: ExternalReader | Program | str | None) -> None:
    if type(jobs) is not int or jobs < 1:
        raise UsageError(f"jobs must be a whole number from 1, not {jobs!r}")
    if jobs > 1 and judged is None:
        raise UsageError(f"{jobs} jobs need a reader of yours: labkit's own reads share one process, so name a reader")
    if jobs > 1 and isinstance(judged, Service):
        raise UsageError(f"{jobs} jobs cannot share a service, which reads one topology at a time: leave jobs at 1")


def _only(
    reader: str | ExternalReader | None, command: str | None, url: str | None, topology: str
) -> str | ExternalReader | Program | None:
    """The one reader of these that is given, None for labkit's own; `UsageError` for more than one."""
    if sum(given is not None for given in (reader, command, url)) > 1:
        raise UsageError("a reader, a command and a URL are three readers: name one of them")
    if command is not None:
        return Command(command)
    if url is None:
        return reader
    check_free(Path(topology), "matrix")
    return Service(url, topology)
