"""A lab while one test has it: the faults of its marks, what it left behind, and what to report if it fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import pytest

from labkit.errors import LabError, LabkitError
from labkit.lab.connections import Connection
from labkit.lab.injector import Active, unfired
from labkit.lab.lab import Lab
from labkit.lab.sync import SyncLab
from labkit.pytest.marks import faults_of, wanted_by
from labkit.pytest.pool import Pool
from labkit.pytest.sections import sections

__all__ = ["Borrowed"]


class Borrowed:
    """`plain`: the test has no event loop. Raises `LabkitError` if there is no such lab, or the marks are wrong."""

    def __init__(self, item: pytest.Item, pool: Pool, *, plain: bool) -> None:
        self._pool = pool
        self._wanted = faults_of(item)
        self._running = pool.take(wanted_by(item))
        self.lab: Lab | SyncLab = self._running.sync if plain else self._running.lab
        self._begun: list[Active] = []
        """Those of the marks."""
        self._before: list[Active] = []
        """Those that fixtures had started when the test's function began."""
        self._seen: list[Connection] = []
        self.notes: list[str] = []
        """What else was wrong with a test that failed."""

    def begin(self) -> None:
        """Starts the faults of the marks; raises what `Lab.inject` does."""
        self._before = self._active
        if self._wanted:
            self._begun = self._running.sync.call(self._running.lab._inject, self._wanted)

    def end(self) -> list[str]:
        """Undoes the faults of the marks and those that the test left; what is wrong, a line each."""
        kept = {id(active) for active in (*self._before, *self._begun)}
        left = [active for active in self._active if id(active) not in kept]
        wrong = self._undone([*self._begun, *left])
        idle = [active for active in self._begun if not active.fired and self._running.lab.running]
        return [
            *wrong,
            *(f"NeverFired: {unfired(active)}" for active in idle),
            *([_unhealed("the test", left)] if left else []),
        ]

    def observe(self) -> None:
        """Notes what the proxies saw until now, for the report of a test that failed."""
        with suppress(LabkitError):  # the test may have broken or stopped the lab
            self._seen = self._running.sync.call(self._running.lab.connections)

    def give_back(self) -> str:
        """Heals what fixtures left; a line about that, or ""."""
        left = self._active
        return "\n".join([*self._undone(left), *([_unhealed("a fixture", left)] if left else [])])

    def sections(self) -> list[tuple[str, str]]:
        """What the report of the failed test gets, as (title, text)."""
        return sections(self._running.lab, self._seen, self.notes)

    @property
    def _active(self) -> list[Active]:
        """What acts now; nothing does in a lab that is not running any more."""
        lab = self._running.lab
        return lab._started().active if lab.running else []

    def _undone(self, active: Sequence[Active]) -> list[str]:
        """Undoes faults; the error if that fails, and then the lab is given up."""
        if not any(one in self._active for one in active):
            return []
        try:
            self._running.sync.call(self._running.lab._undo, active)
        except LabkitError as error:
            self._pool.discard(self._running)
            return [f"{LabError.__name__}: {error}"]
        return []


def _unhealed(who: str, left: Iterable[Active]) -> str:
    names = ", ".join(f"{active.fault!r} on shard {active.shard!r}" for active in left)
    return f"{who} left {names}: use `with lab.fault(…)`, or call lab.heal(); it is healed now"
