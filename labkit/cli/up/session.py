"""A lab that runs until it is told to stop, and takes commands meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from labkit._streams import console, visible
from labkit.cli.exits import on_signals
from labkit.cli.files import check_target
from labkit.cli.up.commands import Commands, LabCommands
from labkit.cli.up.lines import lines, typed_at
from labkit.lab.lab import Lab
from labkit.topology import Topology
from labkit.topology.file import check_free, written

__all__ = ["end_line", "introduce", "obey", "unless", "up"]

PROMPT = "> "


async def up(lab: Lab, path: Path, force: bool) -> int:
    """Starts the lab, writes its topology file, and runs until a signal or `quit`; then removes both.

    Raises `UsageError` for a file that must not be overwritten, `LabError` if no server can be started.
    """
    check_target("--topology", str(path))
    if not force:
        check_free(path, "up", "name another file, or pass --force")
    out = console()
    ended = asyncio.Event()
    with on_signals(ended.set):  # later signals change nothing: stopping always runs to its end
        try:
            if await unless(ended, lab.start()):
                with written(path, Topology.of(lab).to_toml(), "up"):
                    _welcome(lab, path, out)
                    if not await unless(ended, obey(LabCommands(lab, out, console(stderr=True)), out)):
                        end_line(out)
        finally:
            await lab.stop()
        out.print("The lab is stopped; nothing is left.")
    return 0


def introduce(lab: Lab, console: Console) -> None:
    """Prints what runs, and where. Passwords belong in the file, not on a screen or in a log."""
    why = f" ({lab.launcher_reason})" if lab.launcher_reason else ""
    title = f"{lab.backend}: {len(lab.urls)} real servers, launcher {lab.launcher}{why}"
    for line in (title, *(f"  shard {shard}  {_masked(url)}" for shard, url in lab.urls.items())):
        _plain(console, line)


def _masked(url: str) -> str:
    """Hides the password in a lab's URL: letters and digits before the only @."""
    before, _, place = url.partition("@")
    return f"{before.rpartition(':')[0]}:***@{place}"


def _plain(console: Console, line: str) -> None:
    console.print(visible(line), highlight=False, markup=False, soft_wrap=True)


def _welcome(lab: Lab, path: Path, console: Console) -> None:
    introduce(lab, console)
    for line in (
        f"{path} tells other programs, with the password: labkit read --topology {path}",
        "Ctrl-C stops it. Type commands such as restart 2 here; help lists them.",
    ):
        _plain(console, line)


async def obey(commands: Commands, console: Console) -> None:
    """Obeys commands until `quit`. When the input ends, the lab keeps running."""
    if sys.stdin is not None:  # None if it was closed at start-up; its descriptor may be another file by now
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


def end_line(console: Console) -> None:
    """Ends the line of a prompt, or of the ^C that the terminal shows."""
    if console.is_terminal:
        console.print()


async def unless(ended: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Whether the work finished; it is cancelled as soon as `ended` is set."""
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
