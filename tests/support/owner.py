"""A process that owns a lab and waits: `python -m tests.support.owner BACKEND END [LAUNCHER]`.

Once the lab is up, it prints the PIDs of its servers or the names of its containers. With END "early" it prints a word
before it starts the lab; with "paused" shard 2 is frozen.
"""

from __future__ import annotations

import asyncio
import os
import sys

from labkit import Lab, faults


async def main(backend: str, end: str, launcher: str = "embedded") -> None:
    lab = Lab(backend, launcher=launcher)
    if end == "early":
        sys.stdout.write("starting\n")
        sys.stdout.flush()
    await lab.start()
    assert (await lab.read()).complete
    (lab.folder / "beside").mkdir()  # a file of the lab's user
    (lab.folder / "beside" / "note").write_text("goes with the lab")
    if end == "fork" and os.fork() == 0:
        # A child that has inherited the pipe to the keeper and outlives its parent for a while.
        sys.stdin.read()
        os._exit(0)
    if end == "paused":
        await lab.inject(2, faults.Pause())
    sys.stdout.write(" ".join(map(str, (lab.containers or lab.pids).values())) + "\n")
    sys.stdout.flush()
    if end == "exit":
        sys.exit(0)
    if end == "exception":
        raise RuntimeError("on purpose")
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
