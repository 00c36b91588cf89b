"""One direction of one connection: reads, lets the toxics plan what becomes of it, sends what is due.

No task, no copy where there is no toxic: one callback reads and sends.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from labkit.faults.network.pipe import End, Piece, Pipe

__all__ = ["Stream"]

CHUNK = 65536
"""Bytes read at a time without toxics."""
PLANNED = 16384
"""Bytes read at a time where toxics plan them: one may make a piece of each byte."""
MOST_BYTES, MOST_PIECES = 262144, 4096
"""What may wait to be sent before nothing more is read."""


class Stream:
    """`ended(end)` is called with each end that has passed; `End.RESET` too when a socket broke."""

    def __init__(self, source: socket.socket, sink: socket.socket, ended: Callable[[End], None]) -> None:
        self._source, self._sink, self._ended = source, sink, ended
        self._loop = asyncio.get_running_loop()
        self._chain: dict[int, Pipe] = {}
        self._waiting: deque[tuple[int, Piece]] = deque()
        """Pieces in order, each with the number of the toxic that ended the direction by it (0: nobody)."""
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reads = self._writes = self._frozen = self._muted = self._drained = self._closed = False

    def close(self) -> None:
        """Touches its sockets no more."""
        self._closed = True
        self._settle()

    def freeze(self, on: bool) -> None:
        """Neither reads nor sends; or goes on."""
        self._frozen = on
        self._settle()
        if not on:
            self._flush()

    def attach(self, number: int, pipe: Pipe) -> None:
        """Puts a toxic behind those that are there."""
        self._chain[number] = pipe
        self._plan(number, pipe.opened(self._loop.time()), number)
        self._flush()

    def detach(self, number: int) -> None:
        """Takes a toxic away: what waits leaves at once, but for the ends that this toxic planned."""
        if number not in self._chain:
            return
        now = self._loop.time()
        self._waiting = deque(
            (by, Piece(piece.data, min(piece.due, now), piece.end)) for by, piece in self._waiting if by != number
        )
        last = self._chain[number].removed(now)
        self._plan(number, last, 0)
        del self._chain[number]
        self._flush()

    def _readable(self) -> None:
        try:
            data = self._source.recv(PLANNED if self._chain else CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._ended(End.RESET)
            return
        if not data:
            self._drained = True
            self._settle()
            self._plan(0, [Piece(b"", self._loop.time(), End.FIN)], 0)
        elif self._chain or self._waiting:
            self._plan(0, [Piece(data, self._loop.time())], 0)
        elif not self._muted:
            sent = self._sent(data)
            if sent == len(data) or self._closed:
                return
            self._wait(0, Piece(data[sent:], 0.0))
        self._flush()

    def _plan(self, after: int, pieces: Iterable[Piece], by: int) -> None:
        """Lets each toxic that stands behind `after` in the chain (0: all) have its way with the pieces."""
        names = list(self._chain)
        behind = names.index(after) + 1 if after else 0
        for piece in pieces:
            self._through(list(islice(names, behind, None)), piece, by)

    def _through(self, names: list[int], piece: Piece, by: int) -> None:
        if not names:
            self._wait(by, piece)
            return
        pipe = self._chain[names[0]]
        for planned in pipe.ended(piece) if piece.end else pipe.data(piece):
            # An end that was none before is this toxic's doing.
            self._through(names[1:], planned, by if piece.end or not planned.end else names[0])

    def _wait(self, by: int, piece: Piece) -> None:
        self._waiting.append((by, piece))
        self._bytes += len(piece.data)

    def _flush(self) -> None:
        """Sends all that is due, and sees to it that the rest will be."""
        while self._waiting and not (self._frozen or self._closed or self._writes):
            by, piece = self._waiting[0]
            if piece.due > self._loop.time():
                self._wake(piece.due)
                break
            if not self._left(by, piece):
                break
        self._settle()

    def _left(self, by: int, piece: Piece) -> bool:
        """Whether the first piece has left, whole."""
        if piece.end:
            self._waiting.popleft()
            self._end(piece.end)
            return True
        sent = len(piece.data) if self._muted else self._sent(piece.data)
        if self._closed:
            return False
        self._bytes -= sent
        if sent < len(piece.data):
            self._waiting[0] = by, Piece(piece.data[sent:], piece.due)
            return False
        self._waiting.popleft()
        return True

    def _sent(self, data: bytes) -> int:
        """How many bytes the sink took; where it is full, it is waited for."""
        try:
            sent = self._sink.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._ended(End.RESET)
            return 0
        if sent < len(data):
            self._writes = True
            self._loop.add_writer(self._sink, self._writable)
        return sent

    def _writable(self) -> None:
        self._loop.remove_writer(self._sink)
        self._writes = False
        self._flush()

    def _end(self, end: End) -> None:
        if end in (End.FIN, End.HALF):
            try:
                self._sink.shutdown(socket.SHUT_WR)
            except OSError:
                end = End.RESET
        self._muted = self._muted or end is End.HALF
        if end is not End.HALF:
            self._ended(end)

    def _wake(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._flush)

    def _settle(self) -> None:
        """Reads while there is room for what is read, and nothing stands against it."""
        room = self._bytes < MOST_BYTES and len(self._waiting) < MOST_PIECES and not self._writes
        wanted = room and not (self._frozen or self._closed or self._drained)
        if wanted != self._reads:
            self._reads = wanted
            if wanted:
                self._loop.add_reader(self._source, self._readable)
            else:
                self._loop.remove_reader(self._source)
        if self._closed:
            self._waiting.clear()
            if self._timer is not None:
                self._timer.cancel()
            if self._writes:
                self._writes = False
                self._loop.remove_writer(self._sink)
