"""Postgres server processes: one initdb, copied for each shard, on unix sockets."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path

from labkit.errors import LabError
from labkit.faults.server.postgres_table import quoted
from labkit.lab.access import ADMIN
from labkit.lab.backends.postgres import INITDB, PORT, SETTINGS
from labkit.lab.keeper.client import KeeperClient
from labkit.lab.launchers.embedded.binaries import is_root, open_to_all, postgres_home, wheel_parts

__all__ = ["PostgresProgram"]

AS_A_PROCESS = {
    "listen_addresses": "",
    "port": str(PORT),
    # Nothing outside of the shard's folder, so that a SIGKILL leaves nothing there.
    "dynamic_shared_memory_type": "mmap",
}

AS_NOBODY = ["unshare", "--map-user=65534", "--map-group=65534"]
"""In a namespace of its own a user without a name, as containers have them, has that of nobody."""


class PostgresProgram:
    """The newest Postgres found here."""

    drop = True
    farewell = signal.SIGQUIT  # an immediate shutdown, which takes the shared memory along

    def __init__(self, credentials: str) -> None:
        self._home = postgres_home()
        self._credentials = credentials

    async def prepare(self, keeper: KeeperClient, count: int) -> list[str]:
        if is_root() and not open_to_all(self._home):
            below, parts = wheel_parts(self._home)
            copy = Path(await keeper.ask("install", below=str(below), parts=parts))
            self._home = copy / self._home.relative_to(below)
        folders = [await keeper.ask("folder", name=str(i + 1), drop=True) for i in range(count)]
        await self._initialise(keeper, folders[0])
        copies = [["cp", "-R", f"{folders[0]}/.", folder] for folder in folders[1:]]
        await keeper.ask("run", commands=copies, drop=True)
        return folders

    def command(self, folder: str) -> list[str]:
        settings = {**SETTINGS, **AS_A_PROCESS, "unix_socket_directories": quoted(folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._home / "bin/postgres"), "-D", folder, *options]

    def config(self) -> str:
        return ""

    def socket(self, folder: str) -> str:
        return f"{folder}/.s.PGSQL.{PORT}"

    async def _initialise(self, keeper: KeeperClient, folder: str) -> None:
        nameless = _is_nameless()
        password = await keeper.ask("note", name="initdb", text=self._credentials, drop=True)
        try:
            await keeper.ask("run", commands=[nameless * AS_NOBODY + self._initdb(folder, password)], drop=True)
        except LabError as error:
            if not nameless:
                raise
            raise LabError(
                f"initdb needs an entry in /etc/passwd for user {os.geteuid()}, and none could stand in ({error})"
            ) from None
        finally:
            await keeper.ask("forget", name="initdb")

    def _initdb(self, folder: str, password: str) -> list[str]:
        words = ["-D", folder, "-U", ADMIN, "--auth=scram-sha-256", f"--pwfile={password}"]
        return [str(self._home / "bin/initdb"), *words, *INITDB]


def _is_nameless() -> bool:
    """Whether the system has no entry for our user: initdb wants to know its name, and does nothing without."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return True
    return False
