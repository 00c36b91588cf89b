"""What a fault is, what it needs of a shard in order to act on it, and how it is put right again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any, ClassVar, Protocol, TypeAlias

from labkit.report import Status

__all__ = ["BACKENDS", "Fault", "Fires", "Row", "Sample", "Target", "Undo"]

BACKENDS = ("postgres", "redis", "redis-cluster")
Row: TypeAlias = tuple[Any, Any]
"""(id, name)."""


class Fires:
    """When a fault counts as having fired, as `Fault.fires` says."""

    AT_START = "start"
    """Once it has started: that was checked then, as a killed server's port refuses."""
    ON_DATA = "data"
    """When bytes of a client meet it."""
    ON_CONNECT = "connect"
    """When a client connects meanwhile; connections that were there before go on."""


class Undo:
    """Steps that put right what a fault did, the last one first. A step that fails stays, and may be tried again.

    A fault pushes each step *before* it does what the step undoes, so that one which fails half-way is undone too;
    so a step must do no harm where there is nothing to undo.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], Awaitable[Any]]] = []

    def push(self, step: Callable[[], Awaitable[Any]]) -> None:
        """`step` is awaited before those that were pushed earlier."""
        self._steps.append(step)

    async def run(self) -> None:
        """Awaits all steps; raises what one raises, and begins with that one when it is called again."""
        while self._steps:
            await self._steps[-1]()
            self._steps.pop()


class Target(Protocol):
    """A running shard as faults see it; a lab's launcher provides it."""

    @property
    def backend(self) -> str:
        """ "postgres", "redis" or "redis-cluster"."""

    @property
    def table(self) -> str:
        """The name of its table, or Redis key."""

    @property
    def foreign(self) -> Sequence[int]:
        """Some IDs that it does not own."""

    @property
    def layers(self) -> frozenset[str]:
        """The layers on which faults can act on it: those of `Fault.layer`."""

    def random(self, fault: Fault) -> Random:
        """Numbers for that fault on this shard: the same for the same seed of the lab."""

    async def kill(self) -> None:
        """Ends the server at once, by SIGKILL; returns when it is gone and its port refuses."""

    async def restart(self) -> None:
        """Starts a server that was killed, on the same data and address; returns when it answers."""

    async def pause(self) -> None:
        """Freezes the server: it keeps its connections and answers nothing."""

    async def resume(self) -> None:
        """Lets a frozen server go on."""

    async def disconnect(self) -> None:
        """Takes the container off its network; returns when its port refuses."""

    async def reconnect(self) -> None:
        """Puts it back on, under the same address."""

    async def lose_identity(self) -> None:
        """Kills a node of a cluster and starts it at its address with a new node ID and without its data; returns when
        the others have found that out.
        """

    async def regain_identity(self) -> None:
        """Has it back as it was; returns when the others have found that out."""

    async def overtaken(self) -> None:
        """Returns when the cluster agrees that another node owns the shard's slots; `LabError` if never."""

    @property
    def replicated(self) -> bool:
        """Whether another server takes over when this one is gone."""

    async def blackhole(self, on: bool) -> None:
        """Drops everything that is sent to the shard's address, new connections included; or stops that."""

    async def down(self, on: bool) -> None:
        """Ends the connections to the shard's address and refuses new ones; or stops that."""

    async def toxic(self, toxic: Any) -> Callable[[], Awaitable[Any]]:
        """Hands a `Toxic` to the proxy, which applies it once all faults of this start are ready; returns its undo."""

    async def admin(self) -> Any:
        """The administrator's connection, past the proxy, in the driver's own terms: asyncpg's, or redis.asyncio's.

        It was opened before the fault, and is kept until all faults of the shard are undone; another one is opened
        where it broke. The lab closes it.
        """

    async def connect(self) -> Any:
        """One more connection like that; the caller closes it."""

    async def answers(self) -> None:
        """Returns when the server itself answers, past the proxy; `LabError` where it does not."""

    async def rows(self) -> list[Row]:
        """What the server holds now, ascending by id."""

    async def stand_in(self, rows: Iterable[Row]) -> None:
        """Puts the table aside as it is and has one of these rows in its place, whatever they are."""

    async def bring_back(self) -> None:
        """Undoes `stand_in`; does nothing where the table is in its place."""


@dataclass(frozen=True)
class Sample:
    """A fault as the failure matrix tries it, and how a correct read may then report the shard."""

    fault: Fault
    cold: frozenset[Status]
    """By a reader that has no connection yet. OK means: with every row that the shard holds at that moment."""
    warm: frozenset[Status]
    """By a reader whose connections were there before the fault."""

    @classmethod
    def of(cls, fault: Fault, cold: Iterable[Status], warm: Iterable[Status] | None = None) -> Sample:
        """`warm=None`: as `cold`."""
        return cls(fault, frozenset(cold), frozenset(cold if warm is None else warm))


class Fault(ABC):
    """One thing that can go wrong. Stateless: the same object may act on several shards, also at once.

    Subclasses are frozen dataclasses; their fields are the parameters.
    """

    layer: ClassVar[str]
    """Where it acts: "network", "process", "container", "server" or "data"."""
    backends: ClassVar[tuple[str, ...]] = BACKENDS
    """The kinds of server it can act on."""
    fires: ClassVar[str] = Fires.AT_START
    """When it counts as having fired, see `Fires`; one that never does is reported."""
    volatile: ClassVar[bool] = False
    """Whether it is gone when the server's process is another one."""
    needs_replica: ClassVar[bool] = False
    """Whether it takes a server that another one stands in for."""
    restarts: ClassVar[bool] = False
    """Whether the server's process is another one when the fault was undone."""

    def __init_subclass__(cls) -> None:
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = _shown  # type: ignore[method-assign] # before dataclass would make one

    @abstractmethod
    async def start(self, target: Target, undo: Undo) -> None:
        """Makes it so, and returns when it is; `undo` gets the steps that put it right."""

    @classmethod
    @abstractmethod
    def samples(cls, timeout: float) -> Sequence[Sample]:
        """How the failure matrix tries it, with reads that have `timeout` seconds."""


def _shown(fault: Any) -> str:
    """As one would write it: without what is left at its default, the first parameter without its name."""
    own_first = sorted(fields(fault), key=lambda field: field.kw_only is True)
    given = [(i, field.name, getattr(fault, field.name), field.default) for i, field in enumerate(own_first)]
    words = [f"{value!r}" if i == 0 else f"{name}={value!r}" for i, name, value, default in given if value != default]
    return f"{type(fault).__name__}({', '.join(words)})"
