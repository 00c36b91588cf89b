"""Hears of changes to a Postgres table: a trigger that notifies, and a connection that listens.

Source: PostgreSQL documentation, "NOTIFY", "LISTEN", "CREATE TRIGGER".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

__all__ = ["change_trigger", "listen_on", "quote_identifier"]

CHANNEL = TRIGGER = "labkit_changes"
FUNCTION = "labkit_notify_changes"

_STATE = f"""SELECT to_regclass($1)::oid AS oid, EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = '{TRIGGER}' AND tgenabled IN ('O', 'A')
) AS tells"""  # noqa: S608 - a constant


def quote_identifier(name: str) -> str:
    """A table's name as an SQL identifier; `schema.table` becomes two."""
    schema, _, table = name.rpartition(".")
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table) if part)


def change_trigger(table: str) -> str:
    """SQL for a trigger that notifies watchers of the table of every change: once per statement, on commit.

    `table` may include its schema. To be run by the table's owner; safe to repeat. To remove it:
    `DROP TRIGGER labkit_changes ON <table>`.
    """
    return f"""
CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM pg_notify('{CHANNEL}', TG_RELID::text); RETURN NULL; END$$;
DROP TRIGGER IF EXISTS {TRIGGER} ON {quote_identifier(table)};
CREATE TRIGGER {TRIGGER} AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {quote_identifier(table)}
FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}();
"""


async def listen_on(raw: Any, table: str, notify: Callable[[], None], beat: float, patience: float) -> None:
    """Listens on a connection of asyncpg until it ends; see `Listens.listen`. `table` is quoted.

    Each beat checks, for `patience` seconds at most, whether the table is still the same, and still has its trigger;
    while it has none, every beat calls `notify`.
    """
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    raw.add_termination_listener(lambda _: gone.set())
    known: Any = None

    def hear(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if known is None or payload == str(known["oid"]):
            notify()

    async def bounded(call: Any) -> Any:
        stopper = loop.call_later(patience, raw.terminate) if patience else None
        try:
            return await call
        except Exception as error:
            if stopper is not None and loop.time() >= stopper.when():
                raise TimeoutError from error
            raise
        finally:
            if stopper is not None:
                stopper.cancel()

    await bounded(raw.add_listener(CHANNEL, hear))
    while True:
        state = await bounded(raw.fetchrow(_STATE, table))
        if state != known or not state["tells"]:
            known = state
            notify()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(beat):
                await gone.wait()
            raise ConnectionResetError("the server closed the listening connection")
