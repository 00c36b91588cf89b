"""Carries out the commands that undo a fault inside a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from labkit.errors import LabError
from labkit.faults.base import UndoCommand, wait_until

__all__ = ["answer_of", "carry_out"]

BUSY = "BUSY"
"""The code of the error that a server gives while a script runs."""
NO_SCRIPT = "NOTBUSY"
"""The code with which SCRIPT KILL says that there is none."""


async def carry_out(admin: Any, command: UndoCommand) -> None:
    """Gives the command on the administrator's connection, if it is needed. Raises what the server raises."""
    if hasattr(admin, "execute_command"):
        await wait_until(partial(_carried_out, admin, command), "a server that takes commands")
    else:
        await admin.execute(command.words[0])


async def _carried_out(admin: Any, command: UndoCommand) -> bool:
    """False if the server cannot say yet."""
    if command.question:
        reply = await answer_of(admin, command.question)
        if command.answer not in reply:
            return reply[0] != BUSY
    reply = await answer_of(admin, command.words, errors=(BUSY, NO_SCRIPT))
    return reply[0] != BUSY


async def answer_of(admin: Any, words: Sequence[str], errors: Sequence[str] = (BUSY,)) -> list[str]:
    """All parts of a Redis server's reply as text; for an error, its code alone.

    Raises `LabError` for an error whose code is not one of `errors`.
    """
    from redis.exceptions import ResponseError

    try:
        reply = await admin.execute_command(*words)
    except ResponseError as error:
        code = str(error).partition(" ")[0]
        if code not in errors:
            raise LabError(f"{words[0]} failed: {error}") from error
        return [code]
    return list(_parts(reply)) or [""]


def _parts(reply: Any) -> Iterator[str]:
    if isinstance(reply, list | tuple):
        for one in reply:
            yield from _parts(one)
    else:
        yield reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
