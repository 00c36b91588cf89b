"""Clients that the server does not let in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.server.setting import change
from labkit.faults.server.until import until
from labkit.status import Status

__all__ = ["PASSWORD", "WrongPassword"]

PASSWORD = "labkit-admin"  # noqa: S105 - of a server that only this machine can reach
"""What the server wants to hear; the administrator always says it, asked or not."""

RULES = b"local all all scram-sha-256\nhost all all all scram-sha-256\n"
"""pg_hba.conf that wants a password of everybody."""


@dataclass(frozen=True)
class WrongPassword(Fault):
    """The server wants a password that its clients do not have. Connections that were there before go on.

    Postgres: pg_hba.conf is rewritten and loaded again; Redis: requirepass. Undone: file, role and setting are again
    as they were.
    """

    layer: ClassVar[str] = "server"
    fires: ClassVar[str] = Fires.ON_CONNECT
    volatile: ClassVar[bool] = True

    async def start(self, target: Target, undo: Undo) -> None:
        if target.backend == "postgres":
            await _in_postgres(target, undo)
        else:
            await change(target, undo, "requirepass", PASSWORD)

    @classmethod
    def samples(cls, timeout: float) -> list[Sample]:
        return [Sample.of(cls(), {Status.REJECTED}, warm={Status.OK})]


async def _in_postgres(target: Target, undo: Undo) -> None:
    admin = await target.admin()
    rules = await admin.fetchval("SELECT pg_read_binary_file(current_setting('hba_file'))")
    password = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = current_user")
    undo.push(partial(_set_password, target, password))
    undo.push(partial(_set_rules, target, rules))
    await _set_password(target, PASSWORD)
    await _set_rules(target, RULES)


async def _set_password(target: Target, password: str | None) -> None:
    """The role's password, or what the server keeps of it; None for none."""
    admin = await target.admin()
    literal = "NULL" if password is None else await admin.fetchval("SELECT quote_literal($1::text)", password)
    await admin.execute(f"ALTER ROLE CURRENT_USER PASSWORD {literal}")


async def _set_rules(target: Target, rules: bytes) -> None:
    """Has the server go by these; returns when it does."""
    admin: Any = await target.admin()
    before = await admin.fetchval("SELECT pg_conf_load_time()")

    async def loaded() -> bool:
        return bool(await admin.fetchval("SELECT pg_conf_load_time()") != before)

    async with admin.transaction():
        # Through a large object, since COPY would not write the bytes as they are.
        content = await admin.fetchval("SELECT lo_from_bytea(0, $1)", rules)
        await admin.execute("SELECT lo_export($1, current_setting('hba_file')), lo_unlink($1)", content)
    await admin.execute("SELECT pg_reload_conf()")
    # The main process tells its sessions and reads the rules before it takes the next client.
    await until(loaded, "the loading of pg_hba.conf")
