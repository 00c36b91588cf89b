"""The benchmark itself, on too few rows to measure anything: every part runs and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from tests.bench.__main__ import main
from tests.bench.process import ROOT
from tests.support.watching import becomes_true, command_line, running

PATIENCE = 10.0
"""Seconds within which everything must be gone."""
FEW = ["--rows", "3000", "--only", "floor"]


def data_folder(process: psutil.Process) -> Path | None:
    """The data folder of a Postgres server; None for any other process, or one that has ended."""
    words = command_line(process)
    return Path(words[words.index("-D") + 1]) if "-D" in words else None


@pytest.mark.timeout(300)
def test_every_part_is_measured_and_who_is_absent_is_named(tmp_path: Path) -> None:
    """Floor and labkit are measured and right in all parts; a peer is measured or reported as not installed."""
    file = tmp_path / "bench.json"
    before = psutil.Process().children(recursive=True)
    done = CliRunner().invoke(main, ["--quick", *FEW, "--only", "labkit", "--only", "connectorx", "--json", str(file)])
    assert done.exit_code == 0, done.output
    left = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert becomes_true(lambda: not running(left)), left
    told = json.loads(file.read_text())
    scores = {f"{part['kind']} {part['size']}": part["scores"] for part in told["parts"]}
    parts = [
        "bulk 3000", "wide 3000", "count 3000", "small 3", "small 100", "stream 3000", "late 3000", "serve 20",
        "redis 3000", "router 100000",
    ]  # fmt: skip
    assert list(scores) == parts
    for part in ("bulk 3000", "wide 3000"):
        peer = scores[part].pop("connectorx")
        assert peer["note"] == ("" if peer["samples"] else "connectorx is not installed")
    for part, contestants in scores.items():
        assert {name: score["note"] for name, score in contestants.items()} == {"floor": "", "labkit": ""}, part
        assert all(score["samples"] for score in contestants.values()), part
    assert told["machine"]["versions"].keys() >= {"Postgres", "Redis", "Python", "asyncpg"}


@pytest.mark.parametrize("ended", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
@pytest.mark.timeout(120)
def test_nothing_is_left_when_it_is_ended(ended: signal.Signals) -> None:
    """Ended in the middle of its rounds, the benchmark leaves no worker, server or folder behind."""
    command = [sys.executable, "-m", "tests.bench", "--part", "bulk", "--rounds", "1000", *FEW]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as bench:
        try:
            assert bench.stderr is not None
            assert any("round 2 " in line for line in bench.stderr)
            family = psutil.Process(bench.pid).children(recursive=True)
            folders = {folder for child in family if (folder := data_folder(child))}
            bench.send_signal(ended)
            bench.wait(PATIENCE)
        finally:
            bench.kill()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert (alive, [folder for folder in folders if folder.exists()]) == ([], [])
    assert len(folders) in (3, 4)  # the fourth is postgres_fdw's
