"""`labkit matrix`: runs the matrix, shows it, and writes it to files."""

from __future__ import annotations

import asyncio
import json as as_json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from labkit.cli.files import STDOUT, check_target, write
from labkit.errors import UsageError
from labkit.matrix.report import MatrixReport
from labkit.matrix.session import Session

__all__ = ["Outputs", "command"]

INTERRUPTED = 130
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Outputs:
    """Where the report goes besides the terminal; "-" is stdout, and has it for itself."""

    json: str | None = None
    html: str | None = None

    def check(self) -> None:
        """`UsageError` for a path that nothing can be written to; said before minutes are spent on what to write."""
        if self.json is not None and self.json == self.html:
            raise UsageError(f"--json and --html cannot both be {self.json!r}: name two files")
        for option, path in (("--json", self.json), ("--html", self.html)):
            if path is not None:
                check_target(option, path)

    def write(self, report: MatrixReport) -> None:
        """Writes what was asked for."""
        if self.json is not None:
            write(self.json, as_json.dumps(report.to_dict(), indent=2).encode() + b"\n")
        if self.html is not None:
            write(self.html, report.to_html().encode())

    @property
    def take_stdout(self) -> bool:
        """True when stdout is not for people."""
        return STDOUT in (self.json, self.html)


async def command(json: str | None, html: str | None, **options: Any) -> int:
    """Checks what can be checked before anything runs, runs the matrix, and returns the exit code.

    The first Ctrl-C (or SIGTERM) stops it, and what is known by then is shown and written all the same, with exit code
    130; the second one ends this process at once, and the helpers of its labs clean up behind it.
    """
    outputs = Outputs(json, html)
    outputs.check()
    session = Session(lines=True, **options)
    playing = asyncio.ensure_future(session.play())
    with _stopped_by_signals(playing):
        await asyncio.wait([playing])
    interrupted = playing.cancelled()
    if not interrupted:
        playing.result()
    report = session.report(interrupted)
    Console(stderr=outputs.take_stdout).print(report)
    outputs.write(report)
    if interrupted:
        sys.stderr.write("labkit: interrupted\n")
        return INTERRUPTED
    return 0 if report.right else 1


@contextmanager
def _stopped_by_signals(playing: asyncio.Future[None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    heard = [sign for sign in ENDS if signal.getsignal(sign) is not signal.SIG_IGN]  # nohup means it
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            Console(stderr=True).show_cursor()
            os.write(2, b"labkit: interrupted\n")
            os._exit(INTERRUPTED)
        playing.cancel()

    for sign in heard:
        loop.add_signal_handler(sign, stop)
    try:
        yield
    finally:
        for sign in heard:
            loop.remove_signal_handler(sign)
