"""A result as a file: the formats there are, and how one is written whole or not at all."""

from __future__ import annotations

from labkit.output.files import STDOUT, check_target, write
from labkit.output.formats import FORMATS, format_of, render, rendered_for_terminal
from labkit.output.summary import summary

__all__ = ["FORMATS", "STDOUT", "check_target", "format_of", "render", "rendered_for_terminal", "summary", "write"]
