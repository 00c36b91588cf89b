"""The topology file: valid files load as written; errors are one line, without a password."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit.topology
from labkit import CLASSIC, RangeRouter
from labkit.errors import RangeError, TopologyError, UsageError
from labkit.shards import CircuitBreaker, PostgresShard, RedisShard
from labkit.shards.redis.cluster.shard import RedisClusterShard
from labkit.shards.redis.layouts import LAYOUTS
from labkit.topology import ShardPlace, Topology, load
from tests.support.mocks import TIMEOUT
from tests.support.scenes import huge_routers, quick

PASSWORD = "pl4nted/p@ss:w%rd"
VARIABLE = "LABKIT_TEST_PASSWORD"
IN_FILE = "pl4nted-in-the-file"
PLANTED = re.compile(r"pl4nted", re.IGNORECASE)
URL = "postgresql://labkit@127.0.0.1:5432/labkit"

GOOD = f"""
timeout = 1.5
table = "data"
key = "nr"
columns = ["label"]

[[shards]]
name = 1
url = "postgresql+asyncpg://labkit:${{{VARIABLE}}}@127.0.0.1:1/labkit"
table = "data_1"
ranges = [[1, 10], [31, 40]]

[[shards]]
name = "two"
url = "redis://:{IN_FILE}@127.0.0.1:1/0"
ranges = [[11, 20]]

[[shards]]
name = 3
url = "postgres://labkit@127.0.0.1:1/labkit"
key = "user_id"
columns = ["full_name", "amount"]
ranges = [[21, 30]]
"""


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, PASSWORD)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """lab.toml in the current folder, so that its name in messages is short."""
    monkeypatch.chdir(tmp_path)
    return Path("lab.toml")


@pytest.fixture
def good(file: Path) -> Topology:
    """The topology of `GOOD`."""
    file.write_text(GOOD)
    return load(file)


def one_shard(**changed: Any) -> str:
    """A file with one shard; `changed` overrides its lines as raw TOML, None leaves one out."""
    lines = {"name": "1", "url": f'"{URL}"', "table": '"data"', "ranges": "[[1, 10]]", **changed}
    return "[[shards]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


URL = "postgresql://u:hunter2@127.0.0.1/db"


def error_of(file: Path) -> str:
    """The message of the error raised by loading the file."""
    with pytest.raises(TopologyError) as caught:
        load(file)
    assert caught.value.__context__ is None, "a chained exception could show the file's contents"
    return str(caught.value)


def test_a_file_becomes_router_timeout_and_places(file: Path) -> None:
    """Defaults at the top apply where a shard has none of its own; Redis shards ignore key and columns."""
    file.write_text(GOOD)
    topology = load(file)
    assert topology.path == file
    assert topology.timeout == 1.5
    assert topology.router == RangeRouter({1: [(1, 10), (31, 40)], "two": [(11, 20)], 3: [(21, 30)]})
    told = {name: (place.table, place.key, place.columns) for name, place in topology.shards.items()}
    assert told == {
        1: ("data_1", "nr", ("label",)),
        "two": ("data", "id", None),
        3: ("data", "user_id", ("full_name", "amount")),
    }
    source = topology.shards[3].source()
    assert isinstance(source, PostgresShard)
    assert (source.key, source.columns) == ("user_id", ("full_name", "amount"))


async def test_the_reader_has_a_source_of_each_kind(good: Topology) -> None:
    """The scheme decides the kind; with `circuit` each source is behind a breaker."""
    kinds = {1: PostgresShard, "two": RedisShard, 3: PostgresShard}
    async with good.reader() as reader:
        assert {name: type(source) for name, source in reader.shards.items()} == kinds
        assert (reader.timeout, reader.router) == (1.5, good.router)
    async with good.reader(circuit=True) as reader:
        assert {type(source) for source in reader.shards.values()} == {CircuitBreaker}


@pytest.mark.parametrize(
    ("top", "own", "only"),
    [("", None, False), ("", "true", True), ("true", None, True), ("true", "false", False), ("false", "true", True)],
)
def test_a_file_says_that_only_its_own_nodes_are_dialled(file: Path, top: str, own: str | None, only: bool) -> None:
    """Set for one cluster or, at the top, for all; it applies to Redis Clusters only."""
    head = f"only_these = {top}\n" if top else ""
    other = one_shard(name=2, url='"redis://h"', ranges="[[11, 20]]")
    file.write_text(head + one_shard(url='"redis+cluster://h:1,g:2"', only_these=own) + other)
    places = load(file).shards
    assert (places[1].only_these, places[2].only_these) == (only, False)
    source = places[1].source()
    assert isinstance(source, RedisClusterShard)
    assert source._may_dial(("stranger", 3)) is not only
    assert source._may_dial(("g", 2))


def test_the_defaults_are_few(file: Path) -> None:
    """The timeout is two seconds, the key is id, and all columns of a table are read."""
    file.write_text(one_shard())
    assert load(file) == Topology(2.0, RangeRouter({1: [(1, 10)]}), {1: ShardPlace(URL, "data")})


def test_the_file_of_the_documentation_loads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in `help(labkit.topology)` loads."""
    monkeypatch.setenv("LABKIT_DB_PASSWORD", PASSWORD)
    example = re.findall(r"^    (.*)$|^$", labkit.topology.__doc__ or "", re.MULTILINE)
    file.write_text("\n".join(example))
    topology = load(file)
    told = {name: (place.table, place.layout) for name, place in topology.shards.items()}
    assert told == {
        1: ("public.people", "sorted-set"),
        "two": ("data", "hash"),
        3: ("data_3:{c}", "sorted-set"),
    }


