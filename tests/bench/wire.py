"""The floor: plain sockets that send queries, read every byte of the answers, and inspect only the last ones."""

from __future__ import annotations

import re
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BINARY_END", "PONG_END", "Drained", "Tail", "copied", "drain", "postgres", "query"]

BUFFER = 1 << 20
KEEP = 64
"""Trailing bytes that are kept, at least as many as the longest end."""

BINARY_END = re.compile(
    rb"d\x00\x00\x00\x06\xff\xff"  # CopyData: the trailer of the binary format
    rb"c\x00\x00\x00\x04"  # CopyDone
    rb"C\x00\x00\x00.COPY (\d+)\x00"  # CommandComplete
    rb"Z\x00\x00\x00\x05I\Z",  # ReadyForQuery, idle
    re.DOTALL,
)
"""How COPY … TO STDOUT (FORMAT binary) ends. Source: PostgreSQL documentation, "Message Formats" and COPY."""
PONG_END = re.compile(rb"\r\n\+PONG\r\n\Z")
"""How an answer followed by that of a PING ends; our members contain no line breaks."""


class Tail:
    """The last bytes of a stream that arrives in pieces of any size."""

    def __init__(self, end: re.Pattern[bytes]) -> None:
        self._end = end
        self.bytes = b""

    def ended(self, piece: memoryview) -> bool:
        """Takes the next piece; returns whether the stream has ended."""
        last = bytes(piece[-KEEP:])
        self.bytes = last if len(last) == KEEP else (self.bytes + last)[-KEEP:]
        return self._end.search(self.bytes) is not None


@dataclass(frozen=True)
class Drained:
    """The size and end of everything read from one socket."""

    size: int
    tail: bytes


def drain(sockets: Sequence[socket.socket], end: re.Pattern[bytes]) -> list[Drained]:
    """Reads all sockets concurrently into one reused buffer until each answer has ended."""
    view = memoryview(bytearray(BUFFER))
    sizes = dict.fromkeys(sockets, 0)
    tails = {sock: Tail(end) for sock in sockets}
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                ready: Any = key.fileobj
                size = ready.recv_into(view)
                if not size:
                    raise ConnectionError("the server hung up")
                sizes[ready] += size
                if tails[ready].ended(view[:size]):
                    selector.unregister(ready)
    return [Drained(sizes[sock], tails[sock].bytes) for sock in sockets]


def copied(drained: Sequence[Drained]) -> int:
    """The number of rows the servers report as copied."""
    found = [BINARY_END.search(one.tail) for one in drained]
    return sum(int(match[1]) for match in found if match)


def query(sql: str) -> bytes:
    """The message of a simple query for Postgres."""
    body = sql.encode() + b"\x00"
    return b"Q" + struct.pack("!I", len(body) + 4) + body


def postgres(path: str, user: str, database: str) -> socket.socket:
    """A session on a Postgres with trusted logins; raises ConnectionError with the server's message if refused."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
        words = f"user\x00{user}\x00database\x00{database}\x00\x00".encode()
        sock.sendall(struct.pack("!II", len(words) + 8, 3 << 16) + words)  # protocol 3.0
        _until_ready(lambda size: _exactly(sock, size))
    except BaseException:
        sock.close()
        raise
    return sock


def _until_ready(read: Callable[[int], bytes]) -> None:
    """Reads messages until ReadyForQuery."""
    while True:
        kind, size = struct.unpack("!cI", read(5))
        body = read(size - 4)
        if kind == b"E":
            raise ConnectionError(body.replace(b"\x00", b" ").decode(errors="replace"))
        if kind == b"Z":
            return


def _exactly(sock: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        piece = sock.recv(size - len(read))
        if not piece:
            raise ConnectionError("the server hung up")
        read += piece
    return read
