"""Standard streams, which may be closed, a pipe, a file or a terminal of any encoding."""

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
    """Opens closed streams, and has all write characters they cannot encode as escapes from now on."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def visible(text: str, keep: str = "") -> str:
    """`text`, safe for a terminal: characters that are not printable, such as escape sequences and bidi controls, are
    written as escapes, except those in `keep`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def visible_json(text: str) -> str:
    """Likewise for JSON or lines of JSON; the result is JSON with the same values."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def console(*, stderr: bool = False) -> Console:
    """The console of stdout or stderr. Characters that its encoding lacks are written as `?`, without an error."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return Console(stderr=stderr)


def is_terminal(path: str | os.PathLike[str]) -> bool:
    """Whether the file is a terminal."""
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):  # never open a pipe: its reader would see the end of it
            return False
        number = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        return os.isatty(number)
    finally:
        os.close(number)


def give_up(stream: TextIO | None) -> None:
    """Discards the rest of its buffer, which Python would try to write at exit, and complain."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _open_closed() -> None:
    """Opens /dev/null for closed streams (`>&-`) before a socket takes their number; stdout's refuses writes."""
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
