"""A terminal obeys no control character of foreign text; files and pipes get the data unchanged."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from labkit import RangeRouter, ShardReader
from labkit._streams import is_terminal, visible, visible_json
from labkit.cli.group import main
from labkit.shards import MemoryShard, RedisShard
from tests.support.mocks import resp_command, serving

pytestmark = pytest.mark.slow

EVIL = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202eevil\u2066\x7f\x08\r\u2028!"
"""A title, a cleared screen, a colour (C1), two changes of writing direction, and characters that overwrite a line."""
SECONDS = 20.0


async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A Redis server with two rows of such names, which answers unknown commands with such an error."""
    while True:
        words = await resp_command(reader)
        one, two = (json.dumps([number, EVIL], ensure_ascii=False).encode() for number in (1, 2))
        rows = b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(one), one, len(two), two)
        said = EVIL.replace("\r", "").encode()
        if words[0].upper().startswith(b"ZRANGE") and words[1] == b"data":
            writer.write(rows)
        elif words[0] == b"CLUSTER":
            writer.write(b"-ERR This instance has cluster support disabled\r\n")
        else:
            writer.write(b"-ERR " + said + b"\r\n")


@asynccontextmanager
async def topology(folder: Path, table: str = "data", name: str = EVIL) -> AsyncIterator[Path]:
    """A topology file with such a name, for a shard with such a name."""
    async with serving(script) as port:
        file = folder / f"lab{EVIL}.toml"
        text = json.dumps(name).replace("\x7f", "\\u007f")
        file.write_text(
            f'[[shards]]\nname = {text}\nurl = "redis://127.0.0.1:{port}"\ntable = "{table}"\nranges = [[1, 2]]\n'
        )
        yield file


async def on_terminal(*words: object) -> tuple[int, str]:
    """Exit code and everything that `labkit` writes to a terminal, stdout and stderr."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "300"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "labkit", *map(str, words), stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    told, ended = bytearray(), asyncio.Event()

    def receive() -> None:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # all writers have closed
            piece = b""
        told.extend(piece)
        if not piece:
            ended.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(ours, receive)
    try:
        async with asyncio.timeout(SECONDS):
            await ended.wait()
            code = await process.wait()
    finally:
        loop.remove_reader(ours)
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    return code, told.decode().replace("\r\n", "\n")


async def piped(*words: object) -> bytes:
    """What it writes to a pipe."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "labkit", *map(str, words), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(SECONDS):
        return (await process.communicate())[0]


def obeyed(text: str) -> list[str]:
    """The characters in the output that a terminal would obey."""
    return [char for char in text if not char.isprintable() and char != "\n"]


@pytest.mark.parametrize("form", ["table", "csv", "json", "ndjson"])
async def test_names_of_rows_and_shards_on_a_terminal(form: str, tmp_path: Path) -> None:
    """Names are escaped in each format; JSON still decodes to the original, and a pipe gets the original bytes."""
    async with topology(tmp_path) as file:
        code, told = await on_terminal("read", "--topology", file, "--format", form)
        raw = (await piped("read", "--topology", file, "--format", form)).decode()
    assert (code, obeyed(told)) == (0, [])
    if form == "table":
        assert "evil" in told
        return
    rows = told[: told.rindex("labkit: ")]
    if form == "csv":
        assert [row[1] for row in csv.reader(io.StringIO(raw, newline=""))][1:] == [EVIL, EVIL]
        assert "\\x1b[2J" in rows
    else:
        whole = [json.loads(line) for line in rows.splitlines()]
        assert [row["name"] for row in (whole[0]["rows"] if form == "json" else whole)] == [EVIL, EVIL]
        assert "\u202e" in raw


@pytest.mark.parametrize("more", [["--strict"], ["--format", "json"]])
async def test_what_a_server_says_on_a_terminal(more: list[str], tmp_path: Path) -> None:
    """A server's error is escaped in the line on stderr and in the report."""
    async with topology(tmp_path, table="other") as file:
        code, told = await on_terminal("read", "--topology", file, *more)
    assert (code, obeyed(told)) == (1 if more == ["--strict"] else 0, [])
    assert "pwned" in told


