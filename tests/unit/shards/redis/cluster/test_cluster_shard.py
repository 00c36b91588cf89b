"""`RedisClusterShard` on scripted nodes: which it queries, which it believes, what it makes of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis import exceptions as rx
from redis.asyncio.connection import Connection as RedisConnection

from labkit.errors import UsageError
from labkit.report import Status
from labkit.shards.base import Ask
from labkit.shards.redis import member
from labkit.shards.redis.cluster.ownership import CONFIRM_WAIT, REDIRECTIONS
from labkit.shards.redis.cluster.shard import TRUST, RedisClusterShard
from labkit.shards.redis.cluster.slots import SLOTS, key_slot
from labkit.shards.redis.server import RedisServer
from tests.support.mocks import HANG, SECRET, report_of, seconds_for, serving, silent, turn_until

pytestmark = pytest.mark.usefixtures("no_task_left")

KEY = "data_2:{2}"
SLOT = key_slot(KEY)
ONE, TWO, THREE, FOUR = (("127.0.0.1", 7000 + i) for i in (1, 2, 3, 4))
URL = "redis+cluster://" + ",".join(f"{host}:{port}" for host, port in (ONE, TWO, THREE))
OLD, NEW = [(1, "old")], [(1, "new")]
DEAD = rx.ConnectionError("Error 111 connecting to 127.0.0.1:7002.")


def slots(owner: tuple[Any, Any] | None) -> list[Any]:
    """The answer to CLUSTER SLOTS (RESP2) if that node owns the slot; None: no node does."""
    elsewhere = [[0, SLOT - 1, _node(ONE)], [SLOT + 1, SLOTS - 1, _node(THREE)]]
    return elsewhere if owner is None else [*elsewhere, [SLOT, SLOT, _node(owner)]]


def _node(address: tuple[Any, Any]) -> list[Any]:
    host, port = address
    return [host.encode() if isinstance(host, str) else host, port, f"id-of-{port}".encode()]


def listing(me: tuple[str, int], **epochs: int) -> bytes:
    """The answer to CLUSTER NODES there: four masters with those epochs (`of_7001=3`), otherwise 1."""
    lines = []
    for host, port in (ONE, TWO, THREE, FOUR):
        flags = "myself,master" if (host, port) == me else "master"
        lines.append(f"id-of-{port} {host}:{port}@1{port} {flags} - 0 0 {epochs.get(f'of_{port}', 1)} connected")
    return "\n".join(lines).encode()


class Node:
    """A node with scripted answers: a reply, an exception, or `HANG`. It records its commands."""

    def __init__(self, view: Any = None, rows: Any = HANG, on_connect: Any = None) -> None:
        self.view, self.rows, self.on_connect = view, rows, on_connect
        self.asked: list[str] = []
        self.listing: Any = rx.NoPermissionError("no permissions to run the 'cluster|nodes' command")
        self.asking = False
        self.ready: asyncio.Event | None = None
        """For a distant node: set when its answers arrive."""
        self.made: list[Connection] = []

    @property
    def open(self) -> int:
        """The number of open connections to it."""
        return sum(connection.is_open for connection in self.made)

    def connection(self) -> Connection:
        self.made.append(Connection(self))
        return self.made[-1]


class Connection:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.answers: list[Any] = []
        self.is_open = False
        self.lost: Exception | None = None

    async def open(self) -> None:
        await replied(self.node.on_connect)
        self.is_open = True

    @property
    def is_quiet(self) -> bool:
        return self.is_open

    async def is_usable(self) -> bool:
        return self.is_open

    def allow(self, limit: int) -> None: ...

    async def send_command(self, *words: Any) -> None:
        if words[1:] != ("NODES",):  # sent along with SLOTS
            self.node.asked.append(str(words[0]))
        if self.node.ready:
            await self.node.ready.wait()
        if words[1:] == ("NODES",):
            self.answers.append(self.node.listing)
        elif words[0] == "CLUSTER":
            self.answers.append(self.node.view)
        elif words[0] == "ASKING":
            self.node.asking = True
            self.answers.append(b"OK")
        else:
            self.answers.append(self.node.rows)

    async def read_response(self) -> Any:
        answer = self.answers.pop(0)
        try:
            return await replied(answer)
        except asyncio.CancelledError:
            self.is_open = False  # as redis-py does
            raise

    def hang_up(self) -> None:
        self.is_open = False


async def replied(answer: Any) -> Any:
    if answer is HANG:
        await asyncio.get_running_loop().create_future()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def held(rows: list[tuple[int, str]]) -> list[bytes]:
    return [member(*row) for row in rows]


def a_shard(nodes: dict[tuple[str, int], Node], url: str = URL, **options: Any) -> RedisClusterShard:
    shard = RedisClusterShard(url, KEY, **options)
    shard.prepare(0.3)
    for address, node in nodes.items():
        server = RedisServer({})
        server._made = node.connection  # type: ignore[assignment,method-assign]
        shard._servers[address] = server
    return shard


async def rows_of(shard: RedisClusterShard, seconds: float = 0.3) -> Any:
    deadline = asyncio.get_running_loop().time() + seconds
    return await shard.read(Ask(((1, 9),), 1, 9, deadline))


def three(**changed: Node) -> dict[tuple[str, int], Node]:
    """Three masters that agree: the second owns the slot and holds the new row."""
    nodes = {"one": Node(slots(TWO)), "two": Node(slots(TWO), held(NEW)), "three": Node(slots(TWO)), **changed}
    return dict(zip((ONE, TWO, THREE), nodes.values(), strict=True))


async def test_the_owner_is_found_and_read():
    """A cold read takes the slot map from a node and the rows from the owner."""
    nodes = three()
    assert await rows_of(a_shard(nodes)) == NEW
    assert "ZRANGEBYSCORE" not in nodes[ONE].asked + nodes[THREE].asked


async def test_as_long_as_the_owner_is_sure_nobody_else_is_asked():
    """While the owner is trusted, a read is one command to it and queries no other node."""
    nodes = three()
    shard = a_shard(nodes)
    await rows_of(shard)
    before = {address: len(node.asked) for address, node in nodes.items()}
    assert await rows_of(shard) == NEW
    assert {address: len(node.asked) - before[address] for address, node in nodes.items()} == {ONE: 0, TWO: 1, THREE: 0}


@pytest.mark.parametrize("silent", ["one", "three"])
async def test_a_node_that_is_silent_is_not_waited_for(silent):
    """A silent node delays neither finding the owner nor reading it."""
    shard = a_shard(three(**{silent: Node(HANG, HANG)}))
    started = asyncio.get_running_loop().time()
    assert await rows_of(shard, 5.0) == NEW
    assert asyncio.get_running_loop().time() - started < 1.0


GONE = {"silent": lambda: Node(HANG), "refused": lambda: Node(on_connect=DEAD)}


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
@pytest.mark.parametrize("warm", [False, True])
async def test_where_nobody_else_answers_the_owner_must_say_so_twice(gone, warm):
    """With two of three masters down, the third is read if it still claims the slot a little later."""
    nodes = {ONE: gone(), TWO: Node(slots(TWO), held(NEW)), THREE: gone()}
    shard = a_shard(nodes)
    shard._here.here().owner = TWO if warm else None
    clock = asyncio.get_running_loop().time
    started = clock()
    assert await rows_of(shard, 5.0) == NEW
    assert clock() - started >= CONFIRM_WAIT
    assert nodes[TWO].asked.count("CLUSTER") == (1 if warm else 2)


@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
async def test_one_that_has_heard_of_another_owner_by_then_is_not_believed(gone):
    """An old master answers first and nobody contradicts it; asked again, it names the new owner, which is read."""
    nodes = {ONE: gone(), TWO: Node(slots(FOUR), held(OLD)), THREE: gone(), FOUR: Node(HANG, held(NEW))}
    nodes[TWO].listing = listing(TWO)
    shard = a_shard(nodes)
    shard._here.here().owner = TWO
    assert await rows_of(shard, 5.0) == NEW


async def test_the_only_node_there_is_is_believed():
    """A single node is believed at once: there can be no witness."""
    only = Node([[0, SLOTS - 1, _node(ONE)]], held(NEW))
    clock = asyncio.get_running_loop().time
    started = clock()
    assert await rows_of(a_shard({ONE: only}, f"redis+cluster://{ONE[0]}:{ONE[1]}")) == NEW
    assert clock() - started < CONFIRM_WAIT


async def test_a_witness_is_found_where_the_url_names_none():
    """If the URL has one node, the nodes it names are queried too, and reveal that it is an old master."""
    old = Node(slots(TWO), held(OLD))
    nodes = {TWO: old, ONE: Node(slots(FOUR)), THREE: Node(slots(FOUR)), FOUR: Node(slots(FOUR), held(NEW))}
    assert await rows_of(a_shard(nodes, f"redis+cluster://{TWO[0]}:{TWO[1]}")) == NEW


async def test_reads_of_the_same_moment_look_for_the_owner_once():
    """Sixty concurrent cold reads look up the owner once."""
    nodes = three()
    shard = a_shard(nodes, pool_size=60)
    assert await asyncio.gather(*(rows_of(shard) for _ in range(60))) == [NEW] * 60
    assert nodes[ONE].asked.count("CLUSTER") == nodes[THREE].asked.count("CLUSTER") == 1


async def test_reads_of_the_same_moment_share_its_failure():
    """A failed lookup is reported by each of the concurrent reads."""
    nodes = three(two=Node(on_connect=DEAD))
    shard = a_shard(nodes, pool_size=9)
    failures = await asyncio.gather(*(rows_of(shard) for _ in range(9)), return_exceptions=True)
    assert [str(failure) for failure in failures] == ["connection refused"] * 9
    assert nodes[ONE].asked.count("CLUSTER") == 1


async def test_a_master_that_was_failed_over_is_not_believed():
    """A frozen master that resumes with old data is not believed: another node names the new owner."""
    nodes = three(one=Node(slots(THREE)), two=Node(slots(TWO), held(OLD)), three=Node(slots(THREE), held(NEW)))
    shard = a_shard(nodes)
    shard._here.here().owner = TWO
    assert await rows_of(shard) == NEW
    assert shard._here.here().owner == THREE


async def test_two_that_contradict_each_other_are_both_not_believed():
    """If two nodes each claim the slot and no other answers, the shard fails in time."""
    nodes = three(one=Node(HANG), two=Node(slots(TWO), held(OLD)), three=Node(slots(THREE), held(NEW)))
    report = await report_of(a_shard(nodes), seconds=1.0)
    assert report.status is Status.REJECTED
    assert f"disagree about the owner of slot {SLOT}" in report.error


LOCAL = ("localhost", TWO[1])


async def test_a_node_is_no_witness_of_itself_under_another_name():
    """One node at two addresses is one witness: it has to confirm itself later, when it has heard of the new owner."""
    old = Node(slots(TWO), held(OLD))
    old.listing = listing(TWO)
    nodes = {LOCAL: old, TWO: old, ONE: Node(HANG), THREE: Node(HANG, held(NEW))}
    asyncio.get_running_loop().call_later(CONFIRM_WAIT / 2, setattr, old, "view", slots(THREE))
    shard = a_shard(nodes, "redis+cluster://localhost:7002,127.0.0.1:7002")
    assert await rows_of(shard, 5.0) == NEW


async def test_the_only_node_there_is_may_have_two_names():
    """A single node with two addresses is believed at once: there can be no witness."""
    only = Node([[0, SLOTS - 1, _node(TWO)]], held(NEW))
    only.listing = listing(TWO)
    clock = asyncio.get_running_loop().time
    started = clock()
    shard = a_shard({LOCAL: only, TWO: only}, "redis+cluster://localhost:7002,127.0.0.1:7002")
    assert await rows_of(shard) == NEW
    assert clock() - started < CONFIRM_WAIT


@pytest.mark.parametrize("behind", [(ONE, TWO), (ONE, TWO, THREE)])
async def test_of_two_owners_the_one_with_the_higher_epoch_is_right(behind):
    """One witness that knows of the failover, with its higher epoch, outweighs any number that do not."""
    nodes = {address: Node(slots(TWO if address in behind else FOUR)) for address in (ONE, TWO, THREE)}
    five = ("127.0.0.1", 7005)
    nodes |= {FOUR: Node(slots(FOUR), held(NEW)), five: Node(slots(FOUR))}
    nodes[TWO].rows = held(OLD)
    for address, node in nodes.items():
        node.listing = listing(address) if address in behind else listing(address, of_7004=7)
    shard = a_shard(nodes, "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in range(7001, 7006)))
    shard._here.here().owner = TWO
    assert await rows_of(shard, 5.0) == NEW


@pytest.mark.parametrize(("epochs", "status"), [(True, Status.TIMEOUT), (False, Status.REJECTED)])
async def test_a_new_owner_that_cannot_be_reached_is_missing(epochs, status):
    """A silent new owner makes the shard fail, even if the old one answers and an outdated node confirms it."""
    nodes = {ONE: Node(slots(TWO)), TWO: Node(slots(TWO), held(OLD)), THREE: Node(slots(FOUR)), FOUR: Node(HANG, HANG)}
    if epochs:
        for address, node in nodes.items():
            node.listing = listing(address) if node.view == slots(TWO) else listing(address, of_7004=7)
    assert (await report_of(a_shard(nodes), seconds=1.0)).status is status


async def test_those_that_are_behind_may_come_round():
    """Without epochs, nodes that disagree are asked again, and may agree by then."""
    nodes = three(one=Node(slots(TWO)), two=Node(slots(TWO), held(OLD)), three=Node(slots(THREE), held(NEW)))
    nodes[FOUR] = Node(slots(THREE))
    loop = asyncio.get_running_loop()
    for address in (ONE, TWO):
        loop.call_later(CONFIRM_WAIT / 2, setattr, nodes[address], "view", slots(THREE))
    shard = a_shard(nodes, URL + f",{FOUR[0]}:{FOUR[1]}")
    assert await rows_of(shard, 5.0) == NEW


async def test_an_answer_waits_a_moment_for_those_that_know_better():
    """An old owner confirmed by an outdated node is not read at once: a better answer may be a millisecond behind."""
    ready = asyncio.Event()
    nodes = three(one=Node(slots(TWO)), two=Node(slots(TWO), held(OLD)), three=Node(slots(FOUR)))
    nodes[FOUR] = Node(slots(FOUR), held(NEW))
    for address, node in nodes.items():
        node.listing = listing(address) if node.view == slots(TWO) else listing(address, of_7004=7)
    nodes[THREE].ready = ready
    asyncio.get_running_loop().call_later(0.001, ready.set)
    assert await rows_of(a_shard(nodes), 5.0) == NEW


async def test_trust_ends():
    """After `TRUST` seconds other nodes are queried again, concurrently with the read."""
    nodes = three()
    shard = a_shard(nodes)
    await rows_of(shard)
    shard._here.here().sure_until -= TRUST
    asked = len(nodes[ONE].asked)
    assert await rows_of(shard) == NEW
    assert len(nodes[ONE].asked) > asked


async def test_others_may_be_far_away():
    """If the owner is dead, distant nodes get more than `CONFIRM_WAIT` to name the new one, within the deadline."""
    ready = asyncio.Event()
    asyncio.get_running_loop().call_later(1.5 * CONFIRM_WAIT, ready.set)
    nodes = three(two=Node(on_connect=DEAD), three=Node(slots(THREE), held(NEW)))
    for address in (ONE, THREE):
        nodes[address].view, nodes[address].ready = slots(THREE), ready
    shard = a_shard(nodes)
    shard._here.here().owner = TWO
    assert await rows_of(shard, 5.0) == NEW


async def test_an_owner_that_is_named_late_has_its_time():
    """A new owner named after `CONFIRM_WAIT` is awaited too, though the old one has answered."""
    named, read = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().call_later(1.5 * CONFIRM_WAIT, named.set)
    asyncio.get_running_loop().call_later(2 * CONFIRM_WAIT, read.set)
    nodes = {ONE: Node(slots(FOUR)), TWO: Node(HANG, held(OLD)), THREE: Node(HANG), FOUR: Node(HANG, held(NEW))}
    nodes[ONE].ready, nodes[FOUR].ready = named, read
    shard = a_shard(nodes)
    shard._here.here().owner = TWO
    assert await rows_of(shard, 5.0) == NEW


MOVED = {
    "with an address": f"{SLOT} {THREE[0]}:{THREE[1]}",
    "without a host": f"{SLOT} :{THREE[1]}",
}


@pytest.mark.parametrize("words", MOVED.values(), ids=MOVED)
async def test_moved_is_followed(words):
    """MOVED slot host:port is followed within the same read; without a host it means the host that was queried."""
    nodes = three(two=Node(slots(THREE), rx.MovedError(words)), three=Node(slots(THREE), held(NEW)))
    nodes[ONE].view = slots(THREE)
    shard = a_shard(nodes)
    shard._here.here().owner, shard._here.here().sure_until = TWO, float("inf")
    assert await rows_of(shard) == NEW
    assert shard._here.here().owner == THREE


async def test_a_slot_that_moves_back_during_a_read_is_followed():
    """A node that redirected is asked again if another one redirects back to it: by then the slot may be its own."""
    moved_back = asyncio.Event()
    nodes = three(one=Node(HANG), two=Node(HANG, rx.MovedError(f"{SLOT} {THREE[0]}:{THREE[1]}")))
    nodes[THREE] = Node(HANG, rx.MovedError(f"{SLOT} {TWO[0]}:{TWO[1]}"))
    nodes[THREE].ready = moved_back
    shard = a_shard(nodes)
    shard._here.here().owner, shard._here.here().sure_until = TWO, float("inf")
    rows = asyncio.create_task(rows_of(shard, 5.0))
    await turn_until(lambda: "ZRANGEBYSCORE" in nodes[THREE].asked)
    nodes[TWO].rows = held(NEW)
    moved_back.set()
    assert await rows == NEW
    assert shard._here.here().owner == TWO


async def test_a_slot_that_moves_on_to_a_node_that_redirected_is_followed():
    """A node that was named first, and redirected, is asked again if the other one redirects to it later, and its
    first answer counts no more.
    """
    moved_on = asyncio.Event()
    nodes = three(one=Node(slots(THREE)), two=Node(HANG, rx.MovedError(f"{SLOT} {THREE[0]}:{THREE[1]}")))
    nodes[THREE] = Node(HANG, rx.MovedError(f"{SLOT} {TWO[0]}:{TWO[1]}"))
    nodes[TWO].ready = moved_on
    shard = a_shard(nodes)
    shard._here.here().owner = TWO
    rows = asyncio.create_task(rows_of(shard, 5.0))
    await turn_until(lambda: "ZRANGEBYSCORE" in nodes[THREE].asked)
    await turn_until(lambda: nodes[THREE].open == 0)
    nodes[THREE].rows = held(NEW)
    moved_on.set()
    assert await rows == NEW
    assert [nodes[node].asked.count("ZRANGEBYSCORE") for node in (TWO, THREE)] == [1, 2]


async def test_nodes_that_send_each_to_the_other_are_asked_a_few_times():
    """A circle of MOVED redirections ends after `REDIRECTIONS` queries per node."""
    nodes = three(one=Node(HANG), two=Node(HANG, rx.MovedError(f"{SLOT} {THREE[0]}:{THREE[1]}")))
    nodes[THREE] = Node(HANG, rx.MovedError(f"{SLOT} {TWO[0]}:{TWO[1]}"))
    shard = a_shard(nodes)
    shard._here.here().owner, shard._here.here().sure_until = TWO, float("inf")
    report = await report_of(shard, seconds=5.0)
    assert report.status is Status.REJECTED
    assert f"disagree about the owner of slot {SLOT}" in report.error
    times = [nodes[node].asked.count("ZRANGEBYSCORE") for node in (TWO, THREE)]
    assert max(times) == REDIRECTIONS
    assert min(times) >= REDIRECTIONS - 1


async def test_moved_to_port_0_is_a_lost_address():
    """MOVED slot :0 means that the node has lost the owner's address."""
    nodes = three(two=Node(slots(("", 0)), rx.MovedError(f"{SLOT} :0")))
    nodes[ONE].view = nodes[THREE].view = slots(("", 0))
    shard = a_shard(nodes)
    shard._here.here().owner, shard._here.here().sure_until = TWO, float("inf")
    report = await report_of(shard)
    assert report.status is Status.UNREACHABLE
    assert "(port 0)" in report.error


