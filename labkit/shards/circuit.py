"""`CircuitBreaker`: a shard that stopped answering is not waited for by everybody, and is tried again by one read."""

from __future__ import annotations

import asyncio
import math
import threading
from dataclasses import dataclass
from typing import Literal

from labkit._checks import positive_seconds
from labkit._loops import forget_in_children
from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.report import Status
from labkit.shards.base import Ask, Listens, Shard, ShardFailure
from labkit.shards.failures import classify
from labkit.shards.secrets import Secrets, sent_to

__all__ = ["SILENCE", "CircuitBreaker"]

SILENCE = 0.25
"""The part of the longest reader timeout after which a shard that answers nobody is not given more reads to wait."""
TURNS = 3
"""Turns of the event loop before a silence is believed: this process may have had no processor, and answers wait."""


class CircuitBreaker:
    """Wraps a shard: `CircuitBreaker(PostgresShard(…))`. While the circuit is open, reads fail at once.

    Closed, reads pass. It opens after `timeouts` reads that timed out with no answer between, and also before that
    when `waiting` reads are in flight and none was answered for `SILENCE` of the longest reader timeout. Open, a read
    fails with `Status.UNREACHABLE`, "circuit open: " and the cause. `pause` seconds later one read passes as a
    probe and the others go on failing: an answer closes the circuit, a timeout opens it for another `pause`, and a
    probe whose caller leaves makes room for the next one.

    Before a silence is believed the event loop hears what came while this process had no processor.

    An answer is rows or any failure of the shard's but a timeout, since only waiting costs; that of any read closes the
    circuit, also of one asked before it opened. A timeout counts only if no read was answered while it waited: a shard
    that is busy is not a shard that is silent.

    Reads of all threads and event loops count together; a forked child begins with a closed circuit.
    Nothing runs in the background. Changes that the source hears of by itself (`listen`) are passed on as they are.
    Raises `UsageError` for what is no shard, or no positive number.
    Source of the pattern: M. Nygard, "Release It!", chapter "Stability Patterns", "Circuit Breaker".
    """

    def __init__(self, source: Shard, *, timeouts: int = 3, pause: float = 1.0, waiting: int = 10) -> None:
        if not isinstance(source, Shard):
            raise UsageError(f"{source!r} is no source of rows (read, prepare, aclose)")
        self._source = source
        self._timeouts = _count("timeouts", timeouts)
        self._waiting = _count("waiting", waiting)
        self._pause = positive_seconds(pause, "pause")
        self._silence = math.inf
        """Seconds without an answer after which no more than `waiting` reads wait; inf until `prepare` told."""
        self._reads: dict[_Read, None] = {}
        """Those in flight, the oldest first."""
        self._answered = -math.inf
        """When the last answer came."""
        self._in_a_row = 0
        """Timeouts since then."""
        self._cause: str | None = None
        """Why the circuit is open; None while it is closed."""
        self._probe: _Read | None = None
        self._next_probe = math.inf
        """When the circuit is open: the time from which on the next read passes."""
        self._lock = threading.RLock()
        """What one thread learns of the shard the others know too. Held for a few steps, never while waiting."""
        forget_in_children(self)
        if isinstance(source, Listens):
            self.listen = source.listen

    def __repr__(self) -> str:
        return f"CircuitBreaker({self._source!r})"

    @property
    def secrets(self) -> Secrets:
        """The source's."""
        return sent_to(self._source)

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """ "half-open" is an open circuit with a probe under way; it stays "open" until a read comes to be one."""
        if self._cause is None:
            return "closed"
        return "open" if self._probe is None else "half-open"

    def prepare(self, timeout: float) -> None:
        """See `Shard.prepare`; the longest timeout of its readers says how long a silence is too long."""
        longest = SILENCE * timeout
        self._silence = longest if math.isinf(self._silence) else max(self._silence, longest)
        self._source.prepare(timeout)

    async def read(self, ask: Ask) -> Answer:
        """The source's answer; while the circuit is open `ShardFailure` at once. See `Shard.read`."""
        loop = asyncio.get_running_loop()
        with self._lock:
            suspect = self._cause is None and self._is_silent(loop.time())
        for _ in range(TURNS if suspect else 0):
            await asyncio.sleep(0)
        with self._lock:
            read = self._admit(ask, loop)
        try:
            rows = await self._source.read(ask)
        except BaseException as error:
            with self._lock:
                self._reads.pop(read, None)
                self._failed(read, error, loop.time())
            raise
        with self._lock:
            self._reads.pop(read, None)
            self._close(loop.time())
        return rows

    async def aclose(self) -> None:
        """Closes the source. See `Shard.aclose`."""
        await self._source.aclose()

    def forget(self) -> None:
        """In a forked child: what reads of the parent have met is not known here, and the circuit is closed."""
        self._lock = threading.RLock()  # another thread may have held it
        self._reads, self._in_a_row, self._answered = {}, 0, -math.inf
        self._cause = self._probe = None

    def _admit(self, ask: Ask, loop: asyncio.AbstractEventLoop) -> _Read:
        """The read, noted as in flight; `ShardFailure` where the circuit is open."""
        now = loop.time()
        read = _Read(now, ask.deadline, loop)
        if self._cause is None and self._is_silent(now):
            self._open(f"{self._waiting} reads wait and none was answered", now)
        if self._cause is not None:
            if now < self._next_probe:
                raise ShardFailure(Status.UNREACHABLE, f"circuit open: {self._cause}")
            self._probe = read
            # As if it were to time out, so that a source which outlives its deadline does not hold the place for ever.
            self._next_probe = max(now, ask.deadline) + self._pause
        self._reads[read] = None
        return read

    def _is_silent(self, now: float) -> bool:
        """Whether enough reads wait already on a shard that answers none of them."""
        if len(self._reads) < self._waiting:
            return False
        for read in [read for read in self._reads if not read.loop.is_running()]:
            self._reads.pop(read, None)  # its loop was stopped before it ended
        if len(self._reads) < self._waiting:
            return False
        oldest = next(iter(self._reads))
        return now - max(oldest.asked, self._answered) >= self._silence

    def _failed(self, read: _Read, error: BaseException, now: float) -> None:
        """Draws the conclusion from a read that ended without rows."""
        if isinstance(error, asyncio.CancelledError) and now >= read.deadline:
            error = TimeoutError()  # the reader gave it up
        if not isinstance(error, Exception):
            self._left(read, now)
            return
        status, cause = classify(error)
        if status is Status.TIMEOUT:
            self._timed_out(read, cause, now)
        elif status is Status.ERROR:
            self._left(read, now)
        else:
            self._close(now)

    def _left(self, read: _Read, now: float) -> None:
        """A caller that leaves early has learnt nothing of the shard, and a failure of this side's neither."""
        if read is self._probe:
            self._probe, self._next_probe = None, now

    def _timed_out(self, read: _Read, cause: str, now: float) -> None:
        """The probe opens the circuit again; others open it when they are enough, and once: not while it is open."""
        if self._answered > read.asked:
            return
        self._in_a_row += 1
        why = self._cause
        if self._in_a_row >= self._timeouts:
            # Not how often it was by now: the text stays the same for as long as the circuit is open.
            why = f"{cause} ({self._timeouts} times in a row)" if self._timeouts > 1 else cause
        if why is not None and (read is self._probe or self._cause is None):
            self._open(why, now)

    def _open(self, cause: str, now: float) -> None:
        self._cause = cause
        self._probe, self._next_probe = None, now + self._pause

    def _close(self, now: float) -> None:
        self._answered, self._in_a_row = now, 0
        self._cause = self._probe = None


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A read in flight; times on the clock of the event loop, in seconds."""

    asked: float
    deadline: float
    loop: asyncio.AbstractEventLoop


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a positive whole number, not {value!r}")
    return value
