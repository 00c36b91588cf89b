"""The command line, and all that only a command line needs."""

from __future__ import annotations

from labkit.cli.group import cli, main

__all__ = ["cli", "main"]