@pytest.mark.parametrize("words", [["--json", "--all", "GET", "a"], ["--all", "GET", "a"], ["ZRANGE", "data"]])
async def test_calls_on_a_terminal(words: list[str]) -> None:
    """Replies and failures are escaped, as text and as JSON."""
    async with serving(script) as port:
        _, told = await on_terminal("call", "--url", f"redis://127.0.0.1:{port}", *words)
    assert obeyed(told) == []
    assert "evil" in told


@pytest.mark.parametrize(
    "words",
    [
        ["read", "--topology", f"no{EVIL}"], ["serve", "--topology", f"no{EVIL}"], ["read", f"--{EVIL}"], [f"x{EVIL}"],
        ["read", "--topology", "x", "--output", f"{EVIL}/y.csv"], ["read", "--topology", "x", "--output", f"y.{EVIL}"],
        ["demo", "--backend", EVIL], ["call", "--url", EVIL, "GET", "a"], ["serve", "--topology", "x", "--port", EVIL],
        ["matrix", "--fault", EVIL], ["matrix", "--reader", EVIL], ["up", "--launcher", EVIL],
    ],
    ids=range(12),
)  # fmt: skip
def test_values_of_options_are_told_so(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """File names, options and commands may have been pasted, so they are escaped wherever stderr leads."""
    monkeypatch.chdir(tmp_path)
    assert_refused(words, capfd)


@pytest.mark.parametrize(
    "text",
    [
        '"a{E}" = 1', 'timeout = "{E}"', '[[shards]]\nname = "{E}"\nurl = "redis://h"\ntable = "x"\nranges = "{E}"',
        '[[shards]]\nname = "{E}"\nurl = "{E}://h"\ntable = "{E}"\nranges = [[1, 2]]\nlayout = "{E}"',
    ],
)  # fmt: skip
def test_keys_and_values_of_a_file_are_told_so(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An error about a file is escaped, as a stranger may have written the file."""
    file = tmp_path / f"{EVIL}.toml"
    file.write_text(text.replace("{E}", json.dumps(EVIL)[1:-1].replace("\x7f", "\\u007f")))
    assert_refused(["read", "--topology", str(file)], capfd)


def assert_refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("labkit: ")
    assert obeyed(err) == []


async def test_a_terminal_that_is_named_as_a_file_is_one(tmp_path: Path) -> None:
    """A terminal given by its path gets escaped output; pipes, files and /dev/null are recognised unopened."""
    ours, theirs = pty.openpty()
    try:
        assert is_terminal(os.ttyname(theirs))
        async with topology(tmp_path) as file:
            await piped("read", "--topology", file, "--format", "csv", "--output", os.ttyname(theirs))
        assert obeyed(os.read(ours, 65536).decode().replace("\r\n", "\n")) == []
    finally:
        os.close(ours)
        os.close(theirs)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert not any(map(is_terminal, [tmp_path / "pipe", tmp_path / "file", "/dev/null", tmp_path / "none"]))


async def test_the_cause_of_a_report_has_nothing_that_a_terminal_obeys() -> None:
    """Reports and the exceptions made of them can be printed, logged and sent safely."""
    async with serving(script) as port:
        shards = {"a": RedisShard(f"redis://127.0.0.1:{port}", "other"), EVIL: MemoryShard(error=OSError(EVIL))}
        router = RangeRouter({"a": [(1, 10)], EVIL: [(11, 20)]})
        async with ShardReader(router, shards, timeout=5.0) as reader:
            result = await reader.read()
    for report in result.reports.values():
        assert report.error is not None
        assert obeyed(report.error) == []
    assert obeyed(str(result)) == []
    with pytest.raises(Exception, match="evil") as caught:
        result.raise_for_missing()
    assert obeyed(str(caught.value)) == []


def test_what_is_visible_is_left_as_it_is() -> None:
    """Letters of all scripts are unchanged; escapes in JSON decode to the original."""
    assert visible("ünïcode ☃ 漢字") == "ünïcode ☃ 漢字"
    assert visible("a\n\x1b\u202e\ud800") == "a\\n\\x1b\\u202e\\ud800"
    assert visible("a\nb\x9b", keep="\n") == "a\nb\\x9b"
    value = {"a\u2028": ["\U000e0001", "\x7f", "漢字"]}
    shown = visible_json(json.dumps(value, ensure_ascii=False))
    assert obeyed(shown) == []
    assert "漢字" in shown
    assert json.loads(shown) == value
