"""The commands that `labkit up` takes on stdin, one per line."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from labkit import faults
from labkit._checks import unknown
from labkit._streams import visible
from labkit.errors import NeverFired, UsageError
from labkit.lab.injector import warn
from labkit.lab.lab import Lab
from labkit.show.format import plain

__all__ = ["HELP", "Commands"]

HELP = """\
restart 2      kill shard 2 and start it again; only start it if it is dead
kill 2         kill it (SIGKILL); its rows persist
pause 2        freeze it (SIGSTOP)
fault 2 Down   any fault of labkit.faults, with its default parameters
heal           undo all faults
read           read all shards once
put 12 text    write row 12
delete 12      delete row 12
quit           stop the lab, as Ctrl-C does"""


@dataclass
class Commands:
    """Executes commands, and reports each outcome on one line."""

    lab: Lab
    out: Console
    err: Console

    async def obey(self, line: str) -> bool:
        """Executes one line; False for `quit`. An error is one line on stderr, and has no other effect."""
        word, _, rest = line.strip().partition(" ")
        if word in ("quit", "exit"):
            return False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if word:
                    await self._do(word, rest.strip())
            except UsageError as error:
                self._complain(str(error))
            except Exception as error:  # from a server or a driver: the lab keeps running
                self._complain(f"{word}: {error or type(error).__name__}")
        for warning in caught:
            if issubclass(warning.category, NeverFired):
                self._complain(str(warning.message))
        return True

    async def _do(self, word: str, rest: str) -> None:
        known: dict[str, Callable[[str], Awaitable[None]]] = {
            "restart": self._restart,
            "kill": lambda rest: self._fault(f"{rest} Kill"),
            "pause": lambda rest: self._fault(f"{rest} Pause"),
            "fault": self._fault,
            "heal": self._heal,
            "read": self._read,
            "put": self._put,
            "delete": self._delete,
            "help": self._help,
        }
        if word not in known:
            raise UsageError(unknown("command", plain(word), [*known, "quit"]))
        await known[word](rest)

    async def _restart(self, rest: str) -> None:
        shard = self._shard(rest)
        injector = self.lab._started()
        dead = [active for active in injector.active if (active.shard, active.fault) == (shard, faults.Kill())]
        if dead:
            warn(await self.lab._undo(dead))
        else:
            async with self.lab.fault(shard, faults.Kill()):
                pass
        others = ", ".join(repr(active.fault) for active in injector.active if active.shard == shard)
        self._say(f"shard {shard} was started again{f', and still has {others}' if others else ''}")

    async def _fault(self, rest: str) -> None:
        first, _, name = rest.partition(" ")
        shard, fault = self._shard(first), _fault_of(name.strip())
        await self.lab.inject(shard, fault)
        self._say(f"shard {shard} has {fault!r}")

    async def _heal(self, rest: str) -> None:
        await self.lab.heal()
        self._say("all faults are undone; all shards answer")

    async def _read(self, rest: str) -> None:
        self.out.print(await self.lab.read())

    async def _put(self, rest: str) -> None:
        words = rest.split(maxsplit=1)
        if len(words) < 2:
            raise UsageError("put takes an ID and a name: put 12 text")
        await self.lab.put(_id(words[0]), words[1])
        self._say(f"row {words[0]} is written")

    async def _delete(self, rest: str) -> None:
        await self.lab.delete(_id(rest))
        self._say(f"row {rest} is deleted")

    async def _help(self, rest: str) -> None:
        self._say(HELP)

    def _shard(self, word: str) -> Any:
        for shard in self.lab.router.shards:
            if str(shard) == word:
                return shard
        names = ", ".join(map(str, self.lab.router.shards))
        raise UsageError(f"unknown shard {plain(word)!r}: this lab has {names}")

    def _say(self, text: str) -> None:
        self.out.print(visible(text, keep="\n"), highlight=False, markup=False, soft_wrap=True)

    def _complain(self, text: str) -> None:
        self.err.print(f"labkit: {' '.join(plain(text).split())}", highlight=False, markup=False, soft_wrap=True)


def _fault_of(name: str) -> faults.Fault:
    """The fault of that name, in any capitalisation, with its default parameters."""
    by_name = {known.lower(): known for known in faults.ALL}
    if name.lower() not in by_name:
        raise UsageError(unknown("fault", plain(name), faults.ALL))
    try:
        return faults.ALL[by_name[name.lower()]].kind()
    except TypeError:
        raise UsageError(f"{by_name[name.lower()]} needs parameters, so it cannot be started from here") from None


def _id(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"an ID is an integer, not {plain(word)!r}") from None
