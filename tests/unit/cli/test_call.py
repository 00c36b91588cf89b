"""`labkit call` on clusters of tiny servers that answer with real bytes, as scripted by each test."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import ResponseError

from labkit.cli.call.ask import REDIRECTS, NodeReply, ask_all, ask_owner
from labkit.cli.call.command import command
from labkit.cli.call.failures import CallFailure, NobodyAnswers
from labkit.cli.call.nodes import Member, endpoints, parse
from labkit.cli.call.shown import as_json, as_text, failures, in_blocks, is_text
from labkit.cli.call.wire import Wire
from labkit.cli.group import main
from labkit.errors import UsageError
from labkit.report import Status
from tests.support.lateness import MARGIN
from tests.support.mocks import (
    SECRET,
    TIMEOUT,
    closed_port,
    closing,
    eventually,
    in_time,
    resp_command,
    serving,
    silent,
)

pytestmark = pytest.mark.usefixtures("no_task_left")

NO_CLUSTER = b"-ERR This instance has cluster support disabled\r\n"
OWNERS = ("0-8191", "8192-16383")
"""The slots of the two nodes of a `cluster`: "b" is in 3300, "a" in 15495."""
PATIENCE = 5.0
"""Timeout, in seconds, where nothing should time out."""
LATE = f"timeout: no answer within {TIMEOUT:g} s"


def bulk(text):
    raw = text.encode()
    return b"$%d\r\n%s\r\n" % (len(raw), raw)


def error(text):
    return f"-{text}\r\n".encode()


class Peer:
    """A node. `replies` maps the beginning of a command to bytes, or None for silence; GET returns the node's name."""

    def __init__(self, name):
        self.replies = {"GET": bulk(name)}
        self.asked = []
        self.port = 0
        self.slow = 0.0
        """Delay of each reply, in seconds."""
        self.left = asyncio.Event()
        """Set once a client has hung up."""
        self.waits_for = None

    async def script(self, reader, writer):
        try:
            await self.converse(reader, writer)
        finally:
            self.left.set()

    async def converse(self, reader, writer):
        if self.waits_for is not None:
            await self.waits_for.wait()
        while True:
            words = [word.decode(errors="backslashreplace") for word in await resp_command(reader)]
            self.asked.append(" ".join(words))
            reply = self.reply(words)
            await asyncio.sleep(self.slow)
            if reply is None:
                return await silent(reader, writer)
            writer.write(reply)

    def reply(self, words):
        line = " ".join(words)
        known = [reply for start, reply in self.replies.items() if line.startswith(start)]
        if known:
            return known[0]
        if words[:2] == ["COMMAND", "GETKEYS"] and len(words) > 3:
            return b"*%d\r\n%s" % (len(words) - 3, b"".join(map(bulk, words[3:])))
        return error("ERR unknown command")

    @property
    def sent(self):
        """The commands it received, except those about the cluster and about keys."""
        return [line for line in self.asked if not line.startswith(("CLUSTER", "COMMAND"))]


def row(port, flags="master", slots="", host="127.0.0.1", node_id=None):
    """A line of CLUSTER NODES."""
    return f"{node_id or f'{port:040x}'} {host}:{port}@{port + 10000} {flags} - 0 0 1 connected {slots}".rstrip()


@asynccontextmanager
async def peers(number):
    """`number` nodes that know of no cluster."""
    async with AsyncExitStack() as stack:
        all_of_them = [Peer(f"node {index}") for index in range(number)]
        for peer in all_of_them:
            peer.port = await stack.enter_async_context(serving(peer.script))
        yield all_of_them


@asynccontextmanager
async def cluster(*more):
    """Two masters that own all slots and list these further lines of CLUSTER NODES."""
    async with peers(2) as nodes:
        rows = [row(peer.port, slots=slots) for peer, slots in zip(nodes, OWNERS, strict=True)]
        for peer in nodes:
            peer.replies["CLUSTER NODES"] = bulk("\n".join([*rows, *more, ""]))
        yield nodes


def url(*nodes):
    """A URL with these nodes, or ports, as start-up nodes."""
    return "redis://" + ",".join(f"127.0.0.1:{getattr(node, 'port', node)}" for node in nodes)


async def owner_of(start, *words, seconds=PATIENCE):
    """The outcome, within the timeout, of a command sent by way of `start`, a node or a URL."""
    wire = Wire.of(start if isinstance(start, str) else url(start), seconds)
    return await in_time(ask_owner(wire, tuple(word.encode() for word in words)), seconds)


