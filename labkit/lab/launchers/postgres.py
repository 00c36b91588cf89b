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
from labkit.lab.keeper.keeper import Keeper
from labkit.lab.launchers.binaries import is_root, open_to_all, postgres_home, version, wheel_parts

__all__ = ["PostgresProgram"]

IN_FOLDER = {"dynamic_shared_memory_type": "mmap"}
"""Nothing outside the shard's folder, so that a SIGKILL leaves nothing behind."""
AS_A_PROCESS = {"listen_addresses": "", "port": str(PORT), **IN_FOLDER}
SETS = (16,)
"""The first version whose initdb takes settings."""

AS_NOBODY = ["unshare", "--map-user=65534", "--map-group=65534"]
"""Runs initdb in a new namespace, where a user without a name (as containers have) is called nobody."""


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
            copy = Path(await keeper.ask(Keeper.install, str(below), parts))
            self._home = copy / self._home.relative_to(below)
        folders = [await keeper.ask(Keeper.make_folder, str(i + 1), drop=True) for i in range(count)]
        await self._initialise(keeper, folders[0])
        copies = [["cp", "-R", f"{folders[0]}/.", folder] for folder in folders[1:]]
        await keeper.ask(Keeper.run, copies, drop=True)
        return folders

    def command(self, folder: str) -> list[str]:
        settings = {**SETTINGS, **AS_A_PROCESS, "unix_socket_directories": quoted(folder)}
        return [str(self._home / "bin/postgres"), "-D", folder, *_options(settings)]

    def config(self) -> str:
        return ""

    def socket(self, folder: str) -> str:
        return f"{folder}/.s.PGSQL.{PORT}"

    async def _initialise(self, keeper: KeeperClient, folder: str) -> None:
        nameless = _is_nameless()
        password = await keeper.ask(Keeper.write_note, "initdb", self._credentials, drop=True)
        try:
            await keeper.ask(Keeper.run, [nameless * AS_NOBODY + self._initdb(folder, password)], drop=True)
        except LabError as error:
            if not nameless:
                raise
            raise LabError(
                f"initdb needs an entry in /etc/passwd for user {os.geteuid()}, and a stand-in failed ({error})"
            ) from None
        finally:
            await keeper.ask(Keeper.remove_note, "initdb")

    def _initdb(self, folder: str, password: str) -> list[str]:
        program = self._home / "bin/initdb"
        words = ["-D", folder, "-U", ADMIN, "--auth=scram-sha-256", f"--pwfile={password}"]
        return [str(program), *words, *INITDB, *(_options(IN_FOLDER) if version(program) >= SETS else [])]


def _options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _is_nameless() -> bool:
    """Whether the system has no entry for our user: initdb refuses to run without its name."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return True
    return False