async def test_ask_is_followed_with_asking():
    """ASK is followed with ASKING, and does not change the owner."""
    nodes = three(two=Node(slots(TWO), rx.AskError(f"{SLOT} {THREE[0]}:{THREE[1]}")), three=Node(slots(TWO), held(NEW)))
    shard = a_shard(nodes)
    assert await rows_of(shard) == NEW
    assert nodes[THREE].asking
    assert shard._here.here().owner == TWO


async def test_rows_that_are_on_two_nodes_are_no_answer():
    """While a slot migrates, the keys of layout strings are on two nodes, so neither has a full answer."""
    nodes = three(two=Node(slots(TWO), rx.AskError(f"{SLOT} {THREE[0]}:{THREE[1]}")))
    report = await report_of(a_shard(nodes, layout="strings"))
    assert (report.status, report.error) == (
        Status.REJECTED,
        f"slot {SLOT} is migrating, so its keys are on two nodes",
    )


FAILING: dict[str, tuple[Callable[[], dict[tuple[str, int], Node]], Status, str]] = {
    "clusterdown": (
        lambda: three(two=Node(slots(TWO), rx.ClusterDownError("The cluster is down"))),
        Status.REJECTED,
        "The cluster is down",
    ),
    "loading": (
        lambda: three(two=Node(slots(TWO), rx.BusyLoadingError("Redis is loading the dataset in memory"))),
        Status.UNREACHABLE,
        "Redis is loading the dataset in memory",
    ),
    "try again": (
        lambda: three(two=Node(slots(TWO), rx.TryAgainError("Multiple keys request during rehashing of slot"))),
        Status.REJECTED,
        "Multiple keys request during rehashing of slot",
    ),
    "refused": (lambda: three(two=Node(on_connect=DEAD)), Status.UNREACHABLE, "connection refused"),
    "reset": (
        lambda: three(two=Node(slots(TWO), rx.ConnectionError("Connection closed by server."))),
        Status.DISCONNECTED,
        "Connection closed by server.",
    ),
    "frozen": (lambda: three(two=Node(HANG, HANG)), Status.TIMEOUT, "no answer before the deadline"),
    "port 0": (
        lambda: dict.fromkeys((ONE, TWO, THREE), Node(slots(("", 0)))),
        Status.UNREACHABLE,
        f"the cluster has lost the address of node id-of-0, which owns slot {SLOT} (port 0)",
    ),
    "unknown host": (
        lambda: dict.fromkeys((ONE, TWO, THREE), Node(slots(("?", 7002)))),
        Status.UNREACHABLE,
        "(port 0)",
    ),
    "nobody's slot": (
        lambda: dict.fromkeys((ONE, TWO, THREE), Node(slots(None))),
        Status.UNREACHABLE,
        f"no node of the cluster serves slot {SLOT}",
    ),
    "all dead": (
        lambda: dict.fromkeys((ONE, TWO, THREE), Node(on_connect=DEAD)),
        Status.UNREACHABLE,
        "connection refused",
    ),
    "all frozen": (
        lambda: dict.fromkeys((ONE, TWO, THREE), Node(HANG, HANG)),
        Status.TIMEOUT,
        "no answer before the deadline",
    ),
    "no cluster": (
        lambda: dict.fromkeys((ONE, TWO, THREE), Node(rx.ResponseError("This instance has cluster support disabled"))),
        Status.REJECTED,
        "This instance has cluster support disabled",
    ),
    "nonsense": (lambda: dict.fromkeys((ONE, TWO, THREE), Node([[1, 2]])), Status.INVALID, "not a slot map"),
}


