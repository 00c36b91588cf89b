"""`labkit demo` as users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.watching import becomes_true, folders, marked, running, status, tree

LABKIT = [sys.executable, "-m", "labkit"]
PLAIN = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LABKIT, *arguments], capture_output=True, text=True, timeout=60, env=PLAIN)


@pytest.mark.parametrize("backend", ["postgres", "redis"])
def test_the_demo_shows_four_reads_with_the_right_rows_and_gaps(backend: str) -> None:
    """It reads 60 rows, 40 with two gaps, 20 with four gaps (adjacent in pairs), then 60, and leaves nothing behind."""
    before = folders()
    done = run("demo", "--backend", backend, "--timeout", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^(?:in)?complete: .*$", done.stdout, re.MULTILINE) == [
        "complete: 60 rows, nothing missing",
        "incomplete: 40 rows, missing 11–20, 41–50 (20 IDs)",
        "incomplete: 20 rows, missing 11–30, 41–60 (40 IDs)",
        "complete: 60 rows, nothing missing",
    ]
    assert done.stdout.count("timeout") == 2
    assert done.stdout.count("connection refused") == 1
    assert "nothing is left" in " ".join(done.stdout.split())
    assert folders() <= before
    assert marked() == []


def test_the_demo_reads_a_window() -> None:
    """With --low and --high only the window is read, and only rows of it can be missing."""
    done = run("demo", "--backend", "redis", "--timeout", "1", "--low", "15", "--high", "25")
    assert done.returncode == 0, done.stderr
    assert "complete: 11 rows" in done.stdout
    assert "missing 15–20 (6 IDs)" in done.stdout
    assert "missing 15–25 (11 IDs)" in done.stdout


def test_ctrl_c_stops_everything_and_is_one_line() -> None:
    """SIGINT during a read of a frozen shard: exit 130, one line, no traceback, nothing left."""
    before = folders()
    with subprocess.Popen(
        [*LABKIT, "demo", "--timeout", "30"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=PLAIN
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if "complete: 60 rows" in line:
                break
        below = tree(demo.pid)[1:]
        assert len(below) > 3
        assert becomes_true(lambda: psutil.STATUS_STOPPED in map(status, below))
        demo.send_signal(signal.SIGINT)
        said = demo.stderr.read()
        demo.wait()
    assert (demo.returncode, said) == (130, "labkit: interrupted\n")
    assert becomes_true(lambda: not running(below)), running(below)
    assert folders() <= before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--backend", "mysql"], "unknown backend 'mysql': choose one of postgres, redis"),
        (["demo", "--timeout", "0"], "timeout must be a positive number of seconds, not 0.0"),
        (["demo", "--timeout", "soon"], "'soon' is not a valid float"),
        (["demo", "--low", "30", "--high", "10"], "low must not be above high: got low=30, high=10; swap them"),
        (["demo", "--low", "99999999999999999999"], "low must fit in 64 bits"),
        (["explode"], "No such command 'explode'"),
        (["demo", "--bogus"], "--bogus"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(arguments: list[str], words: str) -> None:
    """Wrong use is one line on stderr and exit 2, with nothing on stdout."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.startswith("labkit: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["demo"]])
def test_help_has_an_example(command: list[str]) -> None:
    """--help of the program and of the command has an example."""
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Example:\n    labkit" in done.stdout
