"""Makes the README's picture: `python -m tests.picture FILE`."""

from __future__ import annotations

import asyncio
import sys

from labkit import Lab, faults


async def main(path: str) -> None:
    async with Lab("postgres") as lab:
        await lab.read()  # opens the connections, as in a running service
        async with lab.fault(2, faults.Pause()):
            (await lab.read()).timeline().save(path)


asyncio.run(main(*sys.argv[1:]))
