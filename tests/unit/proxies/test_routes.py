"""Addresses and URLs of servers, as text; and the same URL through a proxy."""

from __future__ import annotations

from typing import Any

import pytest

from labkit import Proxies, RangeRouter
from labkit.errors import UsageError
from labkit.proxies.routes import Route, listen_address, of_url, route, text_of, with_address
from labkit.topology import ShardPlace, Topology

FREE = ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("text", "listen", "upstream"),
    [
        ("127.0.0.1:5432", FREE, ("127.0.0.1", 5432)),
        ("db.example.com:5432", FREE, ("db.example.com", 5432)),
        ("[::1]:5432", FREE, ("::1", 5432)),
        ("/run/redis.sock", FREE, "/run/redis.sock"),
        ("127.0.0.1:5541->127.0.0.1:5432", ("127.0.0.1", 5541), ("127.0.0.1", 5432)),
        (" 5541 -> db:5432 ", ("127.0.0.1", 5541), ("db", 5432)),
        (":0->db:5432", FREE, ("db", 5432)),
        ("localhost:1->/run/pg", ("127.0.0.1", 1), "/run/pg"),
        ("0.0.0.0:5541->db:1", ("0.0.0.0", 5541), ("db", 1)),
        ("[::]:5541->[::1]:1", ("::", 5541), ("::1", 1)),
        ("postgresql://u:p%40@db/x?sslmode=require", FREE, ("db", 5432)),
        ("postgresql+asyncpg://u@[::1]:1/x", FREE, ("::1", 1)),
        ("postgresql://u:p@/x?host=/run/pg&port=5433", FREE, "/run/pg/.s.PGSQL.5433"),
        ("5541->redis://:p@db:6380/2", ("127.0.0.1", 5541), ("db", 6380)),
        ("rediss://db", FREE, ("db", 6379)),
        ("unix://:p@/run/redis.sock?db=2", FREE, "/run/redis.sock"),
        ("mysql://u@db:3306/x", FREE, ("db", 3306)),
    ],
)
def test_where_a_server_is(text: str, listen: Any, upstream: Any) -> None:
    """An address, a path or a URL, each also with an address to listen at; without one it is a free port here."""
    assert (route(text).listen, route(text).upstream) == (listen, upstream)


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5432, "5432 is not an address: write host:port"),
        ("", "'' is not an address"),
        ("db", "'db' is not an address"),
        ("db:0", "'db:0' is not an address"),
        ("db:65536", "'db:65536' is not an address"),
        ("::1:5432", "'::1:5432' is not an address"),
        ("[db]:5432", r"'\[db\]:5432' is not an address"),
        ("db:٣", "is not an address"),
        (f"u:{SECRET}@db:5432", "^that is not an address"),
        ("db:5541->db:5432", "cannot listen at 'db:5541': write an address in digits and a port"),
        ("70000->db:5432", "cannot listen at '70000'"),
        (f"postgresql://u:{SECRET}@a,b/x", "its URL must name one server"),
        (f"postgresql://u:{SECRET}@a/x?host=b", "its URL must name one server"),
        (f"postgresql://u:{SECRET}@/x", "its URL must name one server"),
        (f"redis://:{SECRET}@db:x", "its URL has no valid host and port"),
        (f"mysql://u:{SECRET}@db/x", "its URL has no valid host and port"),
        (f"://{SECRET}", "its URL is not one"),
        (f"redis+cluster://:{SECRET}@a:1,b:2", "the nodes of a Redis Cluster announce their own addresses"),
        ("unix://run", "the path of a unix socket must be absolute"),
    ],
)
def test_what_is_not_an_address(value: Any, words: str) -> None:
    """The error names the value and the fix, but never a URL or a password."""
    with pytest.raises(UsageError, match=words) as caught:
        route(value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("postgresql://u:p%40@db:5432/x?sslmode=require", "postgresql://u:p%40@127.0.0.1:1/x?sslmode=require"),
        ("postgresql://u:${PW}@db/x", "postgresql://u:${PW}@127.0.0.1:1/x"),
        ("postgresql://u@/x?host=/run&ssl=disable&port=3", "postgresql://u@127.0.0.1:1/x?ssl=disable"),
        ("redis://db", "redis://127.0.0.1:1"),
        ("rediss://:p@[::1]:6379/2?client_name=x", "rediss://:p@127.0.0.1:1/2?client_name=x"),
        ("unix://:p@/run/redis.sock?db=2", "redis://:p@127.0.0.1:1?db=2"),
    ],
)
def test_the_url_through_a_proxy(url: str, through: str) -> None:
    """Only the address is another one; a unix socket becomes TCP."""
    assert with_address(url, "127.0.0.1:1") == through
    assert text_of(of_url(through.replace("${PW}", "p")).upstream) == "127.0.0.1:1"