@pytest.mark.parametrize(("nodes", "status", "cause"), FAILING.values(), ids=FAILING)
async def test_each_failure_has_its_status_and_cause(nodes, status, cause):
    """Each failure of a cold read has its status and cause."""
    report = await report_of(a_shard(nodes()), seconds=seconds_for(status))
    assert report.status is status
    assert cause in report.error


BY_THE_OWNER = ("clusterdown", "loading", "try again", "refused", "reset", "frozen", "all dead", "all frozen")


@pytest.mark.parametrize("name", BY_THE_OWNER)
async def test_who_is_sure_of_the_owner_reports_the_same(name):
    """A warm read reports the same, and reads the rows of the owner at most once."""
    nodes, status, cause = FAILING[name]
    scripted = nodes()
    shard = a_shard(scripted)
    shard._here.here().owner, shard._here.here().sure_until = TWO, float("inf")
    report = await report_of(shard, seconds=seconds_for(status))
    assert report.status is status
    assert cause in report.error
    assert scripted[TWO].asked.count("ZRANGEBYSCORE") <= 1


def open_to(nodes: dict[tuple[str, int], Node]) -> dict[tuple[str, int], int]:
    """The number of open connections per node, where there are any."""
    return {address: node.open for address, node in nodes.items() if node.open}


