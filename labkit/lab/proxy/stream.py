"""One direction of a connection: reads, lets the toxics plan, sends what is due.

Without toxics there is neither a task nor a copy: one callback reads and sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from labkit.faults.network.pipe import End, Piece, Pipe
from labkit.lab.proxy.postgres_wire import Prepared
from labkit.lab.proxy.trace import Span

__all__ = ["ProxyStream"]

Cause: TypeAlias = tuple[int, float]
"""Of an end that a toxic planned: the toxic's number, and when the end is due if nothing delays it; else `NO_TOXIC`."""
NO_TOXIC: Cause = (0, 0.0)

CHUNK = 65536
"""Bytes read at a time without toxics."""
PLANNED = 16384
"""Bytes read at a time with toxics, of which one may make a piece of each byte."""
MOST_BYTES, MOST_PIECES = 4 * 1024 * 1024, 4096
"""What toxics may hold back before reading stops, as with a TCP window; without toxics it is one chunk."""


class ProxyStream:
    """Calls `ended(end)` for each end that has passed, except `End.HALF`, and notes what comes in and goes out, and the
    statements that are `prepared` by it.
    """

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        ended: Callable[[End], None],
        came: Span,
        went: Span,
        prepared: Prepared | None = None,
    ) -> None:
        self._source, self._sink, self._ended, self._came, self._went = source, sink, ended, came, went
        self._prepared = prepared
        self._loop = asyncio.get_running_loop()
        self._chain: dict[int, Pipe] = {}
        self._waiting: deque[tuple[Piece, Cause]] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.received = self.sent = 0
        """Bytes."""
        self.over = False
        """Whether the sink got the end, or is gone."""
        self._reads = self._writes = self._frozen = self._muted = self._drained = self._closed = False

    @property
    def passed(self) -> int:
        """Bytes received plus bytes sent, to see whether any move."""
        return self.received + self.sent

    def close(self) -> None:
        """Stops using its sockets."""
        self._closed = True
        self._settle()

    def freeze(self, on: bool) -> None:
        """Stops reading and sending; or resumes."""
        self._frozen = on
        self._settle()
        if not on:
            self._flush()

    def attach(self, number: int, pipe: Pipe) -> None:
        """Adds a toxic behind the existing ones; it also plans what they hold back."""
        held, self._waiting, self._bytes = self._waiting, deque(), 0
        self._chain[number] = pipe
        for piece in pipe.opened(self._loop.time()):
            self._wait(piece, (number, piece.due) if piece.end else NO_TOXIC)
        for piece, cause in held:
            self._through([number], piece, cause)
        self._flush()

    def detach(self, number: int) -> None:
        """Removes a toxic: waiting bytes are sent at once. Ends that this toxic planned are cancelled, those of others
        keep their time.
        """
        if number not in self._chain:
            return
        self._release(number)
        self._plan(self._chain[number].removed(self._loop.time()), behind=number)
        del self._chain[number]
        self._flush()

    def replace(self, number: int, pipe: Pipe | None, order: Sequence[int]) -> None:
        """Puts an updated toxic, None if it no longer acts here, in the place of the one before: at its place among all
        toxics, in `order`. As in `detach`, waiting bytes are sent and planned ends are cancelled; no connection is
        closed for what it lost.
        """
        before = self._chain.pop(number, None)
        if before is None and pipe is None:
            return
        self._release(number)
        behind = [one for one in order[order.index(number) + 1 :] if one in self._chain]
        if before is not None:
            if pipe is not None:
                pipe.takes_over(before)
            for piece in before.removed(self._loop.time()):
                if not piece.end:  # what it held back
                    self._through(behind, piece, NO_TOXIC)
        if pipe is not None:
            chain = {**self._chain, number: pipe}
            self._chain = {one: chain[one] for one in order if one in chain}
            for piece in pipe.opened(self._loop.time()):
                self._through(behind, piece, (number, piece.due) if piece.end else NO_TOXIC)
        self._flush()

    def _release(self, number: int) -> None:
        """Sends waiting bytes at once, and cancels the ends that this toxic planned."""
        now = self._loop.time()
        self._waiting = deque(
            (Piece(piece.data, min(piece.due, max(now, cause[1])), piece.end), cause)
            for piece, cause in self._waiting
            if cause[0] != number
        )

    def _readable(self) -> None:
        try:
            data = self._source.recv(PLANNED if self._chain else CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, end = b"", End.RESET
        else:
            end = End.FIN
        self.received += len(data)
        self._came.note(len(data), self._loop.time())
        if self._prepared is not None and Prepared.MARK.search(data, 0, Prepared.SEARCHED):
            self._prepared.read(data)
        if not data:
            self._drained = True
            self._settle()
            # A reset, too, comes after the bytes sent before it.
            self._plan([Piece(b"", self._loop.time(), end)])
        elif self._chain or self._waiting:
            self._plan([Piece(data, self._loop.time())])
        elif not self._muted:
            sent = self._write(data)
            if sent == len(data) or self._closed:
                return
            self._wait(Piece(data[sent:], 0.0), NO_TOXIC)
        self._flush()

    def _plan(self, pieces: Iterable[Piece], behind: int = 0) -> None:
        """Passes pieces through the toxics behind one in the chain (0: through all)."""
        names = list(self._chain)
        names = names[names.index(behind) + 1 :] if behind else names
        for piece in pieces:
            self._through(names, piece, NO_TOXIC)

    def _through(self, names: list[int], piece: Piece, cause: Cause) -> None:
        if not names:
            self._wait(piece, cause)
            return
        pipe = self._chain[names[0]]
        for planned in pipe.ended(piece) if piece.end else pipe.data(piece):
            ending = planned.end and not piece.end  # this toxic made the end, due a certain time after the piece
            own = (names[0], self._loop.time() + planned.due - piece.due) if ending else cause
            self._through(names[1:], planned, own)

    def _wait(self, piece: Piece, cause: Cause) -> None:
        self._waiting.append((piece, cause))
        self._bytes += len(piece.data)

    def _flush(self) -> None:
        """Sends everything that is due, and schedules the rest."""
        while self._waiting and not (self._frozen or self._closed):
            piece, cause = self._waiting[0]
            if piece.due > self._loop.time():
                self._wake(piece.due)
                break
            if self._writes and not piece.end:
                break
            if not self._send(piece, cause):
                break
        self._settle()

    def _send(self, piece: Piece, cause: Cause) -> bool:
        """Sends the first piece; whether all of it was sent."""
        if piece.end:
            self._waiting.popleft()
            if cause[0] in self._chain:
                self._chain[cause[0]].end_sent()
            self._end(piece.end)
            return True
        sent = len(piece.data) if self._muted else self._write(piece.data)
        if self._closed:
            return False
        self._bytes -= sent
        if sent < len(piece.data):
            self._waiting[0] = Piece(piece.data[sent:], piece.due), cause
            return False
        self._waiting.popleft()
        return True

    def _write(self, data: bytes) -> int:
        """Writes to the sink; returns how many bytes it took. `_writable` is called once a full one has room.

        A sink that is gone swallows everything: its last bytes may still have to pass in the other direction.
        """
        try:
            sent = self._sink.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._muted = True
            self._end(End.FIN)
            return len(data)
        self.sent += sent
        if sent:
            self._went.note(sent, self._loop.time())
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
            with contextlib.suppress(OSError):  # the sink is gone
                self._sink.shutdown(socket.SHUT_WR)
        if end is End.HALF:
            self._muted = True
        else:
            self.over = True
            self._ended(end)

    def _wake(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._flush)

    def _settle(self) -> None:
        """Reads while there is room for more and nothing forbids it."""
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
