"""A password that clients do not have."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from secrets import token_bytes, token_hex
from typing import Any, ClassVar

from labkit.errors import LabError
from labkit.faults.base import Fault, Fires, Sample, Target, Undo, UndoCommand
from labkit.faults.server.commands import answer_of
from labkit.faults.server.postgres_table import literal, quoted
from labkit.report import Status

__all__ = ["WrongPassword"]

LOCKED_OUT = "WrongPassword would lock out the administrator, who is {0!r}, as clients are: use another administrator"


@dataclass(frozen=True)
class WrongPassword(Fault):
    """The server wants a password that its clients do not have. Existing connections go on.

    The clients' role (Postgres) or user (Redis) gets a new, unknown password. Undone: it has its old one again, unless
    somebody has given it another meanwhile.
    """

    layer: ClassVar[str] = "server"
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True
    own_servers: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        act, of = (_alter_role, _had_by_role) if target.backend == "postgres" else (_set_user, _had_by_user)
        unknown = _verifier() if target.backend == "postgres" else token_hex(32)
        undo.push(await target.promise(self, await of(await target.admin(), target.user, unknown)))
        await act(await target.admin(), target.user, unknown)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED}, warm={Status.OK})]


def _verifier() -> str:
    """What Postgres stores for a password; of none in this case. Source: PostgreSQL documentation, pg_authid."""
    salt, stored, server = (b64encode(token_bytes(size)).decode() for size in (16, 32, 32))
    return f"SCRAM-SHA-256$4096:{salt}${stored}:{server}"


async def _had_by_role(admin: Any, role: str, unknown: str) -> UndoCommand:
    rows = await admin.fetch("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)
    if not rows:
        raise LabError(f"the server has no role {role!r}, whose password could be changed")
    if role == await admin.fetchval("SELECT session_user::text"):
        raise LabError(LOCKED_OUT.format(role))
    had = "NULL" if rows[0][0] is None else literal(rows[0][0])
    still = f"SELECT FROM pg_authid WHERE rolname = {literal(role)} AND rolpassword = {literal(unknown)}"
    body = f"BEGIN IF EXISTS ({still}) THEN ALTER ROLE {quoted(role)} PASSWORD {had}; END IF; END"
    return UndoCommand((f"DO {literal(body)}",))


async def _alter_role(admin: Any, role: str, verifier: str) -> None:
    await admin.execute(f"ALTER ROLE {quoted(role)} PASSWORD {literal(verifier)}")


async def _had_by_user(admin: Any, user: str, unknown: str) -> UndoCommand:
    found = await admin.execute_command("ACL", "GETUSER", user)
    if found is None:
        raise LabError(f"the server has no user {user!r}, whose password could be changed")
    if user == (await admin.execute_command("ACL", "WHOAMI")).decode():
        raise LabError(LOCKED_OUT.format(user))
    info = dict(zip(found[::2], found[1::2], strict=True))
    had = ["nopass"] if b"nopass" in info[b"flags"] else [f"#{one.decode()}" for one in info[b"passwords"]]
    return UndoCommand(("ACL", "SETUSER", user, "resetpass", *had), ("ACL", "GETUSER", user), unknown)


async def _set_user(admin: Any, user: str, unknown: str) -> None:
    """In one command, so that at no moment another password, or none, is accepted."""
    await answer_of(admin, ("ACL", "SETUSER", user, "resetpass", f"#{unknown}"))