async def test_connections_are_kept_to_the_owner_alone():
    """Only connections to the owner are kept, however many nodes were queried, and also after it has changed."""
    nodes = three()
    shard = a_shard(nodes)
    assert await rows_of(shard) == NEW
    assert open_to(nodes) == {TWO: 1}
    nodes[TWO].rows = rx.MovedError(f"{SLOT} {THREE[0]}:{THREE[1]}")
    nodes[THREE].rows = held(NEW)
    nodes[ONE].view = nodes[TWO].view = slots(THREE)
    assert await rows_of(shard) == NEW
    assert open_to(nodes) == {THREE: 1}


async def test_one_that_was_named_by_mistake_is_let_go():
    """A node that was wrongly named the owner redirects back; the connection to it is closed."""
    nodes = three(one=Node(slots(THREE)), three=Node(HANG, rx.MovedError(f"{SLOT} {TWO[0]}:{TWO[1]}")))
    nodes[TWO].ready = asyncio.Event()
    shard = a_shard(nodes)
    shard._here.here().owner = TWO
    reading = asyncio.create_task(rows_of(shard))
    await turn_until(lambda: "ZRANGEBYSCORE" in nodes[THREE].asked)
    nodes[TWO].ready.set()
    assert await reading == NEW
    assert "ZRANGEBYSCORE" in nodes[THREE].asked
    assert open_to(nodes) == {TWO: 1}