def test_the_kind_of_server_is_in_its_url() -> None:
    """Faults that act on one kind of server only are refused on another, if the kind is known."""
    assert [route(text).kind for text in ("db:1", "postgres://db", "rediss://db", "mysql://db:1")] == [
        "", "postgres", "redis", ""
    ]  # fmt: skip


def test_names_of_shards() -> None:
    """A name is an integer or text, and as text no other's."""
    for names in ([True], [1.5], [("a",)], [" "], [None]):
        with pytest.raises(UsageError, match="must be an integer or text"):
            Proxies(dict.fromkeys(names, "db:1"))
    with pytest.raises(UsageError, match="two shards are called '1'"):
        Proxies({1: "db:1", "1": "db:2"})
    with pytest.raises(UsageError, match=r"^shard 'eu': 'db' is not an address"):
        Proxies({"eu": "db"})
    with pytest.raises(UsageError, match="must be a mapping such as"):
        Proxies("db:1")  # type: ignore[arg-type]


def topology(url: str) -> Topology:
    """One shard, named 2."""
    return Topology(2.0, RangeRouter({2: [(1, 10)]}), {2: ShardPlace(url, "data")})


def test_a_topology_says_what_is_behind() -> None:
    """The shards' listening addresses may be chosen, and further servers named; anything else is refused."""
    made = Proxies.of(topology("redis://db"), {2: "5541", "more": "5542->db:1"})
    assert made._routes[2] == Route(("127.0.0.1", 5541), ("db", 6379), "redis://db")
    assert made._routes["more"].upstream == ("db", 1)
    for listen, words in (
        ({2: "5541->db:1"}, "^shard 2: the topology says what is behind it"),
        ({3: "5541"}, r"^unknown shard 3: the topology has \[2\]"),
    ):
        with pytest.raises(UsageError, match=words):
            Proxies.of(topology("redis://db"), listen)
    with pytest.raises(UsageError, match=r"^shard 2: the nodes of a Redis Cluster .* \(cluster-announce-port\)$"):
        Proxies.of(topology("redis+cluster://db:1,db:2"))


async def test_what_does_not_run_says_so() -> None:
    """Before the start there are no addresses, and uses that need them are one line with the fix."""
    made = Proxies({"eu": "db:1"})
    assert (made.addresses, made.urls, made.events, made.leftovers()) == ({}, {}, [], [])
    assert repr(made) == "Proxies('eu', not running)"
    for use in (made.heal, made.api):
        with pytest.raises(UsageError, match=r"not running: await proxies.start\(\) first"):
            await use()  # type: ignore[operator]
    with pytest.raises(UsageError, match="not running"):
        made.topology  # noqa: B018
    await made.stop()


def test_a_listening_address_is_this_machines_alone_unless_it_is_written_out() -> None:
    """A port, or localhost, is on loopback; a name is not looked up."""
    assert {listen_address(text) for text in ("1", ":1", "localhost:1", "127.0.0.1:1")} == {("127.0.0.1", 1)}
    assert listen_address("[::1]:1") == ("::1", 1)
    with pytest.raises(UsageError):
        listen_address("example.com:1")