async def all_of(start, *words, seconds=PATIENCE, **options):
    """The outcomes, within the timeout, of a command on all nodes, by name."""
    wire = Wire.of(start if isinstance(start, str) else url(start), seconds)
    outcomes = await in_time(ask_all(wire, tuple(word.encode() for word in words), **options), seconds)
    return {outcome.name: outcome for outcome in outcomes}


def name(node):
    return f"127.0.0.1:{getattr(node, 'port', node)}"


# --- the node that owns the key


@pytest.mark.parametrize(("key", "owner"), [("b", 0), ("a", 1)])
async def test_a_command_goes_straight_to_the_node_that_owns_its_key(key, owner):
    """One node is asked for the nodes and the command's keys; only the owner gets the command."""
    async with cluster() as nodes:
        outcome = await owner_of(nodes[0], "GET", key)
        assert outcome == NodeReply(name(nodes[owner]), reply=f"node {owner}".encode())
        assert nodes[0].asked[:2] == ["CLUSTER NODES", f"COMMAND GETKEYS GET {key}"]
        assert [node.sent for node in nodes] == [[f"GET {key}"] * (owner == 0), [f"GET {key}"] * (owner == 1)]


async def test_a_command_without_a_key_goes_to_the_node_that_answered():
    """A command without a key goes there whether GETKEYS finds no key or does not know the command."""
    async with cluster() as nodes:
        nodes[1].replies["PING"] = b"+PONG\r\n"
        outcome = await owner_of(nodes[1], "PING")
        assert (outcome.name, outcome.reply) == (name(nodes[1]), b"PONG")
        assert nodes[0].asked == []


async def test_words_are_sent_byte_by_byte():
    """Spaces, quotes, empty words and invalid UTF-8 reach the server unchanged."""
    async with cluster() as nodes:
        nodes[0].replies["COMMAND GETKEYS"] = error("ERR The command has no key arguments")
        nodes[0].replies["ECHO"] = b"+OK\r\n"
        await ask_owner(Wire.of(url(nodes[0]), TIMEOUT), (b"ECHO", b"\xff ", b"", b'"'))
        assert nodes[0].sent == ['ECHO \\xff   "']


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
async def test_moved_is_followed(host):
    """A node that no longer owns the slot names the new owner; a missing host means the node's own."""
    async with cluster() as nodes:
        nodes[1].replies["GET"] = error(f"MOVED 15495 {host}:{nodes[0].port}")
        outcome = await owner_of(nodes[0], "GET", "a")
        assert (outcome.name, outcome.reply) == (name(nodes[0]), b"node 0")
        assert [node.sent for node in nodes] == [["GET a"], ["GET a"]]


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
async def test_ask_is_followed_with_asking_first(host):
    """While a slot moves, its new owner serves one command after ASKING."""
    async with cluster() as nodes:
        nodes[1].replies["GET"] = error(f"ASK 15495 {host}:{nodes[0].port}")
        nodes[0].replies["ASKING"] = b"+OK\r\n"
        outcome = await owner_of(nodes[0], "GET", "a")
        assert (outcome.name, outcome.reply) == (name(nodes[0]), b"node 0")
        assert nodes[0].sent == ["ASKING", "GET a"]


async def test_moved_after_ask_asks_plainly_again():
    """ASKING applies to one command on one node."""
    async with cluster() as nodes:
        nodes[1].replies["GET"] = error(f"ASK 15495 127.0.0.1:{nodes[0].port}")
        nodes[0].replies |= {"ASKING": b"+OK\r\n", "GET": error(f"MOVED 15495 127.0.0.1:{nodes[1].port}")}
        outcome = await owner_of(nodes[0], "GET", "a")
        assert outcome.failure is not None
        assert nodes[1].sent == ["GET a"] * 3
        assert nodes[0].sent == ["ASKING", "GET a"] * 3


async def test_redirections_have_an_end():
    """Two nodes that redirect to each other are queried a few times, and then the error says so."""
    async with cluster() as nodes:
        for here, there in (nodes, nodes[::-1]):
            here.replies["GET"] = error(f"MOVED 15495 127.0.0.1:{there.port}")
        outcome = await owner_of(nodes[0], "GET", "a")
        assert outcome.failure.status is Status.REJECTED
        assert f"sent on {REDIRECTS} times" in outcome.failure.cause
        assert "slot 15495" in outcome.failure.cause
        assert len(nodes[0].sent + nodes[1].sent) == REDIRECTS + 1


