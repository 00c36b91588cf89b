"""The parts of `labkit up`, without a lab: lines from any kind of stdin, and the file that says where the lab is."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import tty
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from labkit import faults
from labkit.cli.up.faults import fault_of
from labkit.cli.up.lines import lines, typed_at
from labkit.errors import LabkitError, UsageError
from labkit.topology.file import MARK, check_free, written

pytestmark = pytest.mark.usefixtures("no_task_left")


async def all_lines(descriptor: int) -> list[str]:
    return [line async for line in lines(descriptor)]


async def test_lines_of_a_pipe_come_one_by_one() -> None:
    """A line arrives as soon as it is complete, an unfinished last one at the end; invalid UTF-8 is not an error."""
    reading, writing = os.pipe()
    async with aclosing(lines(reading)) as told:
        os.write(writing, b"one\ntw")
        assert await anext(told) == "one"
        os.write(writing, b"o\n\n\xff\nlast")
        os.close(writing)
        assert [line async for line in told] == ["two", "", "\ufffd", "last"]
    os.close(reading)


async def test_lines_of_a_file_and_of_nothing(tmp_path: Path) -> None:
    """A regular file and /dev/null cannot be polled: they are read at once; a closed descriptor has no lines."""
    file = tmp_path / "commands"
    file.write_bytes(b"read\nquit\n")
    for path, expected in ((file, ["read", "quit"]), (Path(os.devnull), [])):
        descriptor = os.open(path, os.O_RDONLY)
        assert await all_lines(descriptor) == expected
        os.close(descriptor)
    assert await all_lines(descriptor) == []


async def test_lines_of_a_terminal() -> None:
    """Lines arrive as they are typed; the terminal is no longer watched once the iterator is closed."""
    master, terminal = pty.openpty()
    tty.setraw(terminal)
    try:
        assert typed_at(terminal)
        async with aclosing(lines(terminal)) as told:
            os.write(master, b"restart 2\n")
            assert await anext(told) == "restart 2"
        assert not asyncio.get_running_loop().remove_reader(terminal)
    finally:
        os.close(master)
        os.close(terminal)


def test_a_file_that_is_free_or_ones_own(tmp_path: Path) -> None:
    """A missing file, or one left by an earlier `labkit up` that was killed, may be written."""
    file = tmp_path / "lab.toml"
    check_free(file, "up")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    file.write_text(f"{MARK.format('up', ended.pid)}\ntimeout = 2.0\n")
    check_free(file, "up")


def test_a_file_that_is_somebody_elses(tmp_path: Path) -> None:
    """A file written by a person, or by a lab that still runs, is refused in one line with the way out."""
    file = tmp_path / "lab.toml"
    file.write_text("# mine\n")
    with pytest.raises(UsageError, match=r"was not written by labkit up: name another file$"):
        check_free(file, "up")
    file.write_text(f"{MARK.format('up', os.getppid())}\n")
    with pytest.raises(UsageError, match=rf"belongs to the labkit up of process {os.getppid()}, which is still"):
        check_free(file, "up")


def test_the_file_is_there_as_long_as_the_lab(tmp_path: Path) -> None:
    """The file is marked as the lab's and removed at the end, even after an exception, unless it was replaced."""
    file = tmp_path / "lab.toml"
    with suppress(KeyboardInterrupt), written(file, "timeout = 2.0\n", "up"):
        assert file.read_text() == f"{MARK.format('up', os.getpid())}\ntimeout = 2.0\n"
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with written(file, "timeout = 2.0\n", "up"):
        file.write_text("mine")
    assert file.read_text() == "mine"
    with written(file, "timeout = 2.0\n", "up"):
        file.unlink()
    assert os.listdir(tmp_path) == []


def test_nobody_else_may_read_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is private from the moment it is created, for any umask and any mode of the file it replaces."""
    file, modes = tmp_path / "lab.toml", list[int]()
    file.touch(0o666)
    file.chmod(0o666)
    replace = Path.replace

    def seen(self: Path, target: Path) -> Path:
        modes.append(self.stat().st_mode & 0o777)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", seen)
    before = os.umask(0)
    try:
        with written(file, "timeout = 2.0\n", "up"):
            modes.append(file.stat().st_mode & 0o777)
    finally:
        os.umask(before)
    assert modes == [0o600, 0o600]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The error has the system's words and the file."""
    with (
        pytest.raises(LabkitError, match=r"x.toml' was not written: no such file or directory"),
        written(tmp_path / "gone" / "x.toml", "", "up"),
    ):
        raise AssertionError("not reached")


@pytest.mark.parametrize("name", faults.ALL)
def test_every_fault_can_be_named(name: str) -> None:
    """Capitals do not matter; the fault gets its default parameters."""
    assert fault_of(name.lower()) == faults.ALL[name].kind()


def test_a_fault_that_there_is_not() -> None:
    """The error suggests a similar fault, or else lists them all."""
    with pytest.raises(UsageError, match=r"^unknown fault 'puase'; did you mean Pause\?$"):
        fault_of("puase")
    with pytest.raises(UsageError, match=r"^unknown fault ''; expected one of Down, Latency, "):
        fault_of("")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Down", faults.Down()),
        ("latency(200)", faults.Latency(200)),
        ("Latency(200, jitter=5, stream='upstream')", faults.Latency(200, 5, stream="upstream")),
        ("Latency (200)", faults.Latency(200)),
        ("Latency latency=200 stream=upstream toxicity=0.5", faults.Latency(200, stream="upstream", toxicity=0.5)),
        ("SchemaDrift column=amount how=missing", faults.SchemaDrift("amount", how="missing")),
        ("Pause()", faults.Pause()),
    ],
)
def test_a_fault_is_typed_with_its_parameters(text: str, fault: faults.Fault) -> None:
    """As in Python, or as words; words that are no number are text."""
    assert fault_of(text) == fault


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Latency 200", r"'200' is not readable: write Latency\(…\) with numbers and quoted text, or Latency name="),
        ("Latency(", "is not readable"),
        ("Latency(200).x()", "is not readable"),
        ("Latency(open('x'))", "is not readable"),
        ("Latency(*[1])", "is not readable"),
        ("Latency(**{'latency': 1})", "is not readable"),
        ("Latency(1, 2, 3)", "too many positional arguments; its parameters: latency, jitter, stream, toxicity"),
        ("Latency late=1", "unexpected keyword argument 'late'"),
        ("Latency(-1)", "latency must be a number from 0"),
        ("Down(1)", "its parameters: none"),
    ],
)
def test_parameters_that_a_fault_does_not_have(text: str, words: str) -> None:
    """One line says what is wrong and what may be written; nothing that is typed is executed."""
    with pytest.raises(UsageError, match=words):
        fault_of(text)
