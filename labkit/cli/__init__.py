"""The command line, and everything that only it needs."""

from __future__ import annotations

from labkit.cli.group import cli, main

__all__ = ["cli", "main"]