async def test_redirections_have_one_deadline_together():
    """A redirect to a frozen node does not restart the clock."""
    async with cluster() as nodes, serving(silent) as frozen:
        nodes[1].replies["GET"] = error(f"MOVED 15495 127.0.0.1:{frozen}")
        nodes[1].slow = TIMEOUT / 2
        outcome = await owner_of(nodes[0], "GET", "a", seconds=TIMEOUT)
        assert (outcome.name, str(outcome.failure)) == (name(frozen), LATE)


NO_ADDRESS = "unreachable: the cluster knows no address of the node that owns slot 15495 (port 0)"


@pytest.mark.parametrize("target", [":0", "127.0.0.1:0", "?:7001"])
@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
async def test_a_redirection_to_no_address_is_named(kind, target):
    """Neither port 0 nor a host called ? is ever dialled."""
    async with cluster() as nodes:
        nodes[1].replies["GET"] = error(f"{kind} 15495 {target}")
        outcome = await owner_of(nodes[0], "GET", "a")
        assert (outcome.name, str(outcome.failure)) == (name(nodes[1]), NO_ADDRESS)


async def test_an_owner_at_port_0_is_named():
    """The map itself says that the owner's address is lost."""
    async with cluster() as nodes:
        rows = [row(nodes[0].port, slots=OWNERS[0]), row(0, "master,noaddr", OWNERS[1], host="")]
        nodes[0].replies["CLUSTER NODES"] = bulk("\n".join(rows))
        assert str((await owner_of(nodes[0], "GET", "a")).failure) == NO_ADDRESS
        assert (await owner_of(nodes[0], "GET", "b")).reply == b"node 0"


async def test_a_slot_that_nobody_serves_is_named():
    """Without an owner the command is sent to no node."""
    async with cluster() as nodes:
        nodes[0].replies["CLUSTER NODES"] = bulk(row(nodes[0].port, slots=OWNERS[0]))
        outcome = await owner_of(nodes[0], "GET", "a")
        assert str(outcome.failure) == "rejected: no node of the cluster serves slot 15495"
        assert nodes[0].sent == []


async def test_keys_in_several_slots_are_wrong_use():
    """The error names the keys with their slots, and the fix; the command is not sent."""
    async with cluster() as nodes:
        with pytest.raises(UsageError) as caught:
            await owner_of(nodes[0], "MGET", "a", "b", "{a}1")
        assert "'a' in 15495, 'b' in 3300, '{a}1' in 15495" in str(caught.value)
        assert "same hash tag" in str(caught.value)
        assert nodes[0].sent + nodes[1].sent == []
        with pytest.raises(UsageError, match=r"'a' in 15495, .* 996 more; "):
            await owner_of(nodes[0], "MGET", "a", *(str(number) for number in range(999)))


async def test_keys_with_one_hash_tag_go_to_one_node():
    """Several keys are fine as long as they share a slot."""
    async with cluster() as nodes:
        nodes[1].replies["MGET"] = b"*2\r\n$-1\r\n$1\r\nx\r\n"
        assert (await owner_of(nodes[0], "MGET", "{a}1", "{a}2")).reply == [None, b"x"]


@pytest.mark.parametrize("refusal", [NO_CLUSTER, error("ERR unknown command `CLUSTER`, with args")])
async def test_a_server_that_is_no_cluster_is_asked_as_it_is(refusal):
    """A single server serves keys of all slots, and is the only node."""
    async with peers(1) as (alone,):
        alone.replies |= {"CLUSTER NODES": refusal, "MGET": b"*2\r\n$-1\r\n$-1\r\n"}
        assert (await owner_of(alone, "MGET", "a", "b")).reply == [None, None]
        assert await all_of(alone, "GET", "a") == {name(alone): NodeReply(name(alone), reply=b"node 0")}


REFUSALS = {
    "CLUSTERDOWN The cluster is down": "rejected: CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN Hash slot not served": "rejected: CLUSTERDOWN Hash slot not served",
    "LOADING Redis is loading the dataset in memory": "unreachable: LOADING Redis is loading the dataset in memory",
    "TRYAGAIN Multiple keys request during rehashing of slot": "rejected: TRYAGAIN Multiple keys request during",
    "MASTERDOWN Link with MASTER is down": "rejected: MASTERDOWN Link with MASTER is down",
    "NOAUTH Authentication required.": "rejected: NOAUTH Authentication required.",
    "NOPERM this user has no permissions": "rejected: NOPERM this user has no permissions",
    "ERR max number of clients reached": "rejected: ERR max number of clients reached",
    "ERR wrong number of arguments": "rejected: ERR wrong number of arguments",
    "WRONGTYPE Operation against": "rejected: WRONGTYPE Operation against",
    "MOVED somewhere": "invalid: its answer is not a reply of a Redis server",
    "MOVED x 127.0.0.1:1": "invalid: its answer is not a reply of a Redis server",
}


