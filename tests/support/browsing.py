"""A browser for the access point's page, and a scripted server in place of the access point."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from playwright.async_api import Browser, Dialog, Page, async_playwright

from labkit.cli.doctor.machine import BROWSERS
from tests.support.watching import PATIENCE

__all__ = ["Looking", "Scripted", "a_browser", "browser_path", "looking_at", "result_of", "why_no_chromium"]

QUIET = [
    "--no-sandbox",  # containers lack what the sandbox needs, and the page is trusted
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
]


INTERFACES_CHANGED = "net::ERR_NETWORK_CHANGED"
"""Chromium closes every connection when a network interface appears or disappears, as when another test starts a
container. The page then reconnects, so this is not an error of the page."""


def browser_path() -> str | None:
    """The Chromium on this machine's PATH, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def why_no_chromium() -> str | None:
    """Why no page can be opened here, or None."""
    if find_spec("playwright") is None:
        return "no playwright: it comes with labkit's extra 'test'"
    return None if browser_path() else f"no browser on PATH (one of {', '.join(BROWSERS)})"


@asynccontextmanager
async def a_browser() -> AsyncIterator[Browser]:
    """A headless Chromium that reaches 127.0.0.1 only; its profile is deleted on exit."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path(), args=QUIET)
        try:
            yield browser
        finally:
            await browser.close()


class Looking:
    """An open page; `complaints` collects its errors, console messages, dialogs and failed requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self._note(f"console: {message.text}"))
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("requestfailed", lambda request: self._note(f"failed: {request.url}: {request.failure}"))
        page.on("dialog", self._dismiss)

    def _note(self, complaint: str) -> None:
        if INTERFACES_CHANGED not in complaint:
            self.complaints.append(complaint)

    async def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        await dialog.dismiss()  # the page is blocked until then

    async def until(self, condition: str) -> None:
        """Returns when the JavaScript `condition` holds in the page.

        Polls from here: playwright's own waiting needs `eval` in the page, which the page forbids.
        """
        ends = asyncio.get_running_loop().time() + PATIENCE
        while not await self.page.evaluate(condition):
            assert asyncio.get_running_loop().time() < ends, f"never true: {condition}"
            await asyncio.sleep(0.02)

    async def state(self) -> str:
        """The headline of the page."""
        return await self.page.inner_text("#state")

    async def texts(self, selector: str) -> list[str]:
        """The text of each element that matches `selector`."""
        return await self.page.locator(selector).all_inner_texts()


@asynccontextmanager
async def looking_at(browser: Browser, url: str, **options: Any) -> AsyncIterator[Looking]:
    """The page at `url` in a context of its own; `options` are those of playwright's `new_context`."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    try:
        looking = Looking(await context.new_page())
        await looking.page.goto(url)
        yield looking
    finally:
        await context.close()


def result_of(
    rows: list[tuple[int, str | None]],
    shards: Mapping[str, list[list[int]]],
    failed: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """`ReadResult.to_dict()` for these rows and ranges; `failed` maps shards to status and cause."""
    failed = failed or {}
    gone = [pair for shard in failed for pair in shards[shard]]
    reports = {
        shard: {
            "status": failed.get(shard, ("ok",))[0],
            "rows": 0 if shard in failed else sum(any(low <= i <= high for low, high in ranges) for i, _ in rows),
            "started": 0.0003,
            "elapsed": 2.0003697 if shard in failed else 0.0012345678901234567,
            "error": failed[shard][1] if shard in failed else None,
            "ranges": ranges,
        }
        for shard, ranges in shards.items()
    }
    kept = [{"id": i, "name": name} for i, name in rows if not any(low <= i <= high for low, high in gone)]
    return {
        "columns": [{"name": "id", "type": "int64"}, {"name": "name", "type": "string"}], "rows": kept,
        "complete": not gone, "missing": sorted(gone), "elapsed": 2.0012 if failed else 0.0021,
        "timeout": 2.0, "shards": reports, "next": None,
    }  # fmt: skip


class Scripted:
    """Serves the page and sends it what a test says: `async with Scripted() as server: server.send(result)`.

    A page that connects receives the latest result first, as from a real access point.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        """The path of every request."""
        self.hangs = False
        """Whether it accepts requests but answers none, like a stopped process."""
        self._latest: str | None = None
        self._streams: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The address of the page."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    def send(self, result: dict[str, Any]) -> None:
        """Sends a result to every connected page, and to those that connect later."""
        self.send_text(json.dumps(result))

    def send_text(self, line: str) -> None:
        """The same with the JSON text as it goes over the wire."""
        self._latest = f"event: result\ndata: {line}\n\n"
        for stream in self._streams:
            stream.write(self._latest.encode())

    def hang_up(self) -> None:
        """Closes every stream."""
        for stream in self._streams:
            stream.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            self.asked.append(path)
            if self.hangs:
                await reader.read()  # until the page gives up
            elif path == "/data/watch":
                await self._stream(reader, writer)
            else:
                kind, body = self._document(path)
                fields = f"content-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close"
                writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n")
        if self._latest is not None:
            writer.write(self._latest.encode())
        self._streams.add(writer)
        try:
            await reader.read()  # until the page is closed
        finally:
            self._streams.discard(writer)

    @staticmethod
    def _document(path: str) -> tuple[str, bytes]:
        if path == "/":
            return "text/html; charset=utf-8", files("labkit").joinpath("api/page.html").read_bytes()
        return "application/json", b"{}"

    async def __aenter__(self) -> Scripted:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()