async def test_a_read_that_finds_no_owner_keeps_connections_to_the_last_one_alone():
    """After a circle of redirections only the connection to the last known owner is kept."""
    nodes = three(one=Node(HANG), two=Node(HANG, rx.MovedError(f"{SLOT} {THREE[0]}:{THREE[1]}")))
    nodes[THREE] = Node(HANG, rx.MovedError(f"{SLOT} {TWO[0]}:{TWO[1]}"))
    shard = a_shard(nodes)
    shard._here.here().owner, shard._here.here().sure_until = TWO, float("inf")
    assert (await report_of(shard, seconds=1.0)).failed
    assert open_to(nodes) == {TWO: 1}


async def test_who_is_still_asked_while_another_becomes_the_owner_is_let_go_then():
    """If the owner changes during a slow read, the connection of that read is closed when it ends."""
    nodes = three()
    shard = a_shard(nodes)
    assert await rows_of(shard) == NEW
    nodes[TWO].ready = asyncio.Event()
    slow = asyncio.create_task(rows_of(shard))
    await turn_until(lambda: nodes[TWO].asked.count("ZRANGEBYSCORE") == 2)
    shard._here.here().sure_until = float("-inf")
    nodes[ONE].view = nodes[THREE].view = slots(THREE)
    nodes[THREE].rows = held(NEW)
    assert await rows_of(shard) == NEW
    assert open_to(nodes) == {TWO: 1, THREE: 1}
    nodes[TWO].ready.set()
    assert await slow == NEW
    assert open_to(nodes) == {THREE: 1}


