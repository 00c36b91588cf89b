"""`CircuitBreaker`: reads stop waiting for a shard that has stopped answering; one read probes it occasionally."""

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
from labkit.shards.base import Aggregates, Ask, Describes, Listens, Selects, Shard, ShardFailure
from labkit.shards.failures import classify
from labkit.shards.secrets import Secrets, sent_to

__all__ = ["SILENCE", "CircuitBreaker"]

SILENCE = 0.25
"""Fraction of the longest reader timeout without any answer after which a shard with enough waiting reads gets no
more."""
TURNS = 3
"""Turns of the event loop before a silence counts: this process may have had no CPU, and answers may be waiting."""


class CircuitBreaker(Shard):
    """Wraps a shard: `CircuitBreaker(PostgresShard(…))`. While the circuit is open, reads fail at once.

    Closed, reads pass. It opens after `timeouts` consecutive timeouts, or earlier if `waiting` reads are in flight and
    none was answered for `SILENCE` of the longest reader timeout. Open, a read fails with `Status.UNREACHABLE`,
    "circuit open: " and the cause. After `pause` seconds one read passes as a probe while the others go on failing: an
    answer closes the circuit, a timeout opens it for another `pause`, and if the probe's caller leaves, the next read
    becomes the probe.

    Before a silence counts, the event loop processes what arrived while this process had no CPU.

    An answer is rows, or any failure of the shard but a timeout, since only waiting costs. An answer to any read closes
    the circuit, even to one sent before it opened. A timeout counts only if no read was answered while it waited: busy
    is not silent.

    Reads of all threads and event loops count together; a forked child begins with a closed circuit.
    Nothing runs in the background. Notifications of the source (`listen`) are passed on unchanged.
    Raises `UsageError` if the source is not a shard, or for a number that is not positive.
    Source of the pattern: M. Nygard, "Release It!", chapter "Stability Patterns", "Circuit Breaker".
    """

    def __init__(self, source: Shard, *, timeouts: int = 3, pause: float = 1.0, waiting: int = 10) -> None:
        if not isinstance(source, Shard):
            raise UsageError(f"{source!r} is not a source of rows (read, prepare, aclose)")
        self._source = source
        self._timeouts = _count("timeouts", timeouts)
        self._waiting = _count("waiting", waiting)
        self._pause = positive_seconds(pause, "pause")
        self._silence = math.inf
        """Seconds without an answer after which at most `waiting` reads wait; inf until `prepare` is called."""
        self._reads: dict[_Read, None] = {}
        """The reads in flight, oldest first."""
        self._answered = -math.inf
        """When the last answer arrived."""
        self._in_a_row = 0
        """Timeouts since then."""
        self._cause: str | None = None
        """Why the circuit is open; None while it is closed."""
        self._probe: _Read | None = None
        self._next_probe = math.inf
        """While the circuit is open: when the next read may pass."""
        self._lock = threading.RLock()
        """All threads share this state. Held for a few steps, never while waiting."""
        forget_in_children(self)
        if isinstance(source, Listens):
            self.listen = source.listen
        if isinstance(source, Describes):
            self.describe = source.describe
        if isinstance(source, Selects):
            self.selects = source.selects
        if isinstance(source, Aggregates):
            self.aggregates = source.aggregates

    def __repr__(self) -> str:
        return f"CircuitBreaker({self._source!r})"

    @property
    def secrets(self) -> Secrets:
        """The source's."""
        return sent_to(self._source)

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """ "half-open" is an open circuit with a probe in flight; without reads it stays "open"."""
        if self._cause is None:
            return "closed"
        return "open" if self._probe is None else "half-open"

    def prepare(self, timeout: float) -> None:
        """See `Shard.prepare`; the longest timeout of its readers determines how long a silence is too long."""
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
        """In a forked child: drops the parent's reads, and closes the circuit."""
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
            # As if it were to time out, so that a source that outlives its deadline does not block the next probe.
            self._next_probe = max(now, ask.deadline) + self._pause
        self._reads[read] = None
        return read

    def _is_silent(self, now: float) -> bool:
        """Whether enough reads are waiting, and for long enough without any answer."""
        if len(self._reads) < self._waiting:
            return False
        for read in [read for read in self._reads if not read.loop.is_running()]:
            self._reads.pop(read, None)  # its loop was stopped before it ended
        if len(self._reads) < self._waiting:
            return False
        oldest = next(iter(self._reads))
        return now - max(oldest.asked, self._answered) >= self._silence

    def _failed(self, read: _Read, error: BaseException, now: float) -> None:
        """Updates the circuit after a read that ended without rows."""
        if isinstance(error, asyncio.CancelledError) and now >= read.deadline:
            error = TimeoutError()  # the reader gave up
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
        """A read that its caller cancelled, or that failed on this side, says nothing about the shard."""
        if read is self._probe:
            self._probe, self._next_probe = None, now

    def _timed_out(self, read: _Read, cause: str, now: float) -> None:
        """A probe that times out reopens the circuit; other reads open it once enough timed out, if it is not open."""
        if self._answered > read.asked:
            return
        self._in_a_row += 1
        why = self._cause
        if self._in_a_row >= self._timeouts:
            # Not the current count: the text stays the same for as long as the circuit is open.
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
