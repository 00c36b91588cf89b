"""How commands end: with any streams and any error, an exit code and no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from labkit.cli import group as cli
from labkit.errors import LabError, UsageError

pytestmark = pytest.mark.slow

LABKIT = [sys.executable, "-m", "labkit"]
RICH = "from rich.console import Console; Console().print('a row ' * 4000); return 0"
CLICK = "click.echo('x' * 100_000); return 0"
PRINT = "print('x' * 5); return 0"
"""Output that stays in the buffer until the program ends."""
WAYS = {"rich": RICH, "click": CLICK, "print": PRINT}


def command_that(body: str) -> list[str]:
    """`labkit demo` with another body, run on an event loop as every lab's is."""
    lines = ["import asyncio, sys, click", "from labkit.cli import group as cli", "async def body(*_):"]
    lines += [f"    {statement.strip()}" for statement in body.split(";")]
    return [sys.executable, "-c", "\n".join([*lines, "cli._demo = body", "cli.main(['demo'])"])]


@pytest.fixture
def broken() -> Iterator[int]:
    """The writing end of a pipe without a reader."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def ends(command: list[str], **options: object) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 30, **options}
    done = subprocess.run(command, **given)  # type: ignore[call-overload]
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_behind_head_a_command_is_quiet(way: str, broken: int):
    """The command exits 141, as if ended by SIGPIPE, however it prints, even if the write fails only at exit."""
    assert ends(command_that(WAYS[way]), stdout=broken) == (141, None, b"")


@pytest.mark.parametrize("words", [["--help"], ["matrix", "--help"], ["--version"], []])
def test_help_behind_head_is_quiet(words: list[str], broken: int):
    """Output printed by click itself is no exception."""
    code, _, said = ends([*LABKIT, *words], stdout=broken)
    assert (code, said) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_one_line(way: str):
    """Exit 1 with the system's error message, even for output written when the program ends."""
    with open("/dev/full", "wb") as full:
        code, _, said = ends(command_that(WAYS[way]), stdout=full)
    assert (code, said.count(b"\n")) == (1, 1)
    assert said.rstrip().endswith(b"no space left on device")


def closed(numbers: str, command: list[str]) -> list[str]:
    """The command, run with these streams closed."""
    redirections = " ".join(f"{number}>&-" for number in numbers)
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *command]


@pytest.mark.parametrize("way", WAYS)
def test_a_closed_stdout_is_one_line(way: str):
    """Exit 1: the output was lost."""
    code, _, said = ends(closed("1", command_that(WAYS[way])))
    assert (code, said.count(b"\n")) == (1, 1)
    assert said.rstrip().endswith(b"bad file descriptor")


def test_data_for_a_closed_stdout_is_an_error(tmp_path: Path):
    """A reply that could not be delivered is not a success."""
    body = "from labkit.cli.files import write; write('-', b'data'); return 0"
    assert ends(closed("1", command_that(body)))[::2] == (
        1,
        b"labkit: stdout was not written: bad file descriptor\n",
    )


@pytest.mark.parametrize("streams", ["2", "02", "012"])
@pytest.mark.parametrize("body", ["return 0", "return 1", "raise KeyError(2)", "raise MemoryError"])
def test_closed_streams_change_no_exit_code(streams: str, body: str):
    """Nothing is printed and nothing else fails; no other file takes over the streams' numbers."""
    opened = "import os; assert os.open(os.devnull, os.O_RDONLY) > 2"
    expected = 0 if body == "return 0" else 1
    assert ends(closed(streams, command_that(f"{opened}; {body}"))) == (expected, b"", b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict", "cp437"])
def test_what_a_stream_cannot_encode_is_escaped(encoding: str):
    """Unencodable characters and lone surrogates (of file names) are escaped on stdout and stderr."""
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    code, out, said = ends(command_that("print('· \\u2500 \\udcff 語'); raise KeyError('語')"), env=env)
    assert (code, out.count(b"\n"), said.count(b"\n")) == (1, 1, 1)
    assert b"\\udcff" in out
    assert b"KeyError" in said


def test_a_file_name_that_is_no_text_is_one_line():
    """An argument byte that is not valid UTF-8 is shown as an escape."""
    code, _, said = ends([*LABKIT, "read", "--topology", os.fsdecode(b"\xff.toml")])
    assert (code, said.count(b"\n")) == (2, 1)
    assert b"Traceback" not in said


UNFORESEEN = [
    KeyError("x"),
    RecursionError("too deep"),
    ExceptionGroup("two", [ValueError("a"), OSError("b")]),
    EOFError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch, capfd):
    """Exit 1, and the line says that it is a bug, which error, and where."""

    async def body(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_demo", body)
    assert main("demo") == 1
    said = capfd.readouterr().err
    assert said.startswith(f"labkit: a bug in labkit, please report it: {type(error).__name__}: ")
    assert said.endswith(")\n")
    assert "test_exits.py:" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("no\nsuch"), 2, "labkit: no such\n"),
        (LabError("gone"), 1, "labkit: gone\n"),
        (OSError(errno.EMFILE, "Too many open files", "a\nb"), 1, "labkit: 'a\\nb': too many open files\n"),
        (OSError("odd"), 1, "labkit: odd\n"),
        (MemoryError(), 1, "labkit: out of memory\n"),
        (KeyboardInterrupt(), 130, "labkit: interrupted\n"),
        (click.ClickException("bad"), 1, "labkit: bad\n"),
        (SystemExit(3), 3, ""),
    ],
    ids=repr,
)
def test_every_end_has_its_code(error, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capfd):
    """Wrong use exits 2, a failure 1, Ctrl-C 130; one line each."""

    def body(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_demo", body)
    assert main("demo") == code
    assert capfd.readouterr() == ("", words)


def test_without_a_command_it_says_how_it_is_used(capfd):
    """Without a command labkit prints its help and exits 2, with every version of click."""
    assert main() == 2
    out, said = capfd.readouterr()
    assert out.startswith("Usage: labkit")
    assert said == ""


def main(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", ["demo", "up"])
def test_help_names_every_backend(command: str, capfd):
    """The help names clusters too."""
    assert main(command, "--help") == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "postgres, redis or redis-cluster" in said
