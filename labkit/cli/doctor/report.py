"""Shows the findings, and the verdict: which labs can run here."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import click
from rich.text import Text

from labkit import __version__
from labkit._imports import install
from labkit._streams import console, visible
from labkit.cli.doctor import Finding, State
from labkit.cli.doctor.containers import containers, image_name
from labkit.cli.doctor.machine import POSTGRES, REDIS, ROOM, extras, limits, programs, tools
from labkit.cli.exits import FAILED
from labkit.lab.backends import BACKENDS
from labkit.lab.launchers.docker import image_of

__all__ = ["command", "findings", "labs"]

SERVERS = {"postgres": POSTGRES, "redis": REDIS, "redis-cluster": REDIS}
"""The server program of each backend."""
HOW = {"embedded": "as processes", "docker": "in containers"}
COLOURS = {State.OK: "green", State.LOW: "yellow", State.MISSING: "yellow"}
WIDTH = 18
"""Characters for a name; a longer one pushes the rest of its line to the right."""


def findings() -> Iterator[Finding]:
    """Everything that is looked for, one part after the other."""
    for part in (programs, containers, extras, tools, limits):
        yield from part()


def labs(found: Iterable[Finding]) -> dict[str, list[str]]:
    """The backends of which a lab can run here, by launcher."""
    here = {finding.name for finding in found if finding.state != State.MISSING}
    if not {"lab", ROOM} <= here:
        return {launcher: [] for launcher in HOW}
    images = {backend: image_name(image_of(server.lower())) for backend, server in SERVERS.items()}
    return {
        "embedded": [backend for backend in BACKENDS if SERVERS[backend] in here],
        "docker": [backend for backend in BACKENDS if images[backend] in here],
    }


def command(as_json: bool) -> int:
    """Prints what was found; returns 0 if a lab can run with some launcher, else 1."""
    found = list(findings()) if as_json else list(_shown(findings()))
    able = labs(found)
    if as_json:
        python = platform.python_version()
        told = {"version": __version__, "python": python, "labs": able, "findings": [asdict(one) for one in found]}
        click.echo(json.dumps(told))
    else:
        _conclude(able, found)
    return 0 if any(able.values()) else FAILED


def _shown(found: Iterable[Finding]) -> Iterator[Finding]:
    """Prints each finding as soon as it is there."""
    _line(
        (f"labkit {__version__}", "bold"),
        f", Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )
    part = ""
    for finding in found:
        if finding.part != part:
            part = finding.part
            _line()
            _line((part, "bold"))
        _line("  ", (f"{finding.state:8}", COLOURS[finding.state]), f" {finding.name:{WIDTH}} {finding.found}")
        if finding.fix:
            _line(" " * (WIDTH + 12), (f"-> {finding.fix}", "cyan"))
        yield finding


def _conclude(able: dict[str, list[str]], found: Iterable[Finding]) -> None:
    _line()
    for launcher, backends in able.items():
        _line((f"Labs {HOW[launcher]} ({launcher}): ", "bold"), ", ".join(backends) or "none")
    if not any(able.values()):
        fixes = [finding.fix for finding in found if finding.name in ("lab", ROOM) and finding.fix]
        _line(("No lab can run here", "bold red"), f": {(fixes or [install('lab')])[0]}")


def _line(*parts: str | tuple[str, str]) -> None:
    """One line, wrapped only by the terminal, so that a command in it can be copied."""
    clean = [visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts]
    console().print(Text.assemble(*clean), soft_wrap=True)
