"""Undoes what faults of killed processes have left on servers that labkit did not start."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.errors import LabError, LabkitError
from labkit.faults.base import wait_until
from labkit.faults.server.commands import carry_out
from labkit.proxies.administrators import Administrator, administrator
from labkit.proxies.journal import FIX, Entry, Journal

__all__ = ["Outcome", "undo_left"]

PATIENCE = 3.0
"""Seconds in which a connection is tried: connections of the killed process may still count."""


@dataclass(frozen=True)
class Outcome:
    """What became of an entry."""

    text: str
    """One line about it, without secrets."""
    failed: bool = False
    """Whether it is still there and should not be."""


async def undo_left(journal: Journal) -> list[Outcome]:
    """Undoes all entries without an owner, on all servers at once; one that cannot be undone stays."""
    return list(await asyncio.gather(*(_outcome(journal, path) for path in journal.paths())))


async def _outcome(journal: Journal, path: Path) -> Outcome:
    try:
        entry = journal.read(path)
    except LabError as error:
        return Outcome(str(error), failed=True)
    what = f"{entry.shard} ({', '.join(entry.servers)}): {entry.fault}"
    try:
        with journal.adopted(path):
            await _undo(journal, path, journal.read(path))
    except FileNotFoundError:
        return Outcome(f"{what} was undone by somebody else")
    except BlockingIOError:
        return Outcome(f"{what} left alone: process {entry.pid}, which started it, still runs")
    except LabkitError as error:
        return Outcome(f"{what} not undone: {error}; its entry stays, so that you can try `{FIX}` again", failed=True)
    return Outcome(f"{what} undone")


async def _undo(journal: Journal, path: Path, entry: Entry) -> None:
    """Gives the commands, the last one first, and removes each from the entry."""
    admin = administrator(entry.url)
    try:
        connection = await _connected(admin)
        try:
            for number in reversed(range(len(entry.commands))):
                await carry_out(connection, entry.commands[number])
                journal.update(path, replace(entry, commands=entry.commands[:number]))
        finally:
            admin.hang_up(connection)
    except LabkitError:
        raise
    except Exception as error:
        admin.secrets.scrub(error)
        raise LabError(str(error) or type(error).__name__) from error
    journal.remove(path)


async def _connected(admin: Administrator) -> Any:
    """A connection; raises the last attempt's error after `PATIENCE` seconds."""
    made: list[Any] = []
    errors: list[Exception] = []

    async def connects() -> bool:
        try:
            made.append(await admin.connect())
        except Exception as error:
            errors.append(error)
        return bool(made)

    try:
        await wait_until(connects, "a connection", PATIENCE, poll=0.1)
    except LabError:
        raise errors[-1] from None
    return made[0]
