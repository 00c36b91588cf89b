"""Clients that the server does not let in."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from secrets import token_bytes
from typing import Any, ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.postgres_table import quoted
from labkit.report import Status

__all__ = ["CLIENT", "WrongPassword"]

CLIENT = {"postgres": "labkit", "redis": "default", "redis-cluster": "default"}
"""Who clients are on each kind of server. The administrator is somebody else."""


@dataclass(frozen=True)
class WrongPassword(Fault):
    """The server wants a password that its clients do not have. Connections that were there before go on.

    Their role (Postgres) or user (Redis) gets a new password that nobody knows. Undone: it has its own again.
    """

    layer: ClassVar[str] = "server"
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        kept, set_to = _ROLE if target.backend == "postgres" else _USER
        had = await kept(await target.admin(), CLIENT[target.backend])

        async def give(passwords: list[str]) -> None:
            await set_to(await target.admin(), CLIENT[target.backend], passwords)

        undo.push(lambda: give(had))
        await give([sha256(token_bytes(32)).hexdigest()])

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED}, warm={Status.OK})]


async def _kept_by_postgres(admin: Any, role: str) -> list[str]:
    """What the server keeps of the role's password; nothing where it has none."""
    kept = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)
    return [] if kept is None else [kept]


async def _set_in_postgres(admin: Any, role: str, passwords: list[str]) -> None:
    literal = await admin.fetchval("SELECT quote_nullable($1::text)", passwords[0] if passwords else None)
    await admin.execute(f"ALTER ROLE {quoted(role)} PASSWORD {literal}")


async def _kept_by_redis(admin: Any, user: str) -> list[str]:
    """The hashes of the user's passwords."""
    told = await admin.execute_command("ACL", "GETUSER", user)
    return [one.decode() for one in dict(zip(told[::2], told[1::2], strict=True))[b"passwords"]]


async def _set_in_redis(admin: Any, user: str, hashes: list[str]) -> None:
    """In one command, so that at no moment another password is accepted, or none is needed."""
    await admin.execute_command("ACL", "SETUSER", user, "resetpass", *(f"#{one}" for one in hashes))


_ROLE = (_kept_by_postgres, _set_in_postgres)
_USER = (_kept_by_redis, _set_in_redis)
