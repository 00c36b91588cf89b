"""`python -m labkit.lab.keeper FD REAPER`: the helper process. Requests and answers are JSON lines on the socket FD.

`python -m labkit.lab.keeper sweep` removes what a keeper left that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys

from labkit.lab.keeper.keeper import Keeper, sweep
from labkit.lab.keeper.processes import PR_SET_PDEATHSIG


async def _serve(channel: socket.socket, keeper: Keeper) -> None:
    """Answers requests, one at a time, until the owner hangs up; a request under way does not keep it waiting."""
    # A request may be of any size: a lab of a thousand shards has long ones.
    reader, writer = await asyncio.open_connection(sock=channel, limit=sys.maxsize)
    line = await reader.readline()
    while line:
        following = asyncio.ensure_future(reader.readline())
        answering = asyncio.ensure_future(keeper.handle(line))
        await asyncio.wait([following, answering], return_when=asyncio.FIRST_COMPLETED)
        if following.done() and not following.result():
            return
        writer.write(json.dumps(await answering).encode() + b"\n")
        line = await following


def _room_for_connections() -> None:
    """Each connection through a proxy is two open files, and the usual limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _stop(keeper: Keeper, reaper: int) -> None:
    failed = True
    try:
        await keeper.stop()
        failed = False
    finally:
        if os.getppid() == reaper:
            os.kill(reaper, signal.SIGCONT)  # whoever stopped it
        os._exit(failed)  # nothing is left to finish; a request under way has lost its owner


async def main(descriptor: int, reaper: int) -> None:
    loop = asyncio.get_running_loop()
    _room_for_connections()
    told = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(sign, told.set)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != reaper:
        return  # it was gone before it could be noticed
    keeper = Keeper()
    # What is loaded stays: the garbage collector need not go through it while bytes wait in a proxy.
    gc.collect()
    gc.freeze()
    channel = socket.socket(fileno=descriptor)
    channel.setblocking(False)
    try:
        ends = [_serve(channel, keeper), told.wait()]
        done, _ = await asyncio.wait(map(asyncio.ensure_future, ends), return_when=asyncio.FIRST_COMPLETED)
        for end in done:
            end.exception()  # the owner may be gone in the midst of an answer, and nobody is to hear of it
    finally:
        await _stop(keeper, reaper)


if __name__ == "__main__":
    if sys.argv[1] == "sweep":
        sweep()
    else:
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
