"""Replays a notebook against its stored outputs, as CI does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
NOTEBOOKS = sorted(TOP.glob("notebooks/*.ipynb"))

OPTIONS = (
    *("-p", "labkit.notebook.plugin", "-p", "no:cacheprovider"),
    *("--nbval", "--nbval-cell-timeout=120", "--timeout=150", "-q"),
)
"""nbval itself ends slow cells: pytest-timeout would leave the kernel running."""


def replay(*paths: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest --nbval on notebooks of one folder in a separate process, two notebooks at a time."""
    command = [sys.executable, "-m", "pytest", *OPTIONS]
    abreast = ["-n", "2", "--dist", "loadscope"] if len(paths) > 1 else []
    return subprocess.run(
        [*command, *abreast, *(path.name for path in paths)],
        cwd=paths[0].parent,
        capture_output=True,
        text=True,
        timeout=1400,
        env={**os.environ, "PYTHONPATH": str(TOP), **environment},
    )
