"""Processes that own labs and are ended in every way, to see what is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

Owner = subprocess.Popen[str]


@contextmanager
def owner_of(backend: str, end: str, launcher: str = "embedded") -> Iterator[Owner]:
    """A process that owns a lab (see owner.py); it is killed at the end of the block."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.support.owner", backend, end, launcher],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with owner:
        try:
            yield owner
        finally:
            owner.kill()


def told(owner: Owner) -> list[str]:
    """The words of the line that it prints once its lab is up."""
    assert owner.stdout is not None
    return owner.stdout.readline().split()
