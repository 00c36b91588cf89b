"""labkit: a lab bench for sharded reads. README.md begins with ten lines that run.

PYTEST_DONT_REWRITE: pytest rewrites the asserts of packages with plugins, and would warn where this one is imported
before pytest starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit._imports import load
from labkit._version import __version__ as __version__

if TYPE_CHECKING:
    from labkit import errors, faults
    from labkit.lab.lab import Lab
    from labkit.proxies.proxies import Proxies
    from labkit.reader import ShardReader
    from labkit.report import ShardReport, Status
    from labkit.result import ReadResult
    from labkit.router import CLASSIC, RangeRouter

__all__ = [
    "CLASSIC",
    "Lab",
    "Proxies",
    "RangeRouter",
    "ReadResult",
    "ShardReader",
    "ShardReport",
    "Status",
    "errors",
    "faults",
]

_HOME = {
    "CLASSIC": "labkit.router",
    "Lab": "labkit.lab.lab",
    "Proxies": "labkit.proxies.proxies",
    "RangeRouter": "labkit.router",
    "ReadResult": "labkit.result",
    "ShardReader": "labkit.reader",
    "ShardReport": "labkit.report",
    "Status": "labkit.report",
    "errors": "labkit.errors",
    "faults": "labkit.faults",
}

if not TYPE_CHECKING:  # otherwise every misspelt name would be one

    def __getattr__(name: str) -> Any:
        return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
