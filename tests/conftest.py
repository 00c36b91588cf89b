"""What all tests share: labs are embedded unless a test says otherwise, and tests on containers need an engine."""

from __future__ import annotations

import os

import pytest

from tests.containers import NEEDED, why_not

os.environ.setdefault("LABKIT_LAUNCHER", "embedded")  # "auto" is to be tested where a test says so

_left_out: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a Docker engine the tests marked `docker` are taken out and named at the end; where they must run
    (LABKIT_TEST_DOCKER=require), that is an error.
    """
    marked = [item for item in items if item.get_closest_marker("docker")]
    reason = why_not() if marked else None
    if reason is None:
        return
    if NEEDED:
        raise pytest.UsageError(f"the tests on containers must run and cannot: {reason}")
    _left_out.extend(item.nodeid for item in marked)
    config.hook.pytest_deselected(items=marked)
    items[:] = [item for item in items if not item.get_closest_marker("docker")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says plainly what did not run, and how to get it."""
    if _left_out:
        terminalreporter.section("NOT RUN: tests on containers", sep="=", yellow=True, bold=True)
        terminalreporter.write_line(f"{len(_left_out)} tests did not run: {why_not()}.")
        terminalreporter.write_line("All the others ran. With Docker and its images here, `make test` runs these too.")
