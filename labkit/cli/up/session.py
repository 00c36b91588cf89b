"""A lab that stays until it is told to stop, and obeys commands meanwhile."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from labkit._streams import console, visible
from labkit.cli.files import check_target
from labkit.cli.up.commands import Commands
from labkit.cli.up.file import check_free, written
from labkit.cli.up.lines import lines, typed_at
from labkit.lab.lab import Lab
from labkit.topology import ShardPlace, Topology

__all__ = ["introduce", "up"]

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROMPT = "> "


async def up(lab: Lab, path: Path, force: bool) -> int:
    """Starts the lab, has its topology in the file, and stays until a signal or `quit`; then nothing of both is left.

    Raises `UsageError` for a file that is not to be overwritten, `LabError` where no server can be started.
    """
    check_target("--topology", str(path))
    if not force:
        check_free(path)
    out = console()
    ended = asyncio.Event()
    with _on_signals(ended):
        try:
            if await _unless(ended, lab.start()):
                with written(path, _topology(lab).to_toml()):
                    _welcome(lab, path, out)
                    if not await _unless(ended, _obey(Commands(lab, out, console(stderr=True)), out)):
                        _end_line(out)
        finally:
            await lab.stop()
        out.print("The lab is stopped; nothing is left.")
    return 0


def introduce(lab: Lab, console: Console) -> None:
    """Says what runs, and where; passwords are for the file, not for a screen or a log."""
    why = f" ({lab.launcher_reason})" if lab.launcher_reason else ""
    title = f"{lab.backend}: {len(lab.urls)} real servers, launcher {lab.launcher}{why}"
    for line in (title, *(f"  shard {shard}  {_masked(url)}" for shard, url in lab.urls.items())):
        _plain(console, line)


def _masked(url: str) -> str:
    """A lab's URL has a password, of letters and digits, before its only @."""
    before, _, place = url.partition("@")
    return f"{before.rpartition(':')[0]}:***@{place}"


def _plain(console: Console, line: str) -> None:
    console.print(visible(line), highlight=False, markup=False, soft_wrap=True)


def _welcome(lab: Lab, path: Path, console: Console) -> None:
    introduce(lab, console)
    for line in (
        f"{path} says so to other programs, with the password: labkit read --topology {path}",
        "Ctrl-C stops it. Commands such as restart 2 are taken here; help lists them.",
    ):
        _plain(console, line)


def _topology(lab: Lab) -> Topology:
    places = {shard: ShardPlace(url, lab.tables[shard]) for shard, url in lab.source_urls.items()}
    return Topology(lab.timeout, lab.router, places)


async def _obey(commands: Commands, console: Console) -> None:
    """Until `quit`; the end of the input is just the end of commands."""
    if sys.stdin is not None:  # it was closed before we came, and its number may be another file's by now
        descriptor = sys.stdin.fileno()
        _prompt(console, descriptor)
        async for line in lines(descriptor):
            if not await commands.obey(line):
                return
            _prompt(console, descriptor)
    await asyncio.Event().wait()


def _prompt(console: Console, descriptor: int) -> None:
    if console.is_terminal and typed_at(descriptor):
        console.print(PROMPT, end="")


def _end_line(console: Console) -> None:
    """Behind a prompt, and what the terminal shows for Ctrl-C."""
    if console.is_terminal:
        console.print()


async def _unless(ended: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Whether the work came to its end; it is given up as soon as `ended` is set."""
    working, ending = asyncio.ensure_future(work), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        working.cancel()
        ending.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


@contextmanager
def _on_signals(ended: asyncio.Event) -> Iterator[None]:
    """Signals set `ended`, also the second and the third: what is being stopped is stopped whole."""
    loop = asyncio.get_running_loop()
    heard = [sign for sign in ENDS if signal.getsignal(sign) is not signal.SIG_IGN]  # nohup means it
    for sign in heard:
        loop.add_signal_handler(sign, ended.set)
    try:
        yield
    finally:
        for sign in heard:
            loop.remove_signal_handler(sign)
