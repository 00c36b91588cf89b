"""Decides whose answer counts: that of the node that another node names as the owner of the slot.

A master that was frozen during its failover does not know of it when it resumes, and would answer from old data. So its
own claim is not enough: while it is asked for rows, other nodes are asked for their slot maps. Nodes are told apart by
ID, since one node may be reached at two addresses. If the others are silent or gone, the owner is asked again a little
later: by then it has heard of a new owner, if there is one.

Other nodes may be behind too. So the first ones are not believed until the rest had a moment to answer; of two named
owners the one with the higher configuration epoch wins, as among the nodes themselves; and without epochs all are asked
again, and must agree. A slot may move back during a query, so a node that redirected is asked again if it is named
again. Source: Redis Cluster specification, "Hash slots configuration propagation".
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from labkit._tasks import AbandonedTasks
from labkit.report import Status
from labkit.shards.base import ShardFailure
from labkit.shards.redis.cluster.slots import Address, Node, SlotMap
from labkit.shards.secrets import NONE, Secrets

__all__ = ["CONFIRM_WAIT", "LETTING_GO", "REDIRECTIONS", "WITNESSES", "Moved", "OwnershipQuery"]

T = TypeVar("T")

CONFIRM_WAIT = 0.25
"""Seconds that other nodes get to confirm an answer, or to agree. A node that was frozen contacts all others within a
tenth of a second, and so hears of a new owner: Redis runs `clusterCron` ten times a second."""
LETTING_GO = 0.01
"""Seconds that cancelled tasks get to end."""
MOMENT = 0.005
"""Seconds, at least, that the rest get to contradict a confirmed answer; more if the confirmation took longer."""
WITNESSES = 5
"""Most nodes that are asked for their slot map."""
REDIRECTIONS = 5
"""How often, at most, a node that keeps redirecting is asked. Source: the default of Lettuce and Jedis."""


class Moved(Exception):
    """A node says that another one, at `target`, owns the slot; None if it does not know the address."""

    def __init__(self, target: Address | None) -> None:
        super().__init__("another node owns the slot")
        self.target = target


@dataclass(frozen=True)
class _Said:
    """What a node last said about the slot."""

    by: str | None
    """The ID of the node that said it; None if unknown, so that it may be any node."""
    owner: Node | None
    lost: str = ""
    """Why there is no owner."""


class OwnershipQuery(Generic[T]):
    """One query about a slot. `ask(address)` sends it to a node and may raise `Moved`; `view(address)` returns a node's
    slot map. Both must give up at the deadline. Only addresses for which `may_dial` is true are used. Tasks still
    running at the end are left to `abandoned`. `secrets` are masked in names that nodes give.
    """

    def __init__(
        self,
        slot: int,
        ask: Callable[[Address], Coroutine[Any, Any, T]],
        view: Callable[[Address], Coroutine[Any, Any, SlotMap]],
        may_dial: Callable[[Address], bool],
        abandoned: AbandonedTasks,
        secrets: Secrets = NONE,
    ) -> None:
        self._slot, self._abandoned, self._secrets = slot, abandoned, secrets
        self._ask, self._view, self._may_dial = ask, view, may_dial
        self._asked: dict[Address, asyncio.Task[T]] = {}
        self._viewed: dict[Address, asyncio.Task[SlotMap]] = {}
        self._witnesses: set[Address] = set()
        self._again: dict[Address, asyncio.Task[SlotMap]] | None = None
        """The repeated requests for slot maps, once they are due."""
        self._answers: dict[Address, T] = {}
        self._failed: dict[Address, BaseException] = {}
        self._redirected: Counter[Address] = Counter()
        self._silent: list[BaseException] = []
        self._said: dict[Address, _Said] = {}
        self._twice: set[Address] = set()
        """The nodes that claimed ownership twice."""
        self._epochs: dict[str, int] = {}
        self._early_until = 0.0
        self.map: SlotMap | None = None
        """The last slot map received."""

    async def run(
        self, believed: Address | None, witnesses: Iterable[Address], failed: Exception | None = None
    ) -> tuple[Address, T]:
        """The owner and its answer. If `believed` has already `failed`, it is not asked again.

        Raises what the owner raises, or a `ShardFailure` if there is no owner.
        """
        clock = asyncio.get_running_loop().time
        started, ends = clock(), None
        try:
            if believed is not None and failed is not None:
                self._note_failure(believed, failed)
            elif believed is not None:
                self._begin(believed)
            self._request_views(witnesses)
            while (owner := self._owner()) is None or self._is_early(owner, clock() - started):
                if ends is None and self._is_unsettled():
                    ends = clock() + CONFIRM_WAIT
                left = None if ends is None else max(0.0, ends - clock())
                await (self._next(left) if owner is None else _first(self._views(), self._early_until - clock()))
                self._note()
            return owner, self._answers[owner]
        finally:
            await self._abandoned.let_all_go(self._tasks(), LETTING_GO)

    def _is_early(self, owner: Address, elapsed: float) -> bool:
        """Whether other nodes, which may know better, have not yet had as long as the first ones took."""
        now = asyncio.get_running_loop().time()
        if self._early_until == 0.0:
            self._early_until = now + min(CONFIRM_WAIT, max(MOMENT, elapsed))
        return now < self._early_until and bool(self._views()) and owner not in self._twice

    async def _next(self, left: float | None) -> None:
        """Waits for news, for `left` seconds at most; raises the failure if no more can come."""
        pending = [task for task in self._tasks() if not task.done()]
        plausible = any(not self._is_contradicted(one) for one in self._answers)
        if left and (pending or self._answers):
            # With no requests pending there is still the repeated request, when it is due.
            await (_first(pending, left) if pending else asyncio.sleep(left))
        elif left == 0.0 and self._answers and self._again is None:
            looks = dict.fromkeys([*self._answers, *self._said])
            self._again = {address: asyncio.create_task(self._view(address)) for address in looks}
        elif pending and (left is None or plausible or self._is_asked() or self._again):
            await _first(pending, None)
        else:
            raise self._reason()

    def _owner(self) -> Address | None:
        """The node whose answer counts, if there is one yet."""
        for address in self._answers:
            if self._is_named(address):
                if not self._is_contradicted(address, by_itself=False):
                    return address
            elif (address in self._twice or self._is_alone(address)) and not self._is_contradicted(address):
                return address
        return None

    def _node(self, address: Address) -> Node:
        """The node at that address, as far as known."""
        owners = [said.owner for said in self._said.values() if said.owner]
        known = [*owners, *(self.map.nodes if self.map else ())]
        return next((node for node in known if node.address == address), Node("", *address))

    def _is_named(self, address: Address) -> bool:
        """Whether another node names it as the owner."""
        named = (said for said in self._said.values() if said.owner and said.owner.address == address)
        return any(said.by is not None and said.by != said.owner.id for said in named if said.owner)

    def _is_alone(self, address: Address) -> bool:
        """Whether the cluster has no other node, as far as known."""
        ids = {node.id for node in self.map.nodes} if self.map else {self._node(address).id}
        said = {one.by for one in self._said.values()}
        silent = bool(self._views() or self._silent or set(self._failed) - {address})
        return len(ids) == 1 and said <= ids and not silent and self._node(address).id in ids

    def _is_contradicted(self, address: Address, by_itself: bool = True) -> bool:
        """Whether a node names another owner, or none; without `by_itself`, claims for oneself do not count."""
        mine = self._node(address)
        return any(self._contradicts(said, mine, by_itself) for said in self._said.values())

    def _contradicts(self, said: _Said, mine: Node, by_itself: bool) -> bool:
        if said.owner is None:
            return by_itself and said.by != mine.id
        if _same(said.owner, mine):
            return False
        theirs, ours = self._epochs.get(said.owner.id), self._epochs.get(mine.id)
        if theirs is not None and ours is not None and theirs != ours:
            return theirs > ours
        if self._denies(said.owner):
            return False
        return by_itself or said.by != said.owner.id

    def _denies(self, node: Node) -> bool:
        """Whether a node itself names another owner."""
        of_itself = [said for at, said in self._said.items() if at == node.address or said.by == node.id]
        return any(said.owner is not None and not _same(said.owner, node) for said in of_itself)

    def _views(self) -> list[asyncio.Task[SlotMap]]:
        """The pending requests for slot maps."""
        return [task for task in (*self._viewed.values(), *(self._again or {}).values()) if not task.done()]

    def _is_unsettled(self) -> bool:
        """Whether there is something to confirm, so that the clock runs. A failure of the believed owner alone does not
        count: the other nodes must name the new owner, however slow they are.
        """
        asking = any(not task.done() for task in self._asked.values())
        return bool(self._answers or self._lost() or (not asking and any(map(self._is_named, self._failed))))

    def _is_asked(self) -> bool:
        """Whether a node that another one names as the owner is being asked: it may take until the deadline."""
        return any(self._is_named(address) and not task.done() for address, task in self._asked.items())

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return [*self._asked.values(), *self._viewed.values(), *(self._again or {}).values()]

    def _begin(self, address: Address) -> None:
        """Asks a node for rows, unless it was already asked; one that only redirected is asked again."""
        if isinstance(self._failed.get(address), Moved) and self._redirected[address] < REDIRECTIONS:
            for outdated in (self._failed, self._asked, self._said):
                outdated.pop(address, None)
        if address in self._asked or address in self._failed:
            return
        if address in self._viewed:
            self._viewed[address].cancel()  # one connection per node is enough, and its own claim counts little
        self._asked[address] = asyncio.create_task(self._ask(address))

    def _request_views(self, addresses: Iterable[Address]) -> None:
        """Asks nodes for their slot maps, each once, `WITNESSES` at most."""
        for address in addresses:
            if len(self._witnesses) < WITNESSES and address not in self._witnesses and address not in self._asked:
                self._witnesses.add(address)
                self._viewed[address] = asyncio.create_task(self._view(address))

    def _note(self) -> None:
        """Records the answers that have arrived."""
        for address, view in list(self._viewed.items()):
            if view.done():
                del self._viewed[address]
                self._note_view(address, view)
        for address, task in list(self._asked.items()):
            is_news = self._asked.get(address) is task and address not in self._answers and address not in self._failed
            if is_news and task.done():
                self._note_answer(address, task)
        for address, view in list((self._again or {}).items()):
            if view.done() and self._again:
                del self._again[address]
                self._note_view(address, view)
                said = self._said.get(address)
                if said and said.owner and said.by == said.owner.id and not view.cancelled() and not view.exception():
                    self._twice.add(address)

    def _note_view(self, by: Address, view: asyncio.Task[SlotMap]) -> None:
        if view.cancelled():
            return
        if (error := view.exception()) is not None:
            self._silent.append(error)
            return
        seen = view.result()
        if not seen.spans:
            # A node that has just lost its identity knows no other node, so its map says nothing.
            self._silent.append(ShardFailure(Status.UNREACHABLE, self._unserved()))
            return
        self.map = seen
        self._epochs |= {node: max(epoch, self._epochs.get(node, 0)) for node, epoch in seen.epochs.items()}
        me = seen.me or next((node.id for node in seen.nodes if node.address == by), None)
        owner = seen.owner(self._slot)
        if owner is None:
            self._said[by] = _Said(me, None, self._unserved())
        elif owner.address is None:
            self._said[by] = _Said(me, None, self._no_address(owner.id))
        else:
            self._name(owner, by, me)
        self._request_views(node.address for node in seen.nodes if node.address and self._may_dial(node.address))

    def _note_answer(self, address: Address, task: asyncio.Task[T]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._answers[address] = task.result()
        else:
            self._note_failure(address, error)

    def _note_failure(self, address: Address, error: BaseException) -> None:
        self._failed[address] = error
        if isinstance(error, Moved):
            self._redirected[address] += 1
            sender = self._node(address).id or f"{address[0]}:{address[1]}"  # no node redirects to itself
            if error.target is None:
                self._said[address] = _Said(sender, None, self._no_address(""))
            else:
                self._name(self._node(error.target), address, sender)

    def _lost(self) -> list[str]:
        """The reasons of nodes that know no owner."""
        return [said.lost for said in self._said.values() if said.lost]

    def _no_address(self, node_id: str) -> str:
        whose = f"node {self._secrets.masked(node_id[:8])}, which owns" if node_id else "the node that owns"
        return f"the cluster has lost the address of {whose} slot {self._slot} (port 0)"

    def _name(self, owner: Node, at: Address, by: str | None) -> None:
        """Records that the node `at` that address, with the ID `by`, names the owner."""
        address = (owner.host, owner.port)
        if not self._may_dial(address):
            where = self._secrets.masked(f"{owner.host}:{owner.port}")
            cause = f"the cluster names a node at {where}, which may not be dialled"
            self._silent.append(ShardFailure(Status.UNREACHABLE, cause))
            return
        self._begin(address)
        self._said[at] = _Said(by, owner)

    def _reason(self) -> BaseException:
        """Why there is no answer, once no node has more to say."""
        if lost := self._lost():
            return ShardFailure(Status.UNREACHABLE, lost[0])
        for address, error in self._failed.items():
            if (
                self._is_named(address)
                and not isinstance(error, Moved)
                and not self._is_contradicted(address, by_itself=False)
            ):
                return error
        if self._answers and any(map(self._is_contradicted, self._answers)):
            return self._disagreement()
        for _, error in sorted(self._failed.items(), key=lambda item: not self._is_named(item[0])):
            if not isinstance(error, Moved):
                return error
        if self._failed and not self._silent:
            return self._disagreement()
        late = [error for error in self._silent if isinstance(error, TimeoutError)]
        return (late or self._silent or [ShardFailure(Status.UNREACHABLE, "no node of the cluster is known")])[0]

    def _unserved(self) -> str:
        return f"no node of the cluster serves slot {self._slot}"

    def _disagreement(self) -> ShardFailure:
        return ShardFailure(Status.REJECTED, f"the nodes of the cluster disagree about the owner of slot {self._slot}")


def _same(one: Node, other: Node) -> bool:
    """Whether both are the same node: by ID if both IDs are known, else by address."""
    return one.id == other.id if one.id and other.id else one.address == other.address


async def _first(tasks: Iterable[asyncio.Task[Any]], seconds: float | None) -> None:
    """Waits until one of them is done, for `seconds` at most."""
    await asyncio.wait(tasks, timeout=None if seconds is None else max(0.0, seconds), return_when=FIRST_COMPLETED)
