"""Starts faults inside own servers in processes that can be killed: `python -m tests.support.own_faults`.

For each line of JSON on stdin (the parameters of `act`) it forks a process in which the fault acts on the server, and
prints the PID once it does; it waits for the end of that process before it takes the next line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, cast

from labkit import faults
from labkit.faults.base import Undo
from labkit.proxies.fronts import Front
from labkit.proxies.own import Owned, OwnServer
from labkit.proxies.routes import route


async def act(url: str, admin: str, table: str, fault: list[Any], state: str) -> None:
    """Starts the fault, [name, parameters…], and waits; `state` is the folder for the journal."""
    os.environ["XDG_STATE_HOME"] = state
    owned = Owned({"eu": admin}, True, {"eu": table})
    owned.check({"eu": route(url)})
    handle = owned.handle(cast(Any, None), Front("eu", route(url)), "")  # without a keeper: there is no proxy
    assert isinstance(handle, OwnServer)
    name, *parameters = fault
    await faults.ALL[name].kind(*parameters).start(cast(Any, handle), Undo())
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        asyncio.run(act(**json.loads(line)))
    os.waitpid(pid, 0)
    sys.stdout.write("ended\n")
    sys.stdout.flush()
