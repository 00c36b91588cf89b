"""The labs of a session: each is started when a test first asks for it, and reset for the next one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from labkit.errors import LabkitError, UsageError
from labkit.lab.lab import Lab
from labkit.lab.sync import SyncLab
from labkit.pytest.marks import Wanted

__all__ = ["Pool", "Running", "checked_most"]


@dataclass(frozen=True, eq=False)
class Running:
    """A lab, and the same for code without an event loop."""

    lab: Lab
    sync: SyncLab


class Pool:
    """At most `most` labs; the one that was not used for longest makes room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: OrderedDict[Any, Running] = OrderedDict()
        """The one used last comes last."""
        self._failed: dict[Any, LabkitError] = {}

    def take(self, wanted: Wanted) -> Running:
        """A lab as wanted, as if just started. Raises what its start raises: again for the next test, at once."""
        if wanted.identity in self._failed:
            raise self._failed[wanted.identity].with_traceback(None)
        running = self._running.pop(wanted.identity, None)
        if running is None or not _reset(running):
            running = self._start(wanted)
        self._running[wanted.identity] = running
        return running

    def discard(self, running: Running) -> None:
        """Stops a lab that cannot be used any more."""
        for identity, one in list(self._running.items()):
            if one is running:
                del self._running[identity]
                one.sync.stop()

    def stop(self) -> None:
        """Stops all labs; raises the first error once that was tried with each."""
        errors: list[Exception] = []
        while self._running:
            _, running = self._running.popitem()
            try:
                running.sync.stop()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _start(self, wanted: Wanted) -> Running:
        while len(self._running) >= self._most:
            _, oldest = self._running.popitem(last=False)
            oldest.sync.stop()
        try:
            lab = Lab(**wanted.arguments)
            return Running(lab, lab.sync().start())
        except LabkitError as error:
            self._failed[wanted.identity] = error
            raise


def checked_most(text: Any) -> int:
    """The limit of labs as pytest's configuration has it; `UsageError` if it is not a positive number."""
    if not str(text).strip().isdigit() or int(text) < 1:
        raise UsageError(f"labkit_labs must be a positive number of labs, not {text!r}")
    return int(text)


def _reset(running: Running) -> bool:
    """Whether the lab is as new; it is stopped if not: a test stopped it, or broke it for good."""
    try:
        running.sync.reset()
    except LabkitError:
        running.sync.stop()
        return False
    return True
