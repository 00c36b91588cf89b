"""`RedisClusterShard`: rows of one slot of a Redis Cluster, read from the master that owns it.

One pool per node instead of a `RedisCluster` client, in which a node that hangs delays reads from live nodes (measured:
up to 1.8 s). Source of the protocol: Redis Cluster specification (MOVED, ASK, CLUSTER SLOTS).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa
from redis.exceptions import AskError, MovedError

from labkit._loops import PerLoop
from labkit._tasks import AbandonedTasks
from labkit.answer import Answer
from labkit.errors import UsageError
from labkit.report import Status
from labkit.shards.base import Ask, Shard, ShardFailure
from labkit.shards.limiter import ANSWER_LIMIT, Limiter, checked_limit
from labkit.shards.redis.changes import listen_on
from labkit.shards.redis.cluster.ownership import LETTING_GO, Moved, OwnershipQuery
from labkit.shards.redis.cluster.slots import Address, SlotMap, key_slot, listed, redirect_target
from labkit.shards.redis.layouts import layout as layout_named
from labkit.shards.redis.layouts.base import head
from labkit.shards.redis.server import Commands, RedisServer, command, commands
from labkit.shards.redis.url import cluster_addresses, cluster_options, secrets_of, shown
from labkit.tables import InvalidAnswer

__all__ = ["TRUST", "RedisClusterShard"]

TRUST = 1.0
"""Seconds for which a confirmed owner is trusted before another node is asked again. A failover takes longer: at least
`cluster-node-timeout`, 15 s by default, which must not be set below this."""
SAME_MOMENT = 0.05
"""Seconds within which reads share one search for the owner."""


class RedisClusterShard(Shard):
    """Reads the rows that a Redis Cluster stores under `key` in a `layout`: see `RedisShard`.

    `url` names some start-up nodes, `redis+cluster://[:password@]host:port,host:port`; others are discovered. With
    `only_these` no other node is ever dialled. Redirects are followed within the deadline. An answer counts once a
    second node confirms that the answering one owns the slot (checked again every `TRUST` seconds), so that a master
    that was frozen during a failover does not answer from old data. A node at port 0, a slot without an owner,
    CLUSTERDOWN, LOADING: only this shard fails. What is checked is which node answers, not how fresh its rows are:
    replication is asynchronous, and a promoted replica may lack writes that its master acknowledged.

    In the layouts "strings" and "hashes" `key` must hold a hash tag, so that all its keys are in one slot. Raises
    `UsageError` for a URL of another kind, such a key without a tag, an unknown layout, a schema as `RedisShard` does,
    and a `pool_size` below 1.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        layout: str = "sorted-set",
        schema: pa.Schema | None = None,
        pool_size: int = 10,
        only_these: bool = False,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        self._starts = cluster_addresses(url)
        self.url = url
        self.key = key
        self.layout = layout_named(layout, schema)
        self.slot = key_slot(key)
        if not self.layout.can.moment and key_slot(f"{key}:1") != self.slot:
            raise UsageError(
                f"key {key!r} has no hash tag, so its rows are spread over the cluster: write {key}:{{tag}}"
            )
        self._only_these = only_these
        self._options = cluster_options(url)
        self.secrets = secrets_of(self._options)
        """What was sent to nodes and must not be shown."""
        self._limit = checked_limit(answer_limit)
        self._timeout = 0.0
        self._closed = False
        self._limiter = Limiter(pool_size)
        self._servers: dict[Address, RedisServer] = {}
        self._here = PerLoop(partial(_Known, self._starts), _Known.aclose, _Known.abandon)

    def __repr__(self) -> str:
        return f"RedisClusterShard({shown(self.url)!r}, key={self.key!r})"

    def prepare(self, timeout: float) -> None:
        """The longest timeout of its readers bounds how long `listen` waits for a node."""
        self._timeout = max(self._timeout, timeout)

    async def read(self, ask: Ask) -> Answer:
        """The rows in the window, ascending by id. See `Shard.read`."""
        async with self._limiter.one(ask.deadline):
            rows: Answer = await self._ask_owner(partial(self._rows, ask), ask.deadline)
        return head(rows, ask.limit)

    async def describe(self, deadline: float) -> pa.Schema:
        """The declared columns. See `Describes.describe`."""
        return self.layout.schema

    async def listen(self, notify: Callable[[], None], beat: float) -> None:
        """Hears of changes from the owner; fails once another node owns the slot, so that the watcher listens there."""
        patience = self._timeout or None
        owner = await self._locate()
        # A subscribed connection cannot be used for reads.
        async with self._server(owner).connected(self._deadline(), keep=lambda: False) as (connection, limit):
            limit.reschedule(None)
            hearing = listen_on(connection, self.layout.subscription(self.key, 0), notify, beat, patience)
            tasks = [asyncio.create_task(hearing), asyncio.create_task(self._while_owner(owner, beat))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                done.pop().result()
            finally:
                await self._here.here().abandoned.let_all_go(tasks, LETTING_GO)

    async def aclose(self) -> None:
        """Closes every socket; sends nothing, so it does not wait for a server that does not answer."""
        self._closed = True
        await self._here.aclose()
        for server in list(self._servers.values()):
            await server.aclose()

    async def _ask_owner(self, ask: Callable[[Address], Any], deadline: float | None) -> Any:
        """The answer of the slot's owner, which is asked directly while it is trusted."""
        here, started = self._here.here(), asyncio.get_running_loop().time()
        if started >= here.sure_until and (failure := await here.join_search(started, deadline)) is not None:
            raise failure
        believed, failed = here.owner, None
        if believed is not None and started < here.sure_until:
            try:
                return await ask(believed)
            except (Moved, ShardFailure) as error:
                failed = error  # there is time to ask the other nodes
            except BaseException:
                here.sure_until = float("-inf")
                raise
        return await self._find_owner(ask, deadline, believed, failed)

    async def _find_owner(
        self, ask: Callable[[Address], Any], deadline: float | None, believed: Address | None, failed: Exception | None
    ) -> Any:
        """Finds the owner and returns its answer."""
        loop, here = asyncio.get_running_loop(), self._here.here()
        here.sure_until = float("-inf")
        started, outcome = here.search = loop.time(), loop.create_future()
        query = OwnershipQuery[Any](
            self.slot, ask, partial(self._view, deadline), self._may_dial, here.abandoned, self.secrets
        )
        others = [address for address in here.known if address != believed]
        try:
            here.owner, answer = await query.run(believed, others, failed)
            here.sure_until = started + TRUST
        except ShardFailure as error:
            outcome.set_result(error)
            raise
        finally:
            self._learn(query.map)
            if not outcome.done():
                outcome.set_result(None)
            await self._forget_others()
        return answer

    async def _rows(self, ask: Ask, address: Address, asking: bool = False) -> Answer:
        """The rows of one node; with `asking`, of a node that is importing the slot."""
        keep = partial(self._is_kept, address)
        async with self._server(address).connected(ask.deadline, keep=keep) as (connection, _):
            run = (_Asking if asking else Commands)(connection)
            try:
                return await self.layout.read(run, self.key, ask)
            except MovedError as moved:
                raise Moved(redirect_target(moved, address)) from None
            except AskError as error:
                elsewhere = redirect_target(error, address)
        if not self.layout.can.moment:
            cause = f"slot {self.slot} is migrating, so its keys are on two nodes"
            raise ShardFailure(Status.REJECTED, cause)
        if asking or elsewhere is None or not self._may_dial(elsewhere):
            raise ShardFailure(Status.REJECTED, f"slot {self.slot} is migrating to a node that cannot be asked")
        return await self._rows(ask, elsewhere, asking=True)

    async def _view(self, deadline: float | None, address: Address) -> SlotMap:
        async with self._server(address).connected(deadline, keep=lambda: False) as (connection, _):
            slots, nodes = await commands(connection, ("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"))
            if isinstance(slots, Exception):
                raise slots
            try:
                seen = SlotMap.parse(slots, address)
            except ValueError as error:
                raise InvalidAnswer(str(error)) from None
        with suppress(AttributeError, IndexError, ValueError):  # CLUSTER NODES may be forbidden: then without epochs
            seen = seen.with_epochs(listed(nodes.decode()))
        return seen

    async def _locate(self) -> Address:
        """The current owner's address."""
        deadline = self._deadline()

        async def here(address: Address) -> Address:
            keep = partial(self._is_kept, address)
            async with self._server(address).connected(deadline, keep=keep) as (connection, _):
                try:
                    await command(connection, "EXISTS", self.key)
                except MovedError as moved:
                    raise Moved(redirect_target(moved, address)) from None
                except AskError:
                    pass  # it is the owner, and no longer has this key
            return address

        found: Address = await self._ask_owner(here, deadline)
        return found

    async def _while_owner(self, owner: Address, beat: float) -> None:
        while await self._locate() == owner:
            await asyncio.sleep(beat)
        raise ShardFailure(Status.DISCONNECTED, f"slot {self.slot} moved to another node")

    def _deadline(self) -> float | None:
        return asyncio.get_running_loop().time() + self._timeout if self._timeout else None

    def _server(self, address: Address) -> RedisServer:
        if address not in self._servers:
            where = {"host": address[0], "port": address[1]}
            self._servers.setdefault(address, RedisServer({**self._options, **where}, self._limit))
        return self._servers[address]

    def _is_kept(self, address: Address) -> bool:
        """Whether to keep connections to that node: only to the owner, or to any while the owner is being searched."""
        if self._closed:
            return False
        here = self._here.here()
        return address == here.owner or here.is_looking

    async def _forget_others(self) -> None:
        for address, server in list(self._servers.items()):
            if not self._is_kept(address):
                await server.close_idle()

    def _may_dial(self, address: Address) -> bool:
        return not self._only_these or address in self._starts

    def _learn(self, seen: SlotMap | None) -> None:
        """Updates the nodes to ask next time: those in the slot map, and the start-up nodes."""
        named = [node.address for node in seen.nodes if node.address and self._may_dial(node.address)] if seen else []
        if named:
            self._here.here().known = tuple(dict.fromkeys([*named, *self._starts]))


class _Known:
    """What the reads of one event loop know about the cluster."""

    def __init__(self, starts: tuple[Address, ...]) -> None:
        self.known = starts
        self.owner: Address | None = None
        self.sure_until = float("-inf")
        self.abandoned = AbandonedTasks()
        self.search: tuple[float, asyncio.Future[ShardFailure | None] | None] = (float("-inf"), None)
        """When the last search for the owner began, and its outcome."""

    @property
    def is_looking(self) -> bool:
        """Whether a search for the owner is running."""
        _, outcome = self.search
        return outcome is not None and not outcome.done()

    async def join_search(self, now: float, deadline: float | None) -> ShardFailure | None:
        """Waits for a search that another read has just begun, if any; returns its failure."""
        started, outcome = self.search
        if outcome is None or outcome.done() or now - started > SAME_MOMENT:
            return None
        async with asyncio.timeout_at(deadline):
            failure: ShardFailure | None = await asyncio.shield(outcome)
        return failure

    async def aclose(self) -> None:
        await self.abandoned.aclose(LETTING_GO)

    def abandon(self) -> None:
        """Nothing to do: the loop of its tasks is closed or belongs to another process."""


class _Asking(Commands):
    """Commands to a node that is importing the slot."""

    async def __call__(self, *words: Any) -> Any:
        await super().__call__("ASKING")
        return await super().__call__(*words)

    async def many(self, questions: Sequence[tuple[Any, ...]]) -> list[Any]:
        asking = ("ASKING",)
        answers = await super().many([words for question in questions for words in (asking, question)])
        return answers[1::2]