async def test_one_that_is_given_up_while_it_is_made_is_no_connection(monkeypatch):
    """A connection cancelled during its handshake leaves no socket and nothing in the pool."""
    reached = asyncio.Event()

    async def handshake(_self: Any, check_health: bool) -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(RedisConnection, "on_connect_check_health", handshake)
    async with serving(silent) as port:  # fails if a connection is left
        server = RedisServer({"host": "127.0.0.1", "port": port})

        async def take() -> None:
            async with server.connected(None):
                raise AssertionError("the handshake never ends")

        task = asyncio.create_task(take())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server._pools.here()._all
    await server.aclose()


async def test_an_empty_host_is_the_host_that_was_asked():
    """In CLUSTER SLOTS an empty host, ['', port], means the host that was queried."""
    nodes = dict.fromkeys((ONE, THREE), Node(slots(("", TWO[1]))))
    nodes[TWO] = Node(slots(("", TWO[1])), held(NEW))
    assert await rows_of(a_shard(nodes)) == NEW


@pytest.mark.parametrize("first", [ONE, TWO, THREE])
async def test_a_node_that_knows_nobody_says_nothing(first):
    """A stranger at a known address has an empty slot map; the other nodes' answers count, whichever is first."""
    others = [address for address in (ONE, TWO, THREE) if address != first]
    nodes = {
        first: Node([], rx.ClusterDownError("Hash slot not served")),
        **{one: Node(slots(("", 0))) for one in others},
    }
    report = await report_of(a_shard(nodes), seconds=0.5)
    assert report.status is Status.UNREACHABLE
    assert "(port 0)" in report.error


