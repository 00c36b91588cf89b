"""Runs pytest in a process of its own, with labkit's plugin and no others than those that are named."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import pytest

__all__ = ["ANYIO", "ASYNCIO", "XDIST", "run"]

ASYNCIO = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto")
ANYIO = ("-p", "anyio.pytest_plugin")
XDIST = ("-p", "xdist.plugin")
STRICT = ("-W", "error", "--strict-markers", "--strict-config", "-p", "no:cacheprovider", "-rA")


def run(pytester: pytest.Pytester, code: str, *options: Any, conftest: str = "", **outcomes: int) -> str:
    """Runs the tests in `code`, checks their outcomes, and returns what pytest printed, without its frames."""
    if conftest:
        pytester.makeconftest(dedent(conftest))
    pytester.makepyfile(test_inner=dedent(code))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setenv("COLUMNS", "300")
        done = pytester.runpytest_subprocess("-p", "labkit.pytest", *STRICT, *options, timeout=50)
    if outcomes:
        done.assert_outcomes(**outcomes)
    return re.sub(r"^[=_-]{3,} | [=_-]{3,}$", "", done.stdout.str() + done.stderr.str(), flags=re.MULTILINE)
