"""Readers that are not Python functions: a command, started for each read, and an HTTP service.

Both are called with one request, a mapping (`request_for`), and answer with JSON: `{"rows": …, "missing": …}`, rows
alone, or lines of JSON (NDJSON), each a row or `{"missing": …}`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shlex
import shutil
import signal
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from labkit.errors import UsageError
from labkit.matrix.evidence import waited
from labkit.matrix.footprint import Footprint
from labkit.show.format import clip

__all__ = ["TOPOLOGY", "Command", "Crashed", "Failed", "Malformed", "Program", "Service", "answer_of", "request_for"]

MOST = 10_000_000
"""Bytes of an answer that are read; a right one has some kilobytes."""
TOPOLOGY = "labkit-matrix.toml"
"""The file that tells a service where the servers are."""
PATIENCE = 30.0
"""Seconds within which a service must accept connections once its topology is written."""
_POLL = 0.1
_LOOK = 0.002
_SHELL = 128
"""A shell reports a command that was killed by signal N as exit code 128 + N; so do programs that pass such a code on.
Source: POSIX, Shell Command Language, 2.8.2, "Exit Status for Commands"."""


class Crashed(Exception):
    """The program ended instead of answering; the text says how."""


class Malformed(Exception):
    """What it answered cannot be understood."""


class Failed(Exception):
    """The program said that it failed: its counterpart of an exception."""


def request_for(
    urls: Mapping[Any, str], tables: Mapping[Any, str], ranges: Mapping[Any, Any], timeout: float, columns: list[str]
) -> dict[str, Any]:
    """What a program is told, in JSON types: urls, tables and ranges by shard, timeout in seconds, the name of the key,
    and those of all columns, the key first.
    """
    return {
        "urls": {str(shard): url for shard, url in urls.items()},
        "tables": {str(shard): table for shard, table in tables.items()},
        "ranges": {str(shard): [list(pair) for pair in owned] for shard, owned in ranges.items()},
        "timeout": timeout,
        "key": columns[0],
        "columns": columns,
    }


@dataclass
class Command:
    """A program that is started for each read: the request is on its stdin, the answer on its stdout.

    Exit codes from 1 to 127 are its exception, and the last line on stderr the text; beyond that it has crashed. The
    time until it has read its request is that of its start-up, which is not lateness. Raises `UsageError` for a command
    line without a program, or with one that is not there.
    """

    line: str
    starved: float = field(default=0.0, init=False)
    """Seconds of the last one in which it started up, or waited for a processor."""

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.line)
        except ValueError as error:
            raise UsageError(f"command {self.line!r} cannot be split into words ({error}): check its quotes") from None
        if not words:
            raise UsageError("the command is empty: write a program and its arguments, as in 'node read.js'")
        if shutil.which(words[0]) is None:
            what = f"command {self.line!r}: no program {words[0]!r} is on the PATH"
            raise UsageError(f"{what}; check its name, or write its whole path")

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.line

    async def __call__(self, request: Mapping[str, Any]) -> Any:
        """Runs the program once."""
        started, self.starved = time.monotonic(), 0.0
        theirs, ours = os.pipe()
        try:
            os.write(ours, json.dumps(request).encode() + b"\n")  # a pipe holds 64 KiB
            process = await asyncio.create_subprocess_exec(
                *shlex.split(self.line),
                stdin=theirs,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            os.close(theirs)
            theirs = -1
            assert process.stdout is not None
            assert process.stderr is not None
            beginning = asyncio.ensure_future(_begun(ours, process.pid))
            try:
                (text, total), last = await asyncio.gather(
                    _all_of(process.stdout, process.pid), _passed_on(process.stderr)
                )
                code = await process.wait()
            finally:
                if beginning.done():
                    ours = -1
                beginning.cancel()
                if process.returncode is None:
                    process.kill()
        finally:
            for end in (theirs, ours):
                if end >= 0:
                    os.close(end)
        began, before = beginning.result() if ours < 0 else (started, 0.0)
        self.starved = began - started + max(0.0, total - before)
        if code < 0 or code >= _SHELL:
            number = -code if code < 0 else code - _SHELL
            raise Crashed(f"exited {_SHELL + number}{_signal(number)}")
        if code:
            raise Failed(f"exited {code}: {last}".removesuffix(": "))
        return answer_of(text, "printed")

    def footprint(self) -> Footprint:
        """What it left behind: processes."""
        return Footprint.of_relatives()


async def _begun(request: int, pid: int) -> tuple[float, float]:
    """When the process has read its request, and how long it had waited for a processor by then. Closes the pipe."""
    unread = bytearray(4)
    while True:
        fcntl.ioctl(request, termios.FIONREAD, unread)
        if not int.from_bytes(unread, sys.byteorder):
            os.close(request)
            return time.monotonic(), waited(str(pid))
        await asyncio.sleep(_LOOK)


async def _all_of(stream: asyncio.StreamReader, pid: int) -> tuple[bytes, float]:
    """All that is printed, and how long the process had waited for a processor by then."""
    text = b""
    while part := await stream.read(1 << 16):
        text += part
        if len(text) > MOST:
            raise Malformed(f"it printed more than {MOST:,} bytes")
    return text, waited(str(pid))


async def _passed_on(stream: asyncio.StreamReader) -> str:
    """Passes on what is written to stderr; returns the last line."""
    last = b""
    while part := await stream.read(1 << 12):
        sys.stderr.write(part.decode(errors="replace"))
        last = (last + part)[-1000:]
    lines = last.decode(errors="replace").strip().splitlines()
    return clip(lines[-1], 300) if lines else ""


def _signal(number: int) -> str:
    with suppress(ValueError):
        return f" ({signal.Signals(number).name})"
    return ""


@dataclass
class Service:
    """An HTTP service on this machine that reads the shards of the file `topology` whenever it is asked with GET.

    The file is written before the first request and again whenever the servers are others; each request names it in the
    header Labkit-Topology. A status other than 2xx is its exception, and a connection closed without an answer a crash.
    Raises `UsageError` for a URL of another kind, or that is not on this machine.
    """

    url: str
    topology: str = TOPOLOGY

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            host, self._port = parts.hostname or "", parts.port or 80
        except ValueError as error:
            raise UsageError(f"reader URL {self.url!r}: {error}") from None
        if parts.scheme != "http" or not host:
            raise UsageError(f"reader URL {self.url!r} is not http://HOST:PORT/PATH")
        if not _is_here(host):
            raise UsageError(f"reader URL {self.url!r} is not on this machine, where the servers are: use 127.0.0.1")
        self._host = host
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.url

    async def __call__(self, request: Mapping[str, Any]) -> Any:
        """Asks once."""
        return await asyncio.to_thread(self._ask)

    async def ready(self) -> None:
        """Waits until it accepts connections, for `PATIENCE` seconds; then `UsageError`."""
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                _, writer = await asyncio.open_connection(self._host, self._port)
            except OSError as error:
                if time.monotonic() > ends:
                    what = f"nothing answers at {self.url!r} ({error.strerror or error})"
                    raise UsageError(f"{what}: start the service, which reads {self.topology!r}") from None
                await asyncio.sleep(_POLL)
            else:
                writer.close()
                return

    def footprint(self) -> Footprint:
        """What the processes hold that listen on its port."""
        return Footprint.of_listeners(self._port)

    def _ask(self) -> Any:
        connection = HTTPConnection(self._host, self._port)
        headers = {
            "Accept": "application/json, application/x-ndjson",
            "Connection": "close",
            "Labkit-Topology": os.path.abspath(self.topology),
        }
        try:
            connection.request("GET", self._path, headers=headers)
            response = connection.getresponse()
            text = response.read(MOST + 1)
        except ConnectionRefusedError as error:
            raise Crashed(f"nothing listens on port {self._port} any more ({error.strerror})") from None
        except (HTTPException, OSError) as error:
            raise Crashed(f"it closed the connection without an answer ({type(error).__name__})") from None
        finally:
            connection.close()
        if len(text) > MOST:
            raise Malformed(f"it answered with more than {MOST:,} bytes")
        if not 200 <= response.status < 300:
            raise Failed(
                f"HTTP {response.status}: {clip(text.decode(errors='replace').strip(), 300)}".removesuffix(": ")
            )
        return answer_of(text, "answered")


Program: TypeAlias = Command | Service


def answer_of(text: bytes, how: str = "printed") -> Any:
    """The answer in JSON or NDJSON. Raises `Malformed`."""
    if not text.strip():
        raise Malformed(f'it {how} nothing: no rows are {{"rows": []}}')
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _of_lines(text, how)
    if isinstance(found, Mapping) and "rows" not in found:
        return _together([found])
    return found


def _of_lines(text: bytes, how: str) -> dict[str, Any]:
    values: list[Any] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                raise Malformed(f"what it {how} is not JSON, nor is line {number}: {clip(repr(line), 80)}") from None
    return _together(values)


def _together(values: list[Any]) -> dict[str, Any]:
    """The answer of several lines."""
    answer: dict[str, Any] = {"rows": []}
    for value in values:
        gaps = value.get("missing") if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and "rows" in value:
            if not isinstance(value["rows"], list):
                raise Malformed(f"rows are {clip(repr(value['rows']), 80)}, not a list")
            answer["rows"] += value["rows"]
        elif not isinstance(gaps, list):
            answer["rows"].append(value)
        if isinstance(gaps, list):
            answer.setdefault("missing", []).extend(gaps)
    return answer


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
