"""`labkit matrix`: runs the matrix, shows it, and writes it to files."""

from __future__ import annotations

import json as as_json
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from labkit.errors import LabkitError, UsageError
from labkit.matrix.foreign import found
from labkit.matrix.report import MatrixReport
from labkit.matrix.run import run

__all__ = ["Outputs", "command"]

STDOUT = "-"


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
            if path is not None and path != STDOUT and (why := _unwritable(Path(path))):
                raise UsageError(f"{option} {path!r} cannot be written: {why}")

    def write(self, report: MatrixReport) -> None:
        """Writes what was asked for."""
        _write(self.json, lambda: as_json.dumps(report.to_dict(), indent=2) + "\n")
        _write(self.html, report.to_html)

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


def _unwritable(path: Path) -> str:
    """Why nothing can be written there; "" when something can."""
    if path.is_dir():
        return "it is a directory"
    if path.exists():
        return "" if os.access(path, os.W_OK) else "permission denied"
    if not path.parent.is_dir():
        return f"there is no directory {str(path.parent)!r}"
    return "" if os.access(path.parent, os.W_OK) else f"permission denied in {str(path.parent)!r}"


def _write(path: str | None, text: Callable[[], str]) -> None:
    if path == STDOUT:
        click.echo(text(), nl=False)
    elif path is not None:
        try:
            Path(path).write_text(text(), encoding="utf-8")
        except OSError as error:
            raise LabkitError(f"{path!r} was not written: {error.strerror}") from None
