"""Whose answer counts: that of the node which another node names as the owner of the slot.

A master that was frozen and failed over knows nothing of it in the moment it goes on, and would answer from old data.
So its own word is not enough: while it is asked for rows, others are asked for their slot maps. Where those are silent
or gone, it is asked once more a little later: by then it has heard of another owner, if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from labkit.shards.base import ShardFailure
from labkit.shards.cluster.slots import Address, SlotMap
from labkit.status import Status
from labkit.strays import Strays

__all__ = ["LETTING_GO", "PATIENCE", "WITNESSES", "Inquiry", "Moved"]

T = TypeVar("T")

PATIENCE = 0.25
"""Seconds that others get to confirm an answer or to agree. A node that was frozen talks to all others again within a
tenth of a second, and so hears of a new owner: Redis runs `clusterCron` ten times a second."""
LETTING_GO = 0.01
"""Seconds that those get to end who need not answer any more."""
WITNESSES = 5
"""Nodes that are asked for their slot map at the most."""


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
        self._witnesses: set[Address] = set()
        self._second_look: tuple[Address, asyncio.Task[SlotMap]] | None = None
        self._answers: dict[Address, T] = {}
        self._failed: dict[Address, BaseException] = {}
        self._mute: list[BaseException] = []
        self._named: dict[Address, set[Address]] = {}
        """Who is named as the owner, and by whom."""
        self._confirmed: Address | None = None
        """Who said so twice."""
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
        ends: float | None = None
        try:
            if believed is not None and failed is not None:
                self._note_failure(believed, failed)
            elif believed is not None:
                self._begin(believed)
            self._look(witnesses)
            while (owner := self._owner()) is None:
                if ends is None and self._is_unsettled():
                    ends = clock() + PATIENCE
                await self._next(None if ends is None else max(0.0, ends - clock()))
                self._note()
            return owner, self._answers[owner]
        finally:
            await self._strays.let_all_go(self._tasks(), LETTING_GO)

    async def _next(self, left: float | None) -> None:
        """Returns when there is more to know, or after the `left` seconds of patience; raises where that is all."""
        pending = [task for task in self._tasks() if not task.done()]
        plausible = next((one for one in self._answers if not self._is_contradicted(one)), None)
        if left and (pending or plausible):
            # With nobody left to ask there is still the second look, in its time.
            await (_first(pending, left) if pending else asyncio.sleep(left))
        elif left == 0.0 and plausible and self._second_look is None:
            self._second_look = plausible, asyncio.create_task(self._view(plausible))
        elif pending and (left is None or plausible or self._is_asked()):
            await _first(pending, None)
        else:
            raise self._reason()

    def _owner(self) -> Address | None:
        """The node whose answer counts, once there is one."""
        for address in self._answers:
            if self._is_named(address) or address == self._confirmed or self._is_alone(address):
                return address
        return None

    def _is_named(self, address: Address) -> bool:
        """Whether another node says that it is the owner."""
        return bool(self._named.get(address, set()) - {address})

    def _is_alone(self, address: Address) -> bool:
        """Whether the cluster has no other node, as far as anybody knows."""
        known = {node.address for node in self.map.nodes} if self.map else set()
        return not (known | self._witnesses | set(self._named) | set(self._failed)) - {address}

    def _is_contradicted(self, address: Address) -> bool:
        """Whether another node says that somebody else is the owner, or nobody."""
        return bool(self._lost) or any(named != address and by - {address} for named, by in self._named.items())

    def _is_unsettled(self) -> bool:
        """Whether somebody said something that is no end of it. That who was believed to be the owner has failed is
        nothing yet: who is it now, is for others to say, however far away they are.
        """
        asking = any(not task.done() for task in self._asked.values())
        return bool(self._answers or self._lost or (not asking and any(map(self._is_named, self._failed))))

    def _is_asked(self) -> bool:
        """Whether a node that another one names as the owner is being asked: it has as long as any owner."""
        return any(self._is_named(address) and not task.done() for address, task in self._asked.items())

    def _tasks(self) -> list[asyncio.Task[Any]]:
        again = [self._second_look[1]] if self._second_look else []
        return [*self._asked.values(), *self._viewed.values(), *again]

    def _begin(self, address: Address) -> None:
        """Asks a node for rows, unless it was asked."""
        if address in self._asked or address in self._failed:
            return
        if address in self._viewed:
            self._viewed[address].cancel()  # one connection a node is enough, and its own word counts little
        self._asked[address] = asyncio.create_task(self._ask(address))

    def _look(self, addresses: Iterable[Address]) -> None:
        """Asks nodes for their slot maps, each once."""
        for address in addresses:
            if len(self._witnesses) < WITNESSES and address not in self._witnesses and address not in self._asked:
                self._witnesses.add(address)
                self._viewed[address] = asyncio.create_task(self._view(address))

    def _note(self) -> None:
        """Takes in what has come."""
        for address, view in list(self._viewed.items()):
            if view.done():
                del self._viewed[address]
                self._note_view(address, view)
        for address, task in list(self._asked.items()):
            if task.done() and address not in self._answers and address not in self._failed:
                self._note_answer(address, task)
        if self._second_look and self._second_look[1].done():
            self._note_second_look(*self._second_look)

    def _note_view(self, by: Address, view: asyncio.Task[SlotMap]) -> None:
        if view.cancelled():
            return
        if (error := view.exception()) is not None:
            self._mute.append(error)
            return
        seen = view.result()
        if not seen.spans:
            # A node that has just lost its identity knows nobody, and so can say nothing of anybody.
            self._mute.append(ShardFailure(Status.UNREACHABLE, self._nobody()))
            return
        self.map = seen
        owner = seen.owner(self._slot)
        if owner is None:
            self._lost.append(self._nobody())
        elif owner.address is None:
            self._note_lost(owner.id)
        else:
            self._name(owner.address, by)
        self._look(node.address for node in seen.nodes if node.address and self._dialled(node.address))

    def _note_second_look(self, address: Address, view: asyncio.Task[SlotMap]) -> None:
        self._note_view(address, view)
        if address in self._named.get(address, set()):
            self._confirmed = address

    def _note_answer(self, address: Address, task: asyncio.Task[T]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._answers[address] = task.result()
        else:
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

    def _reason(self) -> BaseException:
        """Why there is no answer: nobody will say any more."""
        if self._lost:
            return ShardFailure(Status.UNREACHABLE, self._lost[0])
        if self._answers and any(map(self._is_contradicted, self._answers)):
            return self._discord()
        for _, error in sorted(self._failed.items(), key=lambda item: not self._is_named(item[0])):
            if not isinstance(error, Moved):
                return error
        if self._failed and not self._mute:
            return self._discord()
        late = [error for error in self._mute if isinstance(error, TimeoutError)]
        return (late or self._mute or [ShardFailure(Status.UNREACHABLE, "no node of the cluster is known")])[0]

    def _nobody(self) -> str:
        return f"no node of the cluster serves slot {self._slot}"

    def _discord(self) -> ShardFailure:
        return ShardFailure(Status.REJECTED, f"the nodes of the cluster do not agree who owns slot {self._slot}")


async def _first(tasks: Iterable[asyncio.Task[Any]], seconds: float | None) -> None:
    """Returns when one of them is done, or after so many seconds."""
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