@pytest.mark.parametrize(("refusal", "said"), REFUSALS.items(), ids=REFUSALS.keys())
async def test_what_the_server_says_is_said(refusal, said):
    """The server's error keeps its first word, which redis-py cuts off; the status is that of a read."""
    async with cluster() as nodes:
        nodes[1].replies["GET"] = error(refusal)
        outcome = await owner_of(nodes[0], "GET", "a")
        assert outcome.name == name(nodes[1])
        assert str(outcome.failure).startswith(said)


async def test_a_frozen_owner_costs_the_deadline_and_no_more():
    """The command ends at the deadline, the outcome names the frozen owner, and no socket is left open."""
    async with cluster() as nodes:
        nodes[1].replies["GET"] = None
        outcome = await owner_of(nodes[0], "GET", "a", seconds=TIMEOUT)
        assert (outcome.name, str(outcome.failure)) == (name(nodes[1]), LATE)


async def test_what_is_no_redis_server_is_invalid():
    """A port that belongs to a web server gives "invalid"."""

    async def web(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with serving(web) as port:
        with pytest.raises(NobodyAnswers, match="invalid: its answer is not a reply of a Redis server"):
            await owner_of(url(port), "GET", "a")


@pytest.mark.parametrize("reply", [bulk("nonsense"), b"$-1\r\n", b":1\r\n", bulk("id h:port master - 0 0 1 c")])
async def test_a_list_of_nodes_that_is_none_is_invalid(reply):
    """Without a valid list the nodes are not guessed."""
    async with peers(1) as (odd,):
        odd.replies["CLUSTER NODES"] = reply
        with pytest.raises(NobodyAnswers, match="invalid: its answer to CLUSTER NODES is not a list of nodes"):
            await owner_of(odd, "GET", "a")


# --- where to begin


async def test_the_first_start_up_node_that_answers_is_believed():
    """Dead, frozen and closing start-up nodes before it cost nothing: the frozen one is not waited for."""
    async with cluster() as nodes, serving(silent) as frozen, serving(closing) as shut:
        start = url(frozen, await closed_port(), shut, nodes[1])
        assert (await in_time(owner_of(start, "GET", "b"), PATIENCE / 2)).reply == b"node 0"


@pytest.mark.parametrize("others", [0, 1])
async def test_without_a_start_up_node_that_answers_the_causes_are_said(others):
    """The error names each node with its cause, and the fix."""
    async with serving(silent) as frozen:
        dead = await closed_port()
        with pytest.raises(NobodyAnswers) as caught:
            await owner_of(url(*[frozen] * others, dead), "GET", "a", seconds=TIMEOUT)
        causes = [f"{name(frozen)} {LATE}"] * others + [f"{name(dead)} unreachable: connection refused"]
        assert f"({', '.join(causes)})" in str(caught.value)
        assert "name other nodes too, with commas" in str(caught.value)


async def test_a_node_that_lost_its_cluster_is_not_believed_before_another():
    """A node that came back empty, with a map of only itself, is not trusted while another may answer."""
    async with cluster() as nodes, peers(1) as (lost,):
        lost.replies["CLUSTER NODES"] = bulk(row(lost.port, "myself,master"))
        nodes[0].waits_for = lost.left
        assert (await owner_of(url(lost, nodes[0]), "GET", "a")).reply == b"node 1"


async def test_a_node_without_slots_is_believed_when_no_other_answers():
    """Nodes that have not formed a cluster yet can be queried, within the timeout."""
    async with peers(1) as (fresh,), serving(silent) as frozen:
        fresh.replies["CLUSTER NODES"] = bulk(row(fresh.port, "myself,master", host=""))
        assert (await all_of(url(fresh, frozen), "GET", "a", seconds=2 * TIMEOUT))[name(fresh)].reply == b"node 0"
        assert (await all_of(url(fresh, await closed_port()), "GET", "a"))[name(fresh)].reply == b"node 0"


# --- every node


async def hanging_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """A server that closes once it is queried, after reading: unread bytes would make the system send a reset."""
    await reader.read(1)


async def test_what_nobody_knows_is_an_error_of_this_side(monkeypatch):
    """An unexpected exception is reported by its name, not as the server's words."""
    async with cluster() as nodes:
        wire = Wire.of(url(nodes[0]), 5)
        monkeypatch.setattr(Connection, "pack_commands", raising)
        with pytest.raises(NobodyAnswers, match="error: KeyError: 'of a defect'"):
            await ask_all(wire, (b"GET", b"b"))


def raising(*_args, **_options):
    """A bug."""
    raise KeyError("of a defect")


async def test_every_node_is_asked_and_those_that_fail_are_named():
    """Dead, frozen, closing, refusing and without an address: each has its cause, and the other nodes still answer."""
    async with serving(silent) as frozen, serving(hanging_up) as shut:
        dead = await closed_port()
        more = [row(port) for port in (frozen, dead, shut)]
        lost = row(0, "master,fail,noaddr", "5000", host="", node_id="1a2b3c4d5e6f")
        async with cluster(*more, lost) as nodes:
            nodes[1].replies["GET"] = error("MOVED 3300 127.0.0.1:1")
            outcomes = await all_of(nodes[0], "GET", "b", seconds=TIMEOUT)
            assert outcomes.pop(name(nodes[0])) == NodeReply(name(nodes[0]), "master", b"node 0")
            assert {node: str(outcome.failure) for node, outcome in outcomes.items()} == {
                name(nodes[1]): "rejected: MOVED 3300 127.0.0.1:1",
                name(frozen): LATE,
                name(dead): "unreachable: connection refused",
                name(shut): "disconnected: Connection closed by server.",
                "node 1a2b3c4d": "unreachable: no address (port 0)",
            }
            assert nodes[0].sent == ["GET b"]


async def test_nodes_are_asked_side_by_side():
    """Ten frozen nodes take no longer than one."""
    async with AsyncExitStack() as stack:
        frozen = [await stack.enter_async_context(serving(silent)) for _ in range(10)]
        nodes = await stack.enter_async_context(cluster(*map(row, frozen)))
        outcomes = await all_of(nodes[0], "GET", "b", seconds=TIMEOUT)
        assert [str(outcomes[name(port)].failure) for port in frozen] == [LATE] * 10


@pytest.mark.parametrize("masters", [True, False])
async def test_replicas_are_asked_unless_only_masters_are_wanted(masters):
    """Replicas are queried and have their role; with `masters` they are left out."""
    async with peers(1) as (replica,), cluster(row(replica.port, "slave")) as nodes:
        outcomes = await all_of(nodes[0], "GET", "b", masters=masters)
        roles = {name(nodes[0]): "master", name(nodes[1]): "master"} | ({} if masters else {name(replica): "replica"})
        assert {node: outcome.role for node, outcome in outcomes.items()} == roles


async def test_a_call_that_is_cancelled_leaves_nothing():
    """Ctrl-C while nodes are silent closes tasks and sockets at once."""
    async with serving(silent) as frozen, cluster(row(frozen)) as nodes:
        wire = Wire.of(url(nodes[0], frozen), 60)
        task = asyncio.create_task(ask_all(wire, (b"GET", b"b")))
        await eventually(lambda: nodes[0].sent)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await in_time(task, MARGIN)


LINES = {
    "id 192.0.2.1:7001@17001 myself,master - 0 0 1 connected 0-5 7 [9->-id] [11-<-id]": Member(
        "id", ("192.0.2.1", 7001), "master", ((0, 5), (7, 7))
    ),
    "id 192.0.2.1:7001 slave other 0 0 1 connected": Member("id", ("192.0.2.1", 7001), "replica"),
    "id :7001@17001 myself,master - 0 0 0 connected": Member("id", ("192.0.2.9", 7001), "master"),
    "id ::1:7001@17001 master - 0 0 1 connected": Member("id", ("::1", 7001), "master"),
    "id 192.0.2.1:7001@17001,a.example master,fail? - 0 0 1 connected": Member("id", ("192.0.2.1", 7001), "master"),
    "id 192.0.2.1:7001@17001,,shard-id=x master,fail - 0 0 1 disconnected": Member(
        "id", ("192.0.2.1", 7001), "master", failed=True
    ),
    "id :0@0 master,noaddr - 0 0 1 disconnected 3": Member("id", None, "master", ((3, 3),)),
    "id 192.0.2.1:7001@17001 master,noaddr - 0 0 1 disconnected": Member("id", None, "master"),
}


@pytest.mark.parametrize(("line", "node"), LINES.items(), ids=LINES.keys())
def test_a_line_of_cluster_nodes_is_a_node(line, node):
    """Lines of old and new servers are parsed."""
    assert parse(f"{line}\n".encode(), ("192.0.2.9", 7000)) == (node,)


def test_nodes_come_by_address_and_each_address_once():
    """A node that came back with a new ID is listed twice for a while; one in handshake is not a node yet."""
    rows = [
        row(7002, "master,fail", node_id="old"),
        row(7002, node_id="new"),
        row(7001, "slave", node_id="first"),
        row(0, "master,noaddr", host="", node_id="lost"),
        row(7003, "handshake", node_id="stranger"),
    ]
    nodes = parse("\n".join(rows).encode(), ("127.0.0.1", 7001))
    assert [node.id for node in nodes] == ["first", "new", "lost"]


def test_hostnames_are_dialled_where_certificates_need_them():
    """With TLS a node's hostname is dialled if it has one."""
    reply = b"id 192.0.2.1:7001@17001,a.example master - 0 0 1 c\nid2 192.0.2.2:7001@17001 master - 0 0 1 c"
    hosts = [node.address[0] for node in parse(reply, ("192.0.2.9", 7000), hostnames=True)]
    assert hosts == ["192.0.2.2", "a.example"]


# --- passwords and URLs


async def test_the_password_of_the_url_is_used_and_never_shown():
    """Even a server that echoes AUTH in its error does not reveal it."""
    async with cluster() as nodes:
        with_password = url(nodes[0]).replace("//", f"//:{SECRET}@")
        nodes[0].replies["AUTH"] = error(f"ERR unknown command `AUTH`, with args beginning with: `{SECRET}`, ")
        with pytest.raises(NobodyAnswers) as caught:
            await owner_of(with_password, "GET", "a")
        assert "`***`" in str(caught.value)
        assert SECRET not in str(caught.value) + repr(Wire.of(with_password, TIMEOUT))
        for node in nodes:
            node.replies["AUTH"] = b"+OK\r\n"
        assert (await owner_of(with_password, "GET", "a")).reply == b"node 1"
        assert nodes[1].asked == [f"AUTH {SECRET}", "GET a"]


@pytest.mark.parametrize(
    ("scheme", "tls"), [("redis", False), ("redis+cluster", False), ("rediss", True), ("rediss+cluster", True)]
)
async def test_a_url_names_start_up_nodes_with_one_password_and_with_or_without_tls(scheme, tls):
    """Each host has its own port or Redis's default."""
    wire = Wire.of(f"{scheme}://user:{SECRET}@127.0.0.1:7001,[::1]:7002,a.example", TIMEOUT)
    assert wire.starts == (("127.0.0.1", 7001), ("::1", 7002), ("a.example", 6379))
    assert wire.tls is tls
    assert (wire.options["username"], wire.options["password"]) == ("user", SECRET)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "127.0.0.1:7001",
        f"http://:{SECRET}@127.0.0.1:7001",
        f"redis://:{SECRET}@127.0.0.1:7001/1",
        f"redis://:{SECRET}@127.0.0.1:7001,127.0.0.1:7001",
        f"redis://:{SECRET}@127.0.0.1:0",
        f"redis://:{SECRET}@127.0.0.1:7001/0?{SECRET}=1",
        f"redis://:{SECRET}@127.0.0.1:7001/0?socket_timeout={SECRET}",
        "unix:///tmp/redis",
    ],
)
async def test_a_url_that_is_none_is_wrong_use(wrong):
    """The error does not repeat the URL, which may hold a password."""
    with pytest.raises(UsageError) as caught:
        Wire.of(wrong, TIMEOUT)
    assert SECRET not in str(caught.value)