def test_a_byte_order_mark_and_other_line_ends_are_no_error(file: Path) -> None:
    """The file loads as Windows editors save it."""
    file.write_bytes(b"\xef\xbb\xbf" + one_shard().replace("\n", "\r\n").encode())
    assert load(file).shards[1].table == "data"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "POSTGRESQL"])
def test_schemes_of_postgres(file: Path, scheme: str) -> None:
    """Every Postgres scheme ends up as asyncpg."""
    file.write_text(one_shard(url=f'"{scheme}://u@h/d"'))
    source = load(file).shards[1].source()
    assert isinstance(source, PostgresShard)
    assert source.url.drivername == "postgresql+asyncpg"


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h", "unix:///run/redis.sock", "unix://:x@/run/redis.sock"])
def test_schemes_of_redis(file: Path, url: str) -> None:
    """A Redis URL may be plain, use TLS, or name a unix socket."""
    file.write_text(one_shard(url=f'"{url}"'))
    assert isinstance(load(file).shards[1].source(), RedisShard)


@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster", "Redis+Cluster"])
def test_schemes_of_a_cluster(file: Path, scheme: str) -> None:
    """The URL names some of the nodes; it may also hold a user, a password and database 0, the only one."""
    for url in (f"{scheme}://h", f"{scheme}://u:${{{VARIABLE}}}@127.0.0.1:7001,127.0.0.1:7002/0"):
        file.write_text(one_shard(url=f'"{url}"', table='"data:{a}"', layout='"strings"'))
        place = load(file).shards[1]
        source = place.source()
        assert isinstance(source, RedisClusterShard)
        assert (source.key, source.layout.name) == ("data:{a}", "strings")
        assert load(file).to_toml().count(url[len(scheme) :]) == 1


