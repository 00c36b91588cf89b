"""`python -m labkit.lab.keeper FD`: the helper process. Requests and answers are JSON lines on the socket FD."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys

from labkit.lab.keeper.keeper import Keeper


async def _serve(channel: socket.socket, keeper: Keeper) -> None:
    """Answers requests, one at a time, until the owner hangs up; a request under way does not keep it waiting."""
    reader, writer = await asyncio.open_connection(sock=channel)
    writer.write(json.dumps({"number": 0, "value": str(keeper.folder)}).encode() + b"\n")
    line = await reader.readline()
    while line:
        following = asyncio.ensure_future(reader.readline())
        answering = asyncio.ensure_future(keeper.handle(line))
        await asyncio.wait([following, answering], return_when=asyncio.FIRST_COMPLETED)
        if following.done() and not following.result():
            return
        writer.write(json.dumps(await answering).encode() + b"\n")
        line = await following


async def _orphaned(owner: int) -> None:
    """Returns when the owner is no longer our parent: its socket may live on in a forked child."""
    while os.getppid() == owner:
        await asyncio.sleep(0.1)


def _room_for_connections() -> None:
    """Each connection through a proxy is two open files, and the usual limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def main(descriptor: int, owner: int) -> None:
    loop = asyncio.get_running_loop()
    _room_for_connections()
    keeper = Keeper()
    told = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(sign, told.set)
    channel = socket.socket(fileno=descriptor)
    channel.setblocking(False)
    try:
        ends = [_serve(channel, keeper), _orphaned(owner), told.wait()]
        await asyncio.wait([asyncio.ensure_future(end) for end in ends], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await keeper.stop()
        os._exit(0)  # nothing is left to finish; a request under way has lost its owner


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