async def test_where_nobody_knows_anybody_that_is_said():
    """If no node has a slot, the error says so."""
    report = await report_of(a_shard(dict.fromkeys((ONE, TWO, THREE), Node([]))), seconds=0.5)
    assert report.error == f"no node of the cluster serves slot {SLOT}"


async def test_nodes_are_learned():
    """A node that the URL does not name is dialled once the cluster names it."""
    nodes = {ONE: Node(slots(FOUR)), FOUR: Node(slots(FOUR), held(NEW))}
    assert await rows_of(a_shard(nodes, f"redis+cluster://{ONE[0]}:{ONE[1]}")) == NEW


async def test_only_these_are_dialled_if_asked_for():
    """With `only_these`, a corrupted slot map cannot make the shard dial other nodes."""
    nodes = dict.fromkeys((ONE, TWO, THREE), Node(slots(FOUR)))
    shard = a_shard(nodes, only_these=True)
    report = await report_of(shard)
    assert report.status is Status.UNREACHABLE
    assert report.error == "the cluster names a node at 127.0.0.1:7004, which may not be dialled"
    assert FOUR not in shard._servers


async def test_one_whose_map_names_a_stranger_is_no_witness():
    """With `only_these`, a slot map that names another node is ignored; the other nodes decide."""
    nodes = three(one=Node(slots(FOUR)))
    assert await rows_of(a_shard(nodes, only_these=True)) == NEW


