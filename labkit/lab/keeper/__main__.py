"""`python -m labkit.lab.keeper FD REAPER`: the keeper. Requests and answers are JSON lines on the socket FD.

`python -m labkit.lab.keeper sweep` removes what a killed keeper left behind.
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
    """Answers requests, one at a time, until the owner hangs up, even in the middle of a request."""
    # A request may have any size: a lab of a thousand shards has long ones.
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
            os.kill(reaper, signal.SIGCONT)  # it may have been stopped
        os._exit(failed)  # nothing is left to finish: a request in progress has lost its owner


async def main(descriptor: int, reaper: int) -> None:
    loop = asyncio.get_running_loop()
    _room_for_connections()
    ending = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(sign, ending.set)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != reaper:
        return  # the reaper died before prctl could report it
    keeper = Keeper()
    # What is loaded now stays: spare the garbage collector from scanning it while bytes wait in a proxy.
    gc.collect()
    gc.freeze()
    channel = socket.socket(fileno=descriptor)
    channel.setblocking(False)
    try:
        ends = [_serve(channel, keeper), ending.wait()]
        done, _ = await asyncio.wait(map(asyncio.ensure_future, ends), return_when=asyncio.FIRST_COMPLETED)
        for end in done:
            end.exception()  # retrieved, so that asyncio does not report it: the owner may be gone in mid-answer
    finally:
        await _stop(keeper, reaper)


if __name__ == "__main__":
    if sys.argv[1] == "sweep":
        sweep()
    else:
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
