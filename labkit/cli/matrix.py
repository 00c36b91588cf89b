"""`labkit matrix`: runs the matrix, shows the report and writes it to files."""

from __future__ import annotations

import asyncio
import json as as_json
import os
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from labkit.cli.exits import FAILED, INTERRUPTED, on_signals
from labkit.cli.files import STDOUT, check_target, write
from labkit.errors import UsageError
from labkit.matrix.report import MatrixReport
from labkit.matrix.session import Session

__all__ = ["Outputs", "command"]


@dataclass(frozen=True)
class Outputs:
    """Where the report is written besides the terminal; "-" is stdout, which then has nothing else."""

    json: str | None = None
    html: str | None = None
    junit: str | None = None

    def check(self) -> None:
        """`UsageError` for a path that cannot be written, before minutes are spent on the report."""
        taken: dict[str, str] = {}
        for option, path in (("--json", self.json), ("--html", self.html), ("--junit", self.junit)):
            if path is not None:
                if path in taken:
                    raise UsageError(f"{taken[path]} and {option} cannot both be {path!r}: name two files")
                check_target(option, path)
                taken[path] = option

    def write(self, report: MatrixReport) -> None:
        """Writes the requested files."""
        if self.json is not None:
            write(self.json, as_json.dumps(report.to_dict(), indent=2).encode() + b"\n")
        if self.html is not None:
            write(self.html, report.to_html().encode())
        if self.junit is not None:
            write(self.junit, report.to_junit())

    @property
    def take_stdout(self) -> bool:
        """True if stdout is reserved for data."""
        return STDOUT in (self.json, self.html, self.junit)


async def command(json: str | None, html: str | None, junit: str | None, explain: str | None, **options: Any) -> int:
    """Checks what can be checked before anything runs, runs the matrix, and returns the exit code.

    With `explain`, nothing runs: the script of that cell is printed. The first Ctrl-C (or SIGTERM) stops the matrix;
    the cells tried so far are shown and written, and the exit code is 130. The second one ends this process at once;
    the helper processes of its labs clean up.
    """
    outputs = Outputs(json, html, junit)
    outputs.check()
    session = Session(lines=True, **options)
    if explain is not None:
        sys.stdout.write(session.explain(explain))
        return 0
    playing = asyncio.ensure_future(session.play())
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            Console(stderr=True).show_cursor()
            os.write(2, b"labkit: interrupted\n")
            os._exit(INTERRUPTED)
        stopping.set()
        playing.cancel()

    with on_signals(stop):
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
    return 0 if report.right else FAILED
