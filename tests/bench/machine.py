"""The properties of the machine that affect the figures."""

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
    """Cores, memory and processor; versions of Python, the servers and the installed libraries."""
    return {
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"Python": platform.python_version(), **servers, **_libraries()},
    }


def busy() -> float:
    """The number of cores kept busy by other processes, sampled for a second; they distort every figure."""
    return round(psutil.cpu_percent(interval=1.0) / 100 * (os.cpu_count() or 1), 2)


def described(machine: dict[str, Any]) -> str:
    """The machine in one line: "2 cores, 24 GB of memory, AMD EPYC"."""
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
