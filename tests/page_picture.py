"""Makes the README's picture of the access point's page: `python -m tests.page_picture FILE`; takes half a minute."""

from __future__ import annotations

import asyncio
import sys

from labkit import Lab, faults
from labkit.api import Server
from tests.support.browsing import a_browser, looking_at

SIZE = {"width": 1280, "height": 720}
SOME_TIME = 8.0
"""Seconds that each state lasts, so that the shards' timelines show it."""


async def main(path: str) -> None:
    async with (
        Lab("postgres") as lab,
        Server(lab.reader) as server,
        a_browser() as browser,
        looking_at(browser, server.url, viewport=SIZE) as looking,
    ):
        await looking.until("document.body.dataset.complete === 'true'")
        await asyncio.sleep(SOME_TIME)
        async with lab.fault(3, faults.Kill()):
            await asyncio.sleep(SOME_TIME)
        await asyncio.sleep(SOME_TIME)
        async with lab.fault(2, faults.Pause()):
            await looking.until("document.body.dataset.complete === 'false'")
            await lab.put(7, "a new name")
            await looking.until(
                "document.querySelector('[data-id=\"7\"] [data-column=name]').textContent === 'a new name'"
            )
            await looking.page.screenshot(path=path)


asyncio.run(main(*sys.argv[1:]))
