"""Replays a notebook against its stored outputs, as CI does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOTEBOOKS = sorted(Path(__file__).parents[2].glob("notebooks/*.ipynb"))


def replay(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest --nbval on one notebook, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-cell-timeout=60", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