@pytest.mark.parametrize(
    ("url", "layout"),
    [
        (f"postgresql://u:{SECRET}@h/db", "sorted-set"),
        (f"redis+cluster://:{SECRET}@h:1,h:1", "sorted-set"),
        (f"redis+cluster://:{SECRET}@h:1/5", "sorted-set"),
        (f"redis+cluster://:{SECRET}@", "sorted-set"),
        (f"redis+cluster://:{SECRET}@h:0", "sorted-set"),
        (f"redis+cluster://:{SECRET}@h:1", "list"),
    ],
)
def test_wrong_use_is_one_line_without_the_password(url, layout):
    """Wrong scheme, repeated node, database, no node, port 0 or unknown layout: one line, without the password."""
    with pytest.raises(UsageError) as error:
        RedisClusterShard(url, KEY, layout=layout)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_strings_need_a_hash_tag():
    """Layout strings requires a hash tag; otherwise the rows would spread over the cluster."""
    with pytest.raises(UsageError, match=r"key 'data_2' has no hash tag"):
        RedisClusterShard(URL, "data_2", layout="strings")


def test_its_repr_has_no_password():
    """The repr shows nodes and key, but not the password."""
    shown = repr(RedisClusterShard(f"redis+cluster://:{SECRET}@h:1,i:2/0", KEY))
    assert shown == "RedisClusterShard('redis+cluster://h:1,i:2/0', key='data_2:{2}')"