async def test_the_urls_own_options_do_not_outdo_the_deadline():
    """An hour's timeout in the URL does not extend the deadline."""
    async with serving(silent) as frozen:
        with pytest.raises(NobodyAnswers, match=LATE):
            await owner_of(f"{url(frozen)}/0?socket_timeout=3600&retry_on_timeout=yes", "GET", "a", seconds=TIMEOUT)


async def test_the_urls_own_options_do_not_change_the_protocol():
    """The URL cannot switch to another protocol, which would change the types of replies."""
    async with cluster() as nodes:
        assert (await owner_of(f"{url(nodes[1])}/0?protocol=3", "GET", "a")).reply == b"node 1"
        assert [line for line in nodes[1].asked if "HELLO" in line] == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
async def test_a_timeout_must_be_positive_seconds(seconds):
    """Zero, negative and infinite timeouts and NaN are refused."""
    with pytest.raises(UsageError, match="timeout must be a positive number of seconds"):
        Wire.of("redis://127.0.0.1:7001", seconds)


# --- what is printed

SHOWN = {
    "nothing": (None, "(nil)"),
    "number": (-3, "(integer) -3"),
    "status": (b"OK", "OK"),
    "text": (b"some text", '"some text"'),
    "no text": (b"", '""'),
    "other scripts": ("Größe 数".encode(), '"Größe 数"'),
    "quotes": (b'a "b" \\', '"a \\"b\\" \\\\"'),
    "controls": (b"\r\n\t\x07\x08\x1b[31m\x00", '"\\r\\n\\t\\a\\b\\x1b[31m\\x00"'),
    "bytes": (b"\xff\xfe\xc3", '"\\xff\\xfe\\xc3"'),
    "invisible": ("\u202e\u200b".encode(), '"\\xe2\\x80\\xae\\xe2\\x80\\x8b"'),
    "empty": ([], "(empty array)"),
    "list": ([b"a", 2, None], '1) "a"\n2) (integer) 2\n3) (nil)'),
    "lists in lists": ([[b"a", [2, None]], []], '1) 1) "a"\n   2) 1) (integer) 2\n      2) (nil)\n2) (empty array)'),
    "error in a list": ([ResponseError("MY error\n\x1b")], "1) (error) MY error\\x0a\\x1b"),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "shown"), SHOWN.values(), ids=SHOWN.keys())
