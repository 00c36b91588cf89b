"""What a fault is, the shard as it sees it, and how it is undone."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from labkit.errors import LabError, UsageError
from labkit.report import Status

if TYPE_CHECKING:
    import pyarrow as pa

    from labkit.faults.drift import Drift

__all__ = [
    "BACKENDS",
    "Fault",
    "Fires",
    "Row",
    "Sample",
    "Target",
    "Undo",
    "UndoCommand",
    "check_seconds",
    "wait_until",
]

BACKENDS = ("postgres", "redis", "redis-cluster")
"""The kinds of server that a lab can have."""
EFFECT_TIMEOUT = 10.0
"""Seconds until what a fault does, or undoes, must be observed."""
POLL = 0.01
Row: TypeAlias = tuple[Any, Any]
"""(id, name); in a lab of another table, the key and a tuple of the other values, as the server writes them."""


class Fires:
    """When a fault counts as having fired: the values of `Fault.fires`."""

    AT_START = "start"
    """Once it has started: starting it checks its effect, such as that a killed server's port refuses."""
    ON_DATA = "data"
    """When a client's bytes meet it."""
    ON_CONNECT = "connect"
    """When a client connects while it lasts; earlier connections go on."""


class Undo:
    """Steps that undo a fault, the last one first. A step that fails stays, and can be retried.

    A fault pushes each step *before* it does what the step undoes, so that a fault which fails half-way is undone too;
    so a step must do no harm if there is nothing to undo.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], Awaitable[Any]]] = []

    def push(self, step: Callable[[], Awaitable[Any]]) -> None:
        """`step` is awaited before those pushed earlier."""
        self._steps.append(step)

    async def run(self) -> None:
        """Awaits all steps; raises what one raises, and resumes with that one when called again."""
        while self._steps:
            await self._steps[-1]()
            self._steps.pop()


@dataclass(frozen=True)
class UndoCommand:
    """What the administrator tells the server to undo a fault. It is data, so that another process can do it too."""

    words: tuple[str, ...]
    """One SQL statement, which itself does nothing if there is nothing to undo; or the words of a Redis command."""
    question: tuple[str, ...] = ()
    """Another Redis command: the first one is given only while the reply to this one holds `answer`."""
    answer: str = ""
    """A part of its reply; or the code of an error, such as BUSY."""


class Target(Protocol):
    """A running shard as faults see it."""

    @property
    def backend(self) -> str:
        """ "postgres", "redis" or "redis-cluster"."""

    @property
    def table(self) -> str:
        """The name of its table, or Redis key."""

    @property
    def user(self) -> str:
        """The user that clients are on the server; the administrator is another one."""

    @property
    def foreign(self) -> Sequence[int]:
        """Some IDs that it does not own."""

    @property
    def layers(self) -> frozenset[str]:
        """The layers on which faults can act on it: those of `Fault.layer`."""

    def random(self, fault: Fault) -> Random:
        """Random numbers for that fault on this shard: the same for the same seed of the lab."""

    async def kill(self) -> None:
        """Ends the server at once, by SIGKILL; returns when it is gone and its port refuses."""

    async def restart(self) -> None:
        """Starts a killed server, with the same data and address; returns when it answers."""

    async def pause(self) -> None:
        """Freezes the server: it keeps its connections and does not answer."""

    async def resume(self) -> None:
        """Thaws a frozen server."""

    async def disconnect(self) -> None:
        """Takes the container off its network; returns when its port refuses."""

    async def reconnect(self) -> None:
        """Puts it back on, under the same address."""

    async def lose_identity(self) -> None:
        """Kills a node of a cluster and starts it at its address with a new node ID and without its data; returns when
        the other nodes have noticed.
        """

    async def regain_identity(self) -> None:
        """Restores its old ID and data; returns when the other nodes have noticed."""

    async def overtaken(self) -> None:
        """Returns when the cluster agrees that another node owns the shard's slots; `LabError` after too long."""

    @property
    def replicated(self) -> bool:
        """Whether another server takes over when this one is gone."""

    async def blackhole(self, on: bool) -> None:
        """Drops everything sent to the shard's address, new connections included; or stops that."""

    async def down(self, on: bool) -> None:
        """Ends the connections to the shard's address and refuses new ones; or stops that."""

    async def toxic(self, toxic: Any) -> Callable[[], Awaitable[Any]]:
        """Hands a `Toxic` to the proxy, which applies it with the other faults of this start; returns its undo."""

    async def admin(self) -> Any:
        """The administrator's connection, past the proxy: an asyncpg connection, or a client of redis.asyncio.

        It is kept until all faults of the shard are undone, and reopened if it broke. The lab closes it.
        """

    async def connect(self) -> Any:
        """Another such connection; the caller closes it."""

    async def promise(self, fault: Fault, command: UndoCommand) -> Callable[[], Awaitable[Any]]:
        """The step that undoes by `command` what `fault` is about to do.

        The command outlives this process if the server does: it is then on disk before this returns.
        """

    async def answers(self) -> None:
        """Returns when the server itself answers, past the proxy; `LabError` if it does not."""

    async def rows(self) -> list[Row]:
        """The rows that the server holds now, ascending by id."""

    async def stand_in(self, rows: Iterable[Row]) -> None:
        """Moves the table aside untouched and puts one with these rows in its place, valid or not."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the lab's table as reads return them, the key first."""

    async def drift(self, drift: Drift) -> None:
        """Moves the table aside untouched and puts a copy with other columns in its place."""

    async def bring_back(self) -> None:
        """Undoes `stand_in` and `drift`; does nothing if the table is in its place."""


