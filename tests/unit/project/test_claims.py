"""The tests themselves: each one states its claim."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]


def test_every_test_says_in_its_docstring_what_it_claims() -> None:
    """A name is too short for a claim, and the reader of a failure wants to know what no longer holds."""
    silent = [
        f"{path.relative_to(TESTS)}::{test.name}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for test in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef)
        and test.name.startswith("test_")
        and not ast.get_docstring(test)
    ]
    assert silent == []
