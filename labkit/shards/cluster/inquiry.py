"""Whose answer counts: that of the node which another node names as the owner of the slot.

A master that was frozen and failed over knows nothing of it in the moment it goes on, and would answer from old data.
So its own word is not enough: while it is asked for rows, others are asked for their slot maps. Nobody waits for those
that are silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from labkit.shards.base import ShardFailure
from labkit.shards.cluster.slots import Address, SlotMap
from labkit.status import Status
from labkit.strays import Strays

__all__ = ["GRACE", "PATIENCE", "Inquiry", "Moved"]

T = TypeVar("T")

GRACE = 0.05
"""Seconds that an answer which nobody contradicts waits for a witness. Where all others are frozen, it counts then."""
PATIENCE = 0.25
"""Seconds that nodes get to agree, where one failed or they contradict each other, before the shard has failed."""
LETTING_GO = 0.01
"""Seconds that those get to end who need not answer any more."""


class Moved(Exception):
    """A node says that another one owns the slot: `target`, None where it knows no address of that."""

    def __init__(self, target: Address | None) -> None:
        super().__init__(target)
        self.target = target


class Inquiry(Generic[T]):
    """One question about a slot. `ask(address)` puts it to a node, and may raise `Moved`; `view(address)` is how a node
    sees the cluster. Both give up at the deadline by themselves. An address that is not `dialled` is never asked. What
    is still asked in the end is left to `strays`.
    """

    def __init__(
        self,
        slot: int,
        ask: Callable[[Address], Coroutine[Any, Any, T]],
        view: Callable[[Address], Coroutine[Any, Any, SlotMap]],
        dialled: Callable[[Address], bool],
        strays: Strays,
    ) -> None:
        self._slot, self._strays = slot, strays
        self._ask, self._view, self._dialled = ask, view, dialled
        self._asked: dict[Address, asyncio.Task[T]] = {}
        self._viewed: dict[Address, asyncio.Task[SlotMap]] = {}
        self._answers: dict[Address, T] = {}
        self._failed: dict[Address, BaseException] = {}
        self._mute: list[BaseException] = []
        self._named: dict[Address, set[Address]] = {}
        """Who is named as the owner, and by whom."""
        self._lost: list[str] = []
        """What nodes say that know no owner."""
        self.map: SlotMap | None = None
        """The slot map that was seen last."""

    async def run(
        self, believed: Address | None, witnesses: Iterable[Address], failed: Exception | None = None
    ) -> tuple[Address, T]:
        """The owner and its answer. `believed` was asked already where it `failed`, and is not asked again.

        Raises what the owner raises, or a `ShardFailure` where there is none.
        """
        clock = asyncio.get_running_loop().time
        since: float | None = None
        try:
            for witness in witnesses:
                self._viewed[witness] = asyncio.create_task(self._view(witness))
            if believed is not None and failed is not None:
                self._note_failure(believed, failed)
            elif believed is not None:
                self._begin(believed)
            while True:
                confirmed = next((one for one in self._answers if self._witnessed(one)), None)
                if confirmed is not None:
                    return confirmed, self._answers[confirmed]
                pending, left = self._pending(), None
                if (most := self._most()) is not None:
                    since = clock() if since is None else since
                    left = since + most - clock()
                if not pending or (left is not None and left <= 0):
                    return self._unwitnessed()
                await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                self._note()
        finally:
            await self._strays.let_all_go([*self._asked.values(), *self._viewed.values()], LETTING_GO)

    def _most(self) -> float | None:
        """Seconds that others get to say more, from when somebody said something; None is as long as it takes."""
        if self._uncontradicted():
            return GRACE
        asking = any(not task.done() for task in self._asked.values())
        return PATIENCE if self._answers or self._lost or (self._failed and not asking) else None

    def _begin(self, address: Address) -> None:
        if address in self._asked or address in self._failed:
            return
        if address in self._viewed and not self._viewed[address].done():
            self._viewed[address].cancel()  # one connection a node is enough, and its own word counts little
        self._asked[address] = asyncio.create_task(self._ask(address))

    def _pending(self) -> list[asyncio.Task[Any]]:
        return [task for task in [*self._asked.values(), *self._viewed.values()] if not task.done()]

    def _note(self) -> None:
        """Takes in what has come."""
        for address, view in list(self._viewed.items()):
            if view.done():
                del self._viewed[address]
                self._note_view(address, view)
        for address, task in list(self._asked.items()):
            if task.done() and address not in self._answers and address not in self._failed:
                self._note_answer(address, task)

    def _note_view(self, by: Address, view: asyncio.Task[SlotMap]) -> None:
        if view.cancelled():
            return
        if (error := view.exception()) is not None:
            self._mute.append(error)
            return
        self.map = view.result()
        owner = self.map.owner(self._slot)
        if owner is None:
            self._lost.append(f"no node of the cluster serves slot {self._slot}")
        elif owner.address is None:
            self._note_lost(owner.id)
        else:
            self._name(owner.address, by)

    def _note_answer(self, address: Address, task: asyncio.Task[T]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._answers[address] = task.result()
            return
        self._note_failure(address, error)

    def _note_failure(self, address: Address, error: BaseException) -> None:
        self._failed[address] = error
        if isinstance(error, Moved):
            if error.target is None:
                self._note_lost("")
            else:
                self._name(error.target, address)

    def _note_lost(self, node_id: str) -> None:
        whose = f"node {node_id[:8]}, which owns" if node_id else "the node that owns"
        self._lost.append(f"the cluster has lost the address of {whose} slot {self._slot} (port 0)")

    def _name(self, owner: Address, by: Address) -> None:
        if not self._dialled(owner):
            cause = f"the cluster names a node at {owner[0]}:{owner[1]}, which is none of those that may be asked"
            self._mute.append(ShardFailure(Status.UNREACHABLE, cause))
            return
        self._named.setdefault(owner, set()).add(by)
        self._begin(owner)

    def _witnessed(self, address: Address) -> bool:
        return bool(self._named.get(address, set()) - {address})

    def _uncontradicted(self) -> list[Address]:
        if self._lost:
            return []
        return [one for one in self._answers if not any(self._contradicts(other, one) for other in self._named)]

    def _contradicts(self, named: Address, one: Address) -> bool:
        return named != one and bool(self._named[named] - {one})

    def _unwitnessed(self) -> tuple[Address, T]:
        """Nobody else will say anything: the answer there is, if nobody contradicts it; else why there is none."""
        for address in self._uncontradicted():
            return address, self._answers[address]
        if self._lost:
            raise ShardFailure(Status.UNREACHABLE, self._lost[0])
        if self._answers:
            raise self._discord()
        for _, error in sorted(self._failed.items(), key=lambda item: not self._witnessed(item[0])):
            if not isinstance(error, Moved):
                raise error
        if self._failed and not self._mute:
            raise self._discord()
        late = [error for error in self._mute if isinstance(error, TimeoutError)]
        raise (late or self._mute or [ShardFailure(Status.UNREACHABLE, "no node of the cluster is known")])[0]

    def _discord(self) -> ShardFailure:
        return ShardFailure(Status.REJECTED, f"the nodes of the cluster do not agree who owns slot {self._slot}")
