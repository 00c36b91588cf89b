"""The standard streams of a program that does not know where they lead."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "give_up", "is_terminal", "make_ready", "visible", "visible_json"]


def make_ready() -> None:
    """Closed streams are opened, and what a stream cannot encode is written as an escape from now on."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def visible(text: str, keep: str = "") -> str:
    """`text` as a terminal may be sent it: what is not printable, such as an escape sequence or a sign that turns the
    direction of writing, is written as an escape, but for the characters in `keep`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def visible_json(text: str) -> str:
    """The same of JSON, or of lines of it, which is JSON of the same values."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def console(*, stderr: bool = False) -> Console:
    """The console of stdout or stderr. What its encoding does not have is written as `?`, and is no error."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return Console(stderr=stderr)


def is_terminal(path: str | os.PathLike[str]) -> bool:
    """Whether what is written to the file is seen on a terminal."""
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):  # a pipe is not opened: who reads it would see its end
            return False
        number = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        return os.isatty(number)
    finally:
        os.close(number)


def give_up(stream: TextIO | None) -> None:
    """What is left in its buffer goes nowhere: at its exit Python would try once more, and complain."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _open_closed() -> None:
    """Gives closed streams (`>&-`) a file, before a socket takes their number; stdout's refuses what is written."""
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, flags)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