def test_a_schema_stands_at_the_top_or_at_a_shard(file: Path) -> None:
    """The types are pyarrow's as it writes them; text and binary have labkit's own offsets."""
    file.write_text(
        'schema = { order_id = "int64" }\n'
        + one_shard(url='"redis://h"')
        + one_shard(url='"redis://h"', name="2", ranges="[[11, 20]]")
        + "[shards.schema]\n"
        + 'order_id = "int64"\n"the note" = "string"\namount = "decimal128(12, 2)"\n'
        + 'at = "timestamp[us, UTC]"\nseen = "timestamp[us, tz=UTC]"\ntags = "list<string>"\nraw = "binary"\n'
    )
    places = load(file).shards
    assert places[1].schema == pa.schema([("order_id", pa.int64())])
    assert places[2].schema == pa.schema(
        [
            ("order_id", pa.int64()),
            ("the note", pa.large_string()),
            ("amount", pa.decimal128(12, 2)),
            ("at", pa.timestamp("us", "UTC")),
            ("seen", pa.timestamp("us", "UTC")),
            ("tags", pa.list_(pa.large_string())),
            ("raw", pa.large_binary()),
        ]
    )
    assert places[2].columns is None


def test_a_layout_stands_at_the_top_or_at_a_shard(file: Path) -> None:
    """The shard's own layout takes precedence; Postgres shards have none and ignore the default."""
    file.write_text(
        'layout = "hash"\n'
        + one_shard(url='"redis://h"')
        + one_shard(url='"redis://h"', name="2", ranges="[[11, 20]]", layout='"strings"')
        + one_shard(name="3", ranges="[[21, 30]]")
    )
    topology = load(file)
    assert [place.layout for place in topology.shards.values()] == ["hash", "strings", "sorted-set"]
    kinds = [getattr(place.source(), "layout", None) for place in topology.shards.values()]
    assert [kind and kind.name for kind in kinds] == ["hash", "strings", None]
    written = tomllib.loads(topology.to_toml())
    assert [shard.get("layout") for shard in written["shards"]] == ["hash", "strings", None]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(quick, max_examples=60)