def test_replies_are_shown_as_redis_cli_does(reply, shown):
    """Text is quoted; control characters and invalid UTF-8 are escaped."""
    assert as_text(reply) == shown


def test_numbers_of_a_long_list_are_aligned():
    """Numbers are padded to the width of the last one."""
    lines = as_text(list(range(10))).splitlines()
    assert (lines[0], lines[9]) == (" 1) (integer) 0", "10) (integer) 9")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((b"INFO",), True),
        ((b"info", b"server"), True),
        ((b"cluster", b"Nodes"), True),
        ((b"CLUSTER", b"SLOTS"), False),
        ((b"GET", b"INFO"), False),
        ((b"\xff",), False),
    ],
)
def test_replies_that_are_text_for_people_are_not_quoted(words, text):
    """Text meant for people, such as INFO, is printed without quotes."""
    assert is_text(words) is text
    assert as_text(b"a:1\r\nb:\x1b2\r\n", text=True) == "a:1\nb:\\x1b2"


REFUSED = CallFailure(Status.UNREACHABLE, "connection refused")
OUTCOMES = [
    NodeReply("127.0.0.1:7001", "master", [b"a", b"\xff"]),
    NodeReply("127.0.0.1:7002", "master", failure=REFUSED),
    NodeReply("127.0.0.1:70030", "replica", 3),
    NodeReply("127.0.0.1:7004", "master", None),
    NodeReply("node 1a2b3c4d", "master", failure=CallFailure(Status.UNREACHABLE, "no address\x1b")),
]


