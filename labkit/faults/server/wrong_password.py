"""A password that clients do not have."""

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
"""The user that clients are on each kind of server; the administrator is another one."""


@dataclass(frozen=True)
class WrongPassword(Fault):
    """The server wants a password that its clients do not have. Existing connections go on.

    The clients' role (Postgres) or user (Redis) gets a new, unknown password. Undone: it has its old one again.
    """

    layer: ClassVar[str] = "server"
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        stored, set_to = _ROLE if target.backend == "postgres" else _USER
        had = await stored(await target.admin(), CLIENT[target.backend])

        async def give(passwords: list[str]) -> None:
            await set_to(await target.admin(), CLIENT[target.backend], passwords)

        undo.push(lambda: give(had))
        await give([sha256(token_bytes(32)).hexdigest()])

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED}, warm={Status.OK})]


async def _stored_by_postgres(admin: Any, role: str) -> list[str]:
    """The verifier that the server stores for the role's password; empty if it has none."""
    stored = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)
    return [] if stored is None else [stored]


async def _set_in_postgres(admin: Any, role: str, passwords: list[str]) -> None:
    literal = await admin.fetchval("SELECT quote_nullable($1::text)", passwords[0] if passwords else None)
    await admin.execute(f"ALTER ROLE {quoted(role)} PASSWORD {literal}")


async def _stored_by_redis(admin: Any, user: str) -> list[str]:
    """The hashes of the user's passwords."""
    user_info = await admin.execute_command("ACL", "GETUSER", user)
    return [one.decode() for one in dict(zip(user_info[::2], user_info[1::2], strict=True))[b"passwords"]]


async def _set_in_redis(admin: Any, user: str, hashes: list[str]) -> None:
    """In one command, so that at no moment another password, or none, is accepted."""
    await admin.execute_command("ACL", "SETUSER", user, "resetpass", *(f"#{one}" for one in hashes))


_ROLE = (_stored_by_postgres, _set_in_postgres)
_USER = (_stored_by_redis, _set_in_redis)
