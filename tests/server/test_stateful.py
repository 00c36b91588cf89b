"""Faults in any order on real servers, with writes and reads between them: every read is what the model allows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machine import EXAMPLES, bench_for, run_machine

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(60 + 6 * EXAMPLES)
@pytest.mark.parametrize("backend", ["postgres", "redis"])
def test_reads_are_what_the_model_allows(request: pytest.FixtureRequest, backend: str) -> None:
    """After any faults and writes, rows, gaps, statuses and time are as the model allows, and healed reads complete."""
    with bench_for(backend, request.node.nodeid) as bench:
        run_machine(bench)


def failure(command: str, **more: str) -> str:
    """The output of a failing pytest `command`, as typed in the root folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LABKIT_TEST_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    run = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment | more, capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


def steps(output: str) -> list[str]:
    return re.findall(r"state(?: =|\.).*", output)


def test_a_reader_that_keeps_silent_about_a_gap_is_found_out() -> None:
    """A reader with right rows that hides a gap is detected."""
    assert "last events:" in failure(
        "python -m pytest 'tests/support/planted.py::test_is_found_out[redis-ForgetsAGap]'"
    )


@pytest.mark.timeout(240)
def test_a_wrong_reader_is_found_out_again_by_the_command_that_is_printed() -> None:
    """A wrong reader fails, and the printed command with the seed fails again after the same steps."""
    test = "tests/support/planted.py::test_is_found_out[redis-KeepsHalfAnAnswer]"
    first = failure(f"python -m pytest '{test}'", LABKIT_TEST_SEED="3")
    commands = re.findall(r"again: (LABKIT_TEST_SEED=3 python -m pytest .*)", first)
    assert commands
    assert "last events:" in first
    again = failure(commands[0])
    assert len(steps(first)) > 2
    assert steps(again) == steps(first)