def test_nodes_are_shown_in_lines_or_blocks():
    """Each node takes one line, lists and texts a block; failures are listed separately, in the same columns."""
    assert in_blocks(OUTCOMES).splitlines() == [
        "127.0.0.1:7001   master",
        '  1) "a"',
        '  2) "\\xff"',
        "127.0.0.1:70030  replica  (integer) 3",
        "127.0.0.1:7004   master   (nil)",
    ]
    assert failures(OUTCOMES) == [
        "127.0.0.1:7002   unreachable: connection refused",
        "node 1a2b3c4d    unreachable: no address\\x1b",
    ]
    assert in_blocks([NodeReply("127.0.0.1:7001", reply=1)]) == "127.0.0.1:7001  (integer) 1"
    assert in_blocks([NodeReply("127.0.0.1:7001", reply=[1])]) == "127.0.0.1:7001\n  1) (integer) 1"
    assert in_blocks([NodeReply("127.0.0.1:7001", "master", [])]) == "127.0.0.1:7001  master   (empty array)"
    assert in_blocks([NodeReply("127.0.0.1:7001", reply=b"a\nb")], text=True) == "127.0.0.1:7001\n  a\n  b"


def test_json_has_all_answers_and_failures():
    """Bytes that are not UTF-8 are base64; an error inside a reply is marked as one."""
    assert json.loads(as_json([*OUTCOMES, NodeReply("x", reply=[ResponseError("no"), "ü".encode(), [1]])])) == {
        "answers": {
            "127.0.0.1:7001": ["a", {"base64": "/w=="}],
            "127.0.0.1:70030": 3,
            "127.0.0.1:7004": None,
            "x": [{"error": "no"}, "ü", [1]],
        },
        "failures": {
            "127.0.0.1:7002": {"status": "unreachable", "cause": "connection refused"},
            "node 1a2b3c4d": {"status": "unreachable", "cause": "no address\x1b"},
        },
    }