def test_any_password_in_a_variable_reaches_the_driver(tmp_path_factory: pytest.TempPathFactory, password: str) -> None:
    """A password is percent-encoded before the @ and decoded on connecting."""
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(one_shard(url=f'"postgresql://labkit:${{{VARIABLE}}}@h:1/d"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, password)
        source = load(file).shards[1].source()
    assert isinstance(source, PostgresShard)
    assert (source.url.username, source.url.password, source.url.host) == ("labkit", password, "h")


def test_variables_elsewhere_stand_as_they_are(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable may hold a whole URL or its host; $${ is a plain ${."""
    monkeypatch.setenv("WHOLE", "redis://:a%40b@127.0.0.1:7/3")
    monkeypatch.setenv("HOST", "db.example:7")
    for written, meant in [
        ("${WHOLE}", "redis://:a%40b@127.0.0.1:7/3"),
        ("redis://${HOST}/0", "redis://db.example:7/0"),
        ("redis://u$${x}:$y@${HOST}/0", "redis://u${x}:$y@db.example:7/0"),
    ]:
        file.write_text(one_shard(url=f'"{written}"'))
        assert load(file).shards[1].url == meant


NOW_A_LIST = "is a list of names now, and results keep the table's own"
ADD_URL = 'add url = "postgresql+asyncpg://user@host:5432/database" or "redis://host:6379/0"'
WRITE_URL = "write postgresql+asyncpg://user@host:5432/database or redis://host:6379/0"
SCHEMES = "expected one of postgresql, postgres, postgresql+asyncpg, redis, rediss, unix, redis+cluster, rediss+cluster"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "shards is missing: add [[shards]] with name, url, table and ranges"),
        ("shards = []", "the file has no shards: add [[shards]] with name, url, table and ranges"),
        ("[shards]\nname = 1", "shards must be tables: write [[shards]] above each"),
        ("shards = [1]", "[[shards]] number 1: must be a table, not 1"),
        ("[[shard]]\nname = 1", "unknown key 'shard'; did you mean shards?"),
        ("zzz = 1\n" + one_shard(), "unknown key 'zzz'; expected one of timeout, table, key, columns, schema, layout"),
        (one_shard(tabel='"x"'), "shard 1: unknown key 'tabel'; did you mean table?"),
        (
            one_shard(password='"x"'),
            "shard 1: unknown key 'password'; expected one of name, url, table, key, columns, schema, ",
        ),
        (one_shard(name=None), "[[shards]] number 1: name is missing: add name = 1"),
        (one_shard(name="1.5"), "[[shards]] number 1: name must be an integer or text, not 1.5"),
        (one_shard(name="true"), "[[shards]] number 1: name must be an integer or text, not True"),
        (one_shard(name='" "'), "the name of a shard must be an integer or a word, not ' '"),
        (one_shard(name=2**63), f"the name of a shard must fit in 64 bits: {2**63} does not"),
        (
            one_shard(name=f"0x{'f' * 5000}"),
            "the name of a shard must fit in 64 bits: a huge int does not",
        ),
        (one_shard(url=None), f"shard 1: url is missing: {ADD_URL}"),
        (one_shard(name='"eu"', ranges=None), "shard 'eu': ranges is missing: add ranges = [[1, 10]]"),
        (one_shard(table=None), 'shard 1: table is missing: add table = "data", here or once above all shards'),
        (one_shard(table='""'), "shard 1: table must be the name of a table, or a Redis key, not ''"),
        (one_shard(table="7"), "shard 1: table must be text, not 7"),
        (one_shard(url="7"), "shard 1: url must be text"),
        ('timeout = "2"\n' + one_shard(), "timeout must be a number of seconds, not '2'"),
        ("timeout = true\n" + one_shard(), "timeout must be a number of seconds, not True"),
        ("timeout = 0\n" + one_shard(), "timeout must be a positive number of seconds, not 0.0"),
        ("timeout = -1\n" + one_shard(), "timeout must be a positive number of seconds, not -1.0"),
        ("timeout = inf\n" + one_shard(), "timeout must be a positive number of seconds, not inf"),
        ("timeout = 1e300\n" + one_shard(), "timeout must be at most 2,147,483 seconds, not 1e+300"),
        ("timeout = nan\n" + one_shard(), "timeout must be a positive number of seconds, not nan"),
        (one_shard() + one_shard(ranges="[[11, 20]]"), "shards 1 and 1 have the same name: give each a different one"),
        (
            one_shard() + one_shard(name='"1"', ranges="[[11, 20]]"),
            "shards 1 and '1' have the same name: give each a different one",
        ),
        (one_shard(ranges="[]"), "shard 1 has no ranges: give it at least one (low, high), or leave it out"),
        (one_shard(ranges='"1-10"'), "shard 1: ranges must be a list of [low, high] pairs, not '1-10'"),
        (one_shard(ranges="[7]"), "shard 1: a range is a pair (low, high), not 7"),
        (one_shard(ranges="[[1, 2, 3]]"), "shard 1: a range is a pair (low, high), not [1, 2, 3]"),
        (one_shard(ranges="[[10, 1]]"), "shard 1: range [10, 1] is reversed: low must not be above high"),
        (one_shard(ranges="[[1, 2.5]]"), "shard 1: high of [1, 2.5] must be an integer, not 2.5"),
        (one_shard(ranges="[[1, 9223372036854775808]]"), "shard 1: high of [1, 9223372036854775808] must fit in 64"),
        (
            one_shard() + one_shard(name=2, ranges="[[10, 20]]"),
            "ranges overlap: (1, 10) of shard 1 and (10, 20) of shard 2; an ID has one owner",
        ),
        (one_shard(url='"mysql://u:{P}@h/d"'), f"shard 1: url has an unknown scheme; {SCHEMES}"),
        (
            one_shard(url='"postgresql+psycopg://u:{P}@h/d"'),
            f"shard 1: url has an unknown scheme; {SCHEMES}",
        ),
        (one_shard(url='"127.0.0.1"'), f"shard 1: url has no scheme: {WRITE_URL}"),
        (one_shard(url='"u:{P}@h://x"'), f"shard 1: url has no scheme: {WRITE_URL}"),
        (one_shard(url='""'), f"shard 1: url has no scheme: {WRITE_URL}"),
        (
            one_shard(url='"redis://:{P}@h:1/x"'),
            "shard 1: url is not a Redis URL; write redis://host:port/0 (or rediss://, unix://)",
        ),
        (
            one_shard(url='"postgresql://u:{P}@h:port/d"'),
            "shard 1: url is not a Postgres URL; write postgresql+asyncpg://user@host:port/database",
        ),
        (
            one_shard(url='"postgresql://u:{P}@h:99999/d"'),
            "shard 1: url has no valid host or port: a port is a number from 1 to 65535",
        ),
        *(
            (
                one_shard(url=f'"{url}"'),
                "shard 1: url holds one of / ? # @ in user or password: write it percent-encoded, or use ${NAME}",
            )
            for url in ("redis://:{P}/x@h", "redis://:1?{P}@h", "postgresql://u:x@{P}@h/d", "redis://:1#{P}@h")
        ),
        (
            one_shard(url='"redis://:{P} x@h"'),
            "shard 1: url holds white space or a control character: write it percent-encoded (%20)",
        ),
        (
            one_shard(url='"redis://:${LABKIT_NOT_SET}@h"'),
            "shard 1: url needs the variable LABKIT_NOT_SET, which is not set: export it",
        ),
        *(
            (
                one_shard(url=f'"{url}"'),
                "shard 1: ${…} in url must hold the name of a variable; write $${ for a plain ${",
            )
            for url in ("redis://:${}@h", "redis://:${a-b}@h", "redis://:${x", "redis://:${{x}}@h")
        ),
        (
            one_shard(url='"redis://h"', columns='["a"]'),
            "shard 1: columns are for Postgres, and this is a Redis shard: leave them out, or write schema",
        ),
        (
            'columns = ["a"]\n' + one_shard(url='"redis://h"'),
            "columns are for Postgres shards, of which this file has none: leave them out, or write schema",
        ),
        (
            one_shard(url='"redis://h"', key='"a"'),
            "shard 1: key is for Postgres, and this is a Redis shard: the first column of its schema is the key",
        ),
        (
            one_shard(schema='{ id = "int64" }'),
            "shard 1: schema is for Redis, and this is a Postgres shard: leave it out, or write columns",
        ),
        (
            'schema = { id = "int64" }\n' + one_shard(),
            "schema is for Redis shards, of which this file has none: leave it out, or write columns",
        ),
        (
            one_shard(url='"redis://h"', schema='{ nr = "string" }'),
            "shard 1: the first column of schema is the key, so 'nr' must be integers, not string",
        ),
        (
            one_shard(url='"redis://h"', schema='{ id = "int64", a = "list<list<int64>>" }'),
            "shard 1: column 'a' of schema: the type list<item: list<item: int64>> is not supported",
        ),
        *(
            (one_shard(url='"redis://h"', schema=schema), f"shard 1: schema{wrong}")
            for schema, wrong in [
                ("{}", " must have at least one column, the key"),
                ('["id"]', " must be a table of types as text such as { order_id ="),
                ("{ id = 7 }", " must be a table of types as text such as { order_id ="),
                (
                    '{ id = "int64", a = "timestmp[us]" }',
                    ": a has an unknown type, 'timestmp[us]'; did you mean timest",
                ),
                ('{ id = "int64", a = "decimal128(99, 2)" }', ": a has an unknown type, 'decimal128(99, 2)'; did you"),
                (
                    '{ id = "int64", a = "redis://:{P}@h" }',
                    ": a has an unknown type, an address; expected one of int64",
                ),
            ]
        ),
        *(
            (
                top + one_shard(url='"redis://h"', layout=own),
                "shard 1: unknown layout 'zset'; expected one of sorted-set, hash, strings",
            )
            for top, own in [("", "'zset'"), ("layout = 'zset'\n", None), ("layout = 'hash'\n", "'zset'")]
        ),
        (one_shard(url='"redis://h"', layout="7"), "shard 1: layout must be text, not 7"),
        ("layout = true\n" + one_shard(), "layout must be text, not True"),
        (one_shard(layout='"hash"'), "shard 1: layout is for Redis, and this is a Postgres shard: leave it out"),
        ('layout = "hash"\n' + one_shard(), "layout is for Redis shards, of which this file has none: leave it out"),
        *(
            (
                one_shard(url=url, only_these=value),
                "shard 1: only_these is for Redis Clusters, and this shard is not in one: leave it out",
            )
            for url, value in [('"redis://h"', "true"), (f'"{URL}"', "false")]
        ),
        (
            "only_these = true\n" + one_shard(url='"redis://h"'),
            "only_these is for Redis Clusters, of which this file has none: leave it out",
        ),
        (
            one_shard(url='"redis+cluster://h"', only_these='"yes"'),
            "shard 1: only_these must be true or false, not 'yes'",
        ),
        (
            one_shard(url='"redis+cluster://h"', layout='"strings"'),
            "shard 1: key 'data' has no hash tag, so its rows are spread over the cluster: write data:{tag}",
        ),
        *(
            (
                one_shard(url=f'"redis+cluster://:{{P}}@{hosts}"'),
                "shard 1: url is not the URL of a Redis Cluster; write redis+cluster://host:port,host:port",
            )
            for hosts in ("h:1,", "h:1,h:x", "h:99999", "h:1,h:1", "h:1/3", "h:0")
        ),
        (
            one_shard(columns='{ id = "user_id", name = "full_name" }'),
            f'shard 1: columns {NOW_A_LIST}: write key = "user_id" and columns = ["full_name"]',
        ),
        ('columns = { name = "label" }\n' + one_shard(), f'columns {NOW_A_LIST}: write columns = ["label"]'),
        *(
            (one_shard(columns=old), f'shard 1: columns {NOW_A_LIST}: write key = "id" and columns = ["name"]')
            for old in ("{ id = 1 }", '{ id = "redis://:{P}@h" }')
        ),
        (
            one_shard(columns='"amount"'),
            """shard 1: columns must be a list of names such as ["name", "amount"], not""",
        ),
        (one_shard(columns="[1]"), """shard 1: columns must be a list of names such as ["name", "amount"], not 1"""),
        (one_shard(columns='["a", "a"]'), "shard 1: columns must be a list of different names, not ['a', 'a']"),
        (one_shard(columns='[""]'), "shard 1: columns must be a list of different names, not ['']"),
        (one_shard(columns='["redis://:{P}@h"]'), "shard 1: columns must be a list of different names, not an address"),
        (one_shard(key="1"), "shard 1: key must be text, not 1"),
        (one_shard(key='""'), "shard 1: key must be the name of a column, not ''"),
        (one_shard(key='"redis://:{P}@h"'), "shard 1: key must be the name of a column, not an address"),
        # A URL where something else belongs.
        (one_shard(name='"redis://:{P}@h"'), "the name of a shard must be an integer or a word, not an address"),
        (one_shard(table='"redis://:{P}@h"'), "shard 1: table must be the name of a table, or a Redis key, not an"),
        (
            'timeout = "redis://:{P}@h"\n' + one_shard(),
            "timeout must be a number of seconds, not an address (not shown",
        ),
        (one_shard(ranges='["redis://:{P}@h"]'), "ranges must be lists of [low, high] pairs"),
        (one_shard() + '"redis://:{P}@h" = 1', "shard 1: unknown key an address (not shown: it may hold a p"),
        ('["redis://:{P}@h"]\n' * 2, "it is not TOML: an address is not a key"),
        # TOML itself.
        ("[[shards]]\nname = \n", "it is not TOML: Invalid value (at line 2, column 8)"),
        ("\n\nurl = redis://:{P}@h\n", "it is not TOML: Invalid value (at line 3, column 7)"),
        ('url = "redis://:{P}@h\n', "it is not TOML: Illegal character '\\n' (at line 1, column "),
        ("x = " + "[" * 9000, "it is not readable TOML: brackets are nested too deeply"),
        (f"x = {'1' * 5000}", "it is not TOML: Exceeds the limit"),
    ],
)
def test_what_is_wrong_is_one_line(file: Path, text: str, message: str) -> None:
    """The line names file, shard or key, value (never any of a URL) and fix; the planted password is nowhere."""
    file.write_text(text.replace("{P}", IN_FILE))
    said = error_of(file)
    assert said.startswith(f"lab.toml: {message}")
    assert "\n" not in said
    assert len(said) < 200
    assert not PLANTED.search(said)


def test_files_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    """A file that is missing, a folder, below a file, badly named or not UTF-8: one line each."""
    assert error_of(file) == "lab.toml: no such file: name another, or have labkit up write one"
    file.write_bytes(b'timeout = 1\n# caf\xe9\ntable = "x"\n')
    assert error_of(file) == "lab.toml: it is not UTF-8 (at line 2): save it as UTF-8"
    assert error_of(Path("lab.toml/x")) == "lab.toml/x: it cannot be read: not a directory"
    Path("folder").mkdir()
    assert error_of(Path("folder")) == "folder: it is a folder: name the file in it"
    assert "null byte" in error_of(Path("a\0b"))
    assert "file name too long" in error_of(Path("x" * 300))


@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_in_place_of_a_file_is_not_repeated(kind: type[Any]) -> None:
    """The error does not repeat the address, which may hold a password."""
    assert error_of(kind(URL)) == "an address is not a topology file: name a file that holds it"


def test_a_file_that_may_not_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the system's words; refusal is simulated, since root may read everything."""

    def refuse(_self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert error_of(file) == "lab.toml: it cannot be read: permission denied"


def test_a_topology_error_is_wrong_use(file: Path) -> None:
    """TopologyError is a ValueError and a UsageError; errors of ranges keep the router's own words."""
    assert issubclass(TopologyError, UsageError)
    with pytest.raises(RangeError) as caught:
        RangeRouter({1: [(1, 10)], 2: [(10, 20)]})
    file.write_text(one_shard() + one_shard(name=2, ranges="[[10, 20]]"))
    assert error_of(file) == f"lab.toml: {caught.value}"


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text.strip() and "://" not in text
)
NAMES = st.integers(-(2**63), 2**63 - 1) | WORDS
PARTS = st.text(st.sampled_from("abcXYZ019-_.~$%{}ü"), max_size=8)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any ranges and names, tables and columns of any characters, URLs with and without passwords."""
    spans = draw(huge_routers())
    count = len(spans.shards)
    names = draw(st.lists(NAMES, min_size=count, max_size=count, unique_by=str))
    ranges = dict(zip(names, spans.prune().values(), strict=True))
    return Topology(draw(st.floats(1e-6, 1e6)), RangeRouter(ranges), {name: draw(places()) for name in ranges})


@st.composite
def places(draw: st.DrawFn) -> ShardPlace:
    user, password = draw(PARTS), draw(PARTS)
    table = draw(WORDS)
    if draw(st.booleans()):
        url = draw(st.sampled_from(["redis://{}@h:1/0", "redis+cluster://{}@h:1,g:2/0"])).format(f"{user}:{password}")
        only_these = "+cluster" in url and draw(st.booleans())
        layout, schema = draw(st.sampled_from(LAYOUTS)), draw(st.none() | schemas())
        return ShardPlace(url, f"{{t}}:{table}", layout=layout, schema=schema, only_these=only_these)
    columns = draw(st.none() | st.lists(WORDS, max_size=4, unique=True).map(tuple))
    return ShardPlace(f"postgresql://{user}:{password}@h:1/d", table, draw(WORDS), columns)


@st.composite
def schemas(draw: st.DrawFn) -> pa.Schema:
    """Columns of every type that a file can declare, with any names."""
    plain = st.sampled_from(
        [
            pa.bool_(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.large_string(),
            pa.large_binary(), pa.date32(), pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC"),
            pa.month_day_nano_interval(),
        ]
    )  # fmt: skip
    kinds = plain | st.builds(pa.decimal128, st.integers(1, 38), st.integers(-10, 38)) | plain.map(pa.list_)
    key, *names = draw(st.lists(WORDS, min_size=1, max_size=5, unique=True))
    return pa.schema([(key, pa.int64()), *((name, draw(kinds)) for name in names)])


@quick
@given(topologies())
def test_what_is_written_loads_again(tmp_path_factory: pytest.TempPathFactory, topology: Topology) -> None:
    """`to_toml` writes TOML that `load` turns into an equal topology, for any characters, `${` included."""
    file = tmp_path_factory.getbasetemp() / "written.toml"
    file.write_text(topology.to_toml(), encoding="utf-8", newline="")
    again = load(file)
    assert again == topology
    assert {name: place.url for name, place in again.shards.items()} == {
        name: place.url for name, place in topology.shards.items()
    }
    assert again.to_toml() == topology.to_toml()


def test_a_variable_is_written_as_a_variable(file: Path) -> None:
    """Values from the environment do not end up in a file."""
    file.write_text(GOOD)
    written = load(file).to_toml()
    assert f"labkit:${{{VARIABLE}}}@" in written
    assert PASSWORD not in written
    file.write_text(written)
    assert load(file).to_toml() == written
    assert list(tomllib.loads(written)) == ["timeout", "shards"]


def test_names_that_no_file_can_hold() -> None:
    """A router may have keys of any type; a file holds only integers and text."""
    topology = Topology(2.0, RangeRouter({(1, 2): [(1, 10)]}), {(1, 2): ShardPlace("redis://h", "data")})
    with pytest.raises(UsageError, match=r"integer or text, not \(1, 2\)"):
        topology.to_toml()


async def test_no_password_in_repr_logs_or_results(good: Topology, caplog: pytest.LogCaptureFixture) -> None:
    """No password appears in the `repr` of topology, places or shards, in logs, or in a result with its causes."""
    with caplog.at_level(logging.DEBUG):
        for name in ("sqlalchemy", "asyncpg", "redis", "asyncio", "labkit"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        async with good.reader(circuit=True) as reader:
            reader._timeout = TIMEOUT
            result = await reader.read()
            shown = [repr(reader), repr(reader.shards), str(list(map(vars, reader.shards.values())))]
    assert not result.complete
    shown += [repr(good), str(good), repr(good.shards), repr(result), str(result.to_dict()), caplog.text]
    shown += [result._repr_html_(), *(repr(place.source()) for place in good.shards.values())]
    for text in shown:
        assert not PLANTED.search(text)


def test_no_password_in_a_traceback(file: Path) -> None:
    """Not even a traceback with all causes shows a password."""
    file.write_text(GOOD.replace("127.0.0.1:1/0", "127.0.0.1:1/zero"))
    with pytest.raises(TopologyError) as caught:
        load(file)
    assert not PLANTED.search("".join(traceback.format_exception(caught.value)))
    assert not PLANTED.search(repr(caught.value))


LOADED = """
import sys, labkit.topology
above = ("fastapi", "uvicorn", "psutil", "labkit.lab", "labkit.faults", "labkit.cli", "labkit.api", "labkit.matrix")
print([name for name in sys.modules if f"{name}.".startswith(tuple(f"{one}." for one in above))])
"""


def test_the_topology_needs_neither_fastapi_nor_a_lab() -> None:
    """The topology belongs to the core: engineers load it for their own readers."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["lab.toml", "lab-redis.toml"])
def test_the_playgrounds_files_load(name: str) -> None:
    """The files in cluster/ hold the classic table."""
    assert load(Path(__file__).parents[3] / "cluster" / name).router == CLASSIC