@dataclass(frozen=True)
class Sample:
    """A fault as the failure matrix tries it, and the statuses that a correct read may then report for the shard."""

    fault: Fault
    cold: frozenset[Status]
    """By a reader without connections. OK means: with every row that the shard holds at that moment."""
    warm: frozenset[Status]
    """By a reader whose connections are older than the fault."""

    @classmethod
    def of(cls, fault: Fault, cold: Iterable[Status], warm: Iterable[Status] | None = None) -> Sample:
        """`warm=None`: as `cold`."""
        return cls(fault, frozenset(cold), frozenset(cold if warm is None else warm))


class Fault(ABC):
    """One thing that can go wrong. Stateless: the same object may act on several shards, even at once.

    Subclasses are frozen dataclasses; their fields are the parameters.
    """

    layer: ClassVar[str]
    """Where it acts: "network", "process", "container", "server" or "data"."""
    backends: ClassVar[tuple[str, ...]] = BACKENDS
    """The kinds of server it can act on."""
    fires: ClassVar[str] = Fires.AT_START
    """When it counts as having fired, see `Fires`; a fault that never fired is reported."""
    volatile: ClassVar[bool] = False
    """Whether it ends with the server's process."""
    needs_replica: ClassVar[bool] = False
    """Whether it needs a server with a replica."""
    restarts: ClassVar[bool] = False
    """Whether the server has a new process once the fault is undone."""
    own_servers: ClassVar[bool] = False
    """Whether it may act inside a server that labkit did not start: whatever does not end with the fault's connections
    is undone by commands that `Target.promise` wrote down.
    """

    def __init_subclass__(cls) -> None:
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = _shown  # type: ignore[method-assign] # which keeps dataclass from making one

    @abstractmethod
    async def start(self, target: Target, undo: Undo) -> bool | None:
        """Starts the fault, and returns once it acts; pushes the steps that undo it to `undo`.

        Returns False if there was nothing to act on, such as no row to change: then it counts as never fired.
        """

    @classmethod
    @abstractmethod
    def samples(cls, timeout: float) -> Sequence[Sample]:
        """How the failure matrix tries it, with reads that have `timeout` seconds."""


def _shown(fault: Any) -> str:
    """As one would write it: parameters at their default left out, the first one without its name."""
    own_first = sorted(fields(fault), key=lambda field: field.kw_only is True)
    given = [(i, field.name, getattr(fault, field.name), field.default) for i, field in enumerate(own_first)]
    words = [f"{value!r}" if i == 0 else f"{name}={value!r}" for i, name, value, default in given if value != default]
    return f"{type(fault).__name__}({', '.join(words)})"


async def wait_until(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = EFFECT_TIMEOUT, poll: float = POLL
) -> None:
    """Polls every `poll` seconds until `condition` is true; `LabError` that names `what` after that many `seconds`."""
    clock = asyncio.get_running_loop().time
    ends = clock() + seconds
    while not await condition():
        if clock() >= ends:
            raise LabError(f"timed out after {seconds:.0f} s waiting for {what}")
        await asyncio.sleep(poll)


def check_seconds(fault: Fault, seconds: Any, most: float = math.inf) -> None:
    """`UsageError` unless `seconds` is a positive, finite number, at most `most`."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < math.inf or seconds > most:
        limit = "" if most == math.inf else f" up to {most:g}"
        raise UsageError(f"{type(fault).__name__}: seconds must be a positive number{limit}, not {seconds!r}")
