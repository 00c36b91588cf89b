"""Replays a notebook against its stored outputs, as CI does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOTEBOOKS = sorted(Path(__file__).parents[2].glob("notebooks/*.ipynb"))

OPTIONS = ("--nbval", "--nbval-cell-timeout=120", "--timeout=150", "-q", "-p", "no:cacheprovider")
"""What takes too long is ended by nbval: pytest-timeout would leave the kernel to go on with it."""


def replay(*paths: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest --nbval on notebooks of one folder, in a process of its own, two of them side by side."""
    command = [sys.executable, "-m", "pytest", *OPTIONS]
    abreast = ["-n", "2", "--dist", "loadscope"] if len(paths) > 1 else []
    return subprocess.run(
        [*command, *abreast, *(path.name for path in paths)],
        cwd=paths[0].parent,
        capture_output=True,
        text=True,
        timeout=1400,
        env={**os.environ, **environment},
    )
