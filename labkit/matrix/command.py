"""`labkit matrix`: runs the matrix, shows it, and writes it to files."""

from __future__ import annotations

import json as as_json
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from labkit.errors import UsageError
from labkit.matrix.foreign import found
from labkit.matrix.report import MatrixReport
from labkit.matrix.run import run
from labkit.output import STDOUT, check_target, write

__all__ = ["Outputs", "command"]


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


def command(json: str | None, html: str | None, reader: str | None, **options: Any) -> Coroutine[Any, Any, int]:
    """Checks what can be checked before anything runs, and returns what runs the matrix to its exit code."""
    outputs = Outputs(json, html)
    outputs.check()
    if reader is not None:
        found(reader)  # imported here, outside of any event loop: it may run one of its own for that
    return _played(outputs, reader=reader, **options)


async def _played(outputs: Outputs, **options: Any) -> int:
    report = await run(**options)
    Console(stderr=outputs.take_stdout).print(report)
    outputs.write(report)
    return 0 if report.right else 1
