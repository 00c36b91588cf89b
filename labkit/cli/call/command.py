"""`labkit call`: one Redis command to the cluster node that owns its key, or to all nodes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from labkit._streams import visible_json
from labkit.cli.call.ask import NodeReply, ask_all, ask_owner
from labkit.cli.call.shown import as_json, as_text, failures, in_blocks, is_text
from labkit.cli.call.wire import Wire
from labkit.errors import UsageError

__all__ = ["command"]


async def command(words: Sequence[str], url: str, everywhere: bool, masters: bool, seconds: float, json: bool) -> int:
    """Prints replies on stdout, failures on stderr. Returns the exit code: 1 if a node failed."""
    raw = tuple(os.fsencode(word) for word in words)
    if not raw[0].strip():
        raise UsageError("the command is blank; write it in words: labkit call GET some_key")
    if masters and not everywhere:
        raise UsageError("--masters narrows --all: pass both, or neither for the node that owns the key")
    wire = Wire.of(url, seconds, raw)
    outcomes = await ask_all(wire, raw, masters=masters) if everywhere else [await ask_owner(wire, raw)]
    if json:
        text = as_json(outcomes)
        _print(visible_json(text) if sys.stdout.isatty() else text)
    elif everywhere:
        _print(in_blocks(outcomes, text=is_text(raw)))
    elif outcomes[0].failure is None:
        _print(as_text(outcomes[0].reply, text=is_text(raw)))
    return _complain(outcomes, "" if everywhere else "labkit: ")


def _print(text: str) -> None:
    if text:
        click.echo(text.encode(sys.stdout.encoding or "utf-8", errors="backslashreplace"))


def _complain(outcomes: Sequence[NodeReply], prefix: str) -> int:
    lines = failures(outcomes)
    for line in lines:
        click.echo(f"{prefix}{line}", err=True)
    return 1 if lines else 0
