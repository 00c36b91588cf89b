"""The commands that `labkit up` and `labkit proxy` take on stdin, one per line."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from labkit import faults
from labkit._checks import unknown
from labkit._streams import visible
from labkit.cli.up.faults import fault_of
from labkit.errors import NeverFired, UsageError
from labkit.lab.injecting import Injecting
from labkit.lab.injector import warn
from labkit.lab.lab import Lab
from labkit.show.format import plain

__all__ = ["Commands", "LabCommands", "say"]

Command = Callable[[str], Awaitable[None]]

HELP = """\
restart 2      kill shard 2 and start it again; only start it if it is dead
kill 2         kill it (SIGKILL); its rows persist
pause 2        freeze it (SIGSTOP)
fault 2 Down   any fault of labkit.faults: Latency(200), or Latency latency=200 stream=upstream
list           the faults that act
heal           undo all faults
read           read all shards once
put 12 text    write row 12
delete 12      delete row 12
quit           stop the lab, as Ctrl-C does"""


@dataclass
class Commands:
    """Executes commands, and reports each outcome on one line. Subclasses say what the shards are, and add to these."""

    lab: Injecting
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

    @property
    @abstractmethod
    def shards(self) -> Sequence[Any]:
        """The names of the shards."""

    @property
    @abstractmethod
    def help(self) -> str:
        """All commands, one per line."""

    def known(self) -> dict[str, Command]:
        """The commands by name, besides `quit`."""
        return {"fault": self._fault, "heal": self._heal, "list": self._list, "help": self._help}

    async def _do(self, word: str, rest: str) -> None:
        known = self.known()
        if word not in known:
            raise UsageError(unknown("command", plain(word), [*known, "quit"]))
        await known[word](rest)

    async def _fault(self, rest: str) -> None:
        shard, text = self._shard_and_rest(rest)
        fault = fault_of(text)
        await self.lab.inject(shard, fault)
        self._say(f"shard {shard} has {fault!r}")

    async def _heal(self, rest: str) -> None:
        await self.lab.heal()
        self._say("all faults are undone; all shards answer")

    async def _list(self, rest: str) -> None:
        active = self.lab._started().active
        for one in active:
            self._say(f"shard {one.shard} has {one.fault!r}")
        if not active:
            self._say("no fault acts")

    async def _help(self, rest: str) -> None:
        self._say(self.help)

    def _shard_and_rest(self, text: str) -> tuple[Any, str]:
        """The shard whose name the text begins with, which may have spaces, and what follows it."""
        for shard in sorted(self.shards, key=lambda shard: -len(str(shard))):
            if f"{text} ".startswith(f"{shard} "):
                return shard, text[len(str(shard)) :].strip()
        word, names = plain(text.partition(" ")[0]), ", ".join(map(str, self.shards))
        raise UsageError(f"unknown shard {word!r}: choose one of {names or 'none'}")

    def _say(self, text: str) -> None:
        say(self.out, text)

    def _complain(self, text: str) -> None:
        self.err.print(f"labkit: {' '.join(plain(text).split())}", highlight=False, markup=False, soft_wrap=True)


@dataclass
class LabCommands(Commands):
    """Those of `labkit up`."""

    lab: Lab

    @property
    def shards(self) -> Sequence[Any]:
        return self.lab.router.shards

    @property
    def help(self) -> str:
        return HELP

    def known(self) -> dict[str, Command]:
        return {
            "restart": self._restart,
            "kill": lambda rest: self._fault(f"{rest} Kill"),
            "pause": lambda rest: self._fault(f"{rest} Pause"),
            **super().known(),
            "read": self._read,
            "put": self._put,
            "delete": self._delete,
        }

    async def _restart(self, rest: str) -> None:
        shard, more = self._shard_and_rest(rest)
        if more:
            raise UsageError(f"restart takes a shard alone: restart {shard}")
        injector = self.lab._started()
        dead = [active for active in injector.active if (active.shard, active.fault) == (shard, faults.Kill())]
        if dead:
            warn(await self.lab._undo(dead))
        else:
            async with self.lab.fault(shard, faults.Kill()):
                pass
        others = ", ".join(repr(active.fault) for active in injector.active if active.shard == shard)
        self._say(f"shard {shard} was started again{f', and still has {others}' if others else ''}")

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


def say(out: Console, text: str) -> None:
    """Prints plain lines."""
    out.print(visible(text, keep="\n"), highlight=False, markup=False, soft_wrap=True)


def _id(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"an ID is an integer, not {plain(word)!r}") from None