# --- the command

OPTIONS = {"everywhere": False, "masters": False, "seconds": PATIENCE, "json": False}


async def test_the_command_prints_replies_on_stdout_and_failures_on_stderr(capfd):
    """The command exits 1 if a node failed, and still prints what the others answered."""
    dead = await closed_port()
    async with cluster(row(dead)) as nodes:
        start = url(nodes[0])
        assert await command(["GET", "a"], **{**OPTIONS, "url": start}) == 0
        assert capfd.readouterr() == ('"node 1"\n', "")
        assert await command(["GET", "a"], **{**OPTIONS, "url": start, "everywhere": True}) == 1
        out, err = capfd.readouterr()
        assert sorted(out.splitlines()) == sorted(f'{name(node)}  master   "node {i}"' for i, node in enumerate(nodes))
        assert err == f"{name(dead)}  unreachable: connection refused\n"
        nodes[1].replies["GET"] = error("CLUSTERDOWN")
        for as_document, printed in ((False, ""), (True, '{"answers": {}, "failures": {')):
            assert await command(["GET", "a"], **{**OPTIONS, "url": start, "json": as_document}) == 1
            out, err = capfd.readouterr()
            assert out.startswith(printed) if printed else not out
            assert err == f"labkit: {name(nodes[1])}  rejected: CLUSTERDOWN\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        ([""], "the command is blank"),
        (["  ", "key"], "the command is blank"),
        (["--masters", "GET", "a"], "--masters narrows --all"),
        (["--timeout", "0", "GET", "a"], "timeout must be a positive number"),
        (["--timeout", "soon", "GET", "a"], "'soon' is not a valid float"),
        (["--url", f"http://:{SECRET}@127.0.0.1", "GET", "a"], "not the URL of a Redis Cluster"),
        (["--replicas", "GET", "a"], "No such option"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(arguments, said, capsys):
    """Nothing is dialled, and no password is shown."""
    with pytest.raises(SystemExit) as ended:
        main(["call", *arguments])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("labkit: ")
    assert said in err
    assert SECRET not in err


async def test_what_follows_the_command_is_never_an_option(capsys):
    """Options after the command belong to the command: some Redis arguments begin with a dash."""
    port = await closed_port()
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main, ["call", "--url", url(port), "ZRANGE", "--all", "0", "-1", "--help"])
    assert ended.value.code == 1
    assert "no start-up node" in capsys.readouterr().err


def test_the_command_loads_nothing_heavy():
    """The command starts without loading pandas or other heavy libraries."""
    code = "import json, sys, labkit.cli.group, labkit.cli.call.command; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(json.loads(done.stdout))
    assert "labkit.cli.call.ask" in loaded
    assert loaded & {"labkit.lab", "labkit.reader", "numpy", "pandas", "pyarrow", "rich"} == set()


# --- where nodes want to be dialled


def test_nodes_are_dialled_where_they_want_to_be():
    """CLUSTER SLOTS has the hosts that clients should dial; CLUSTER NODES those that nodes use, and lists all nodes."""
    asked = ("127.0.0.1", 7001)
    slots = [[0, 5, [b"localhost", 7001, b"aa"], [None, 7002, b"bb", []]], [6, 9, [b"?", 7003, b"cc"], [b"", 0, b"dd"]]]
    assert endpoints(slots, asked) == {"aa": ("localhost", 7001), "bb": ("127.0.0.1", 7002)}
    lines = "\n".join(row(7000 + i, host="192.0.2.1", node_id=2 * letter) for i, letter in enumerate("abc", start=1))
    nodes = parse(lines.encode(), asked, endpoints=endpoints(slots, asked))
    assert {node.id: node.address for node in nodes} == {
        "aa": ("localhost", 7001),
        "bb": ("127.0.0.1", 7002),
        "cc": ("192.0.2.1", 7003),
    }


@pytest.mark.parametrize(
    "reply", [ResponseError("unknown command"), b"no", [b"no"], [[0, 1, [b"h", 1]]], [[0, 1, [3, 1, b"a"]]]]
)
def test_no_slot_map_is_no_harm(reply):
    """The nodes are then dialled at the addresses in CLUSTER NODES."""
    assert endpoints(reply, ("127.0.0.1", 7001)) == {}
