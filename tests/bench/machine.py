"""What machine it was, as far as figures depend on it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

__all__ = ["busy", "described", "machine"]

LIBRARIES = (
    "adbc-driver-postgresql",
    "asyncpg",
    "connectorx",
    "dask",
    "hiredis",
    "numpy",
    "pandas",
    "polars",
    "psycopg",
    "pyarrow",
    "redis",
    "sqlalchemy",
)


def machine(servers: dict[str, str]) -> dict[str, Any]:
    """Cores, memory, processor; the versions of Python, of the servers, and of libraries that are installed."""
    return {
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"Python": platform.python_version(), **servers, **_libraries()},
    }


def busy() -> float:
    """How many of its cores others keep busy, looked at for a second: they make every figure untrue."""
    return round(psutil.cpu_percent(interval=1.0) / 100 * (os.cpu_count() or 1), 2)


def described(machine: dict[str, Any]) -> str:
    """In one line: "2 cores, 24 GB, AMD EPYC"."""
    return f"{machine['cores']} cores, {machine['memory'] / 2**30:.0f} GB of memory, {machine['processor']}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
