"""A pgbouncer in front of a lab's servers."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType

import sqlalchemy as sa

from labkit import Lab

__all__ = ["PROGRAM", "pooling"]

PROGRAM = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
PATIENCE = 10.0


@asynccontextmanager
async def pooling(
    lab: Lab, shard: int = 1, users: Mapping[str, str] = MappingProxyType({}), **settings: object
) -> AsyncIterator[int]:
    """The port of a pgbouncer in front of that shard's server, with these settings and these users' passwords; it has
    ended on exit.
    """
    with _running(sa.engine.make_url(lab.urls[shard]), users, settings) as port:
        await _answers(port)
        yield port


@contextmanager
def _running(server: sa.URL, users: Mapping[str, str], settings: dict[str, object]) -> Iterator[int]:
    assert PROGRAM
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pooler-"))
    if not os.geteuid():
        shutil.chown(folder, "nobody")  # the user it runs as: its passwords are for no one else
    behind = f"host={server.host} port={server.port} user={server.username} password={server.password}"
    told = {"listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any", **settings}
    told["auth_file"] = folder / "users.txt"
    told["auth_file"].write_text("".join(f'"{user}" "{password}"\n' for user, password in users.items()))
    lines = ["[databases]", f"* = {behind}", "[pgbouncer]", *(f"{name} = {value}" for name, value in told.items())]
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    user = [] if os.geteuid() else ["-u", "nobody"]  # it refuses to run as root
    pooler = subprocess.Popen([PROGRAM, "-q", *user, str(folder / "pgbouncer.ini")])
    try:
        yield port
    finally:
        pooler.terminate()
        pooler.wait(PATIENCE)
        shutil.rmtree(folder)


async def _answers(port: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
