"""Options in shard URLs: an unknown or wrong one is refused before anything is dialled, and no password is shown."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.errors import TopologyError, UsageError
from labkit.shards import PostgresShard, RedisClusterShard, RedisShard
from labkit.shards.postgres.url import as_url, connect_args
from labkit.topology import load

SECRET = "hunter2"
KINDS: dict[str, Any] = {
    "postgresql": PostgresShard,
    "redis": RedisShard,
    "rediss": RedisShard,
    "unix": RedisShard,
    "redis+cluster": RedisClusterShard,
    "rediss+cluster": RedisClusterShard,
}


def made(url: str) -> Any:
    """The shard for that URL."""
    return KINDS[url.partition(":")[0].lower()](url, "data_1")


UNKNOWN = "the URL has an unknown option after its ?; "
REDIS = "expected one of client_name, db, health_check_interval, password, socket_keepalive, username"
WRONG = "the URL's option {} has a wrong value: correct it, or leave it out"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:1/0?reply=1", UNKNOWN + REDIS),
        ("redis://h:1/0?decode_responses=yes", UNKNOWN + REDIS),  # it would change the type of answers
        (f"redis://h:1/0?{SECRET}=1", UNKNOWN + REDIS),
        ("redis://h:1/0?ssl_cert_reqs=none", UNKNOWN + REDIS),  # not a TLS URL
        ("rediss://h:1/0?ssl_check_hostname=no&ssl_ca_cert=a", UNKNOWN + "did you mean ssl_ca_certs"),
        ("unix:///tmp/s?socket_keepalive=1", UNKNOWN + "expected one of client_name, db"),
        ("redis+cluster://h:1,h:2/0?reply=1", UNKNOWN + REDIS),
        ("redis://h:1/0?db=", "the URL's option db has no value: write db=…, or leave it out"),
        ("redis://h:1?db=1&db=2", "the URL has the option db twice: write it once"),
        ("redis://h:1?db=x", WRONG.format("db")),
        ("redis://h:1?health_check_interval=x", WRONG.format("health_check_interval")),
        (f"redis://h:1/0?client_name=a&socket_timeout={SECRET}", WRONG.format("socket_timeout")),
        (f"rediss://h:1?ssl_cert_reqs={SECRET}", WRONG.format("ssl_cert_reqs")),
        ("redis+cluster://h:1,h:2?db=3", "a Redis Cluster has no database but 0: leave the URL's option db out"),
        ("postgresql://u@h/d?sslmod=require", UNKNOWN + "did you mean sslmode"),
        (f"postgresql://u@h/d?sslmode={SECRET}", "sslmode has an unknown value: write one of disable, allow, prefer"),
        ("postgresql://u@h/d?sslmode=require&ssl=disable", "ssl and sslmode differ: write sslmode=require alone"),
        ("postgresql://u@h/d?statement_timeout=0", "option statement_timeout has an unknown value: write one of off"),
        ("postgresql://u@h/d?timeout=5", UNKNOWN + "expected one of database, gsslib, host, krbsrvname, passfile"),
        (f"postgresql://u@h/d?{SECRET}=5", UNKNOWN + "expected one of"),
        (f"postgresql://u@h/d?ssl={SECRET}", "the URL's option ssl has an unknown value: write one of disable, allow"),
        ("postgresql://u@h/d?ssl=", "the URL's option ssl has no value: write ssl=…, or leave it out"),
        ("postgresql://u@h/d?user=u&ssl", "the URL's option ssl has no value: write ssl=…, or leave it out"),
        ("postgresql://u@h/d?ssl=require&ssl=disable", "the URL has the option ssl twice: write it once"),
        ("postgresql://u@h/d?target_session_attrs=first", "unknown value: write one of any, primary, standby"),
        ("postgresql://u@/d?host=a&host=b", WRONG.format("host")),
        ("postgresql://u@/d?host=a&port=x", WRONG.format("port")),
        ("postgresql://u@h/d?prepared_statement_cache_size=x", WRONG.format("prepared_statement_cache_size")),
    ],
)
def test_an_option_that_is_none_is_refused_when_the_shard_is_made(url: str, said: str) -> None:
    """The error is one line that says what to write and never repeats an unknown word."""
    with pytest.raises(UsageError) as caught:
        made(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://h:1/2", {"host": "h", "port": 1, "db": 2}),
        ("redis://h:1/0?client_name=me&db=3", {"client_name": "me", "db": 3}),
        ("redis://h:1/0?socket_keepalive=no&health_check_interval=9", {"socket_keepalive": False}),
        (f"redis://h:1/0?username=u&password={SECRET}", {"username": "u", "password": SECRET}),
        ("rediss://h:1/0?ssl_cert_reqs=none&ssl_ca_certs=/a/b", {"ssl_cert_reqs": "none", "ssl_ca_certs": "/a/b"}),
        ("unix:///tmp/s?db=2", {"path": "/tmp/s", "db": 2}),
        ("REDISS://h:1/0?ssl_cert_reqs=none", {"host": "h", "ssl_cert_reqs": "none"}),
        ("redis+cluster://h:1,h:2/0?db=0&client_name=me", {"client_name": "me"}),
        ("rediss+cluster://h:1,h:2?ssl_check_hostname=no", {"ssl_check_hostname": False}),
    ],
)
def test_a_known_option_of_redis_has_its_effect(url: str, options: dict[str, Any]) -> None:
    """A known option is passed to the connections."""
    shard = made(url)
    told = shard._options if isinstance(shard, RedisClusterShard) else shard._server._options
    assert told.items() >= options.items()


def test_options_for_other_programs_are_taken_and_have_no_effect() -> None:
    """A URL written for another redis-py program is accepted; options without a meaning here are ignored."""
    plain = RedisShard("redis://h:1/0", "data_1")
    whole = "protocol=3&socket_timeout=9&socket_connect_timeout=9&retry_on_timeout=yes&max_connections=1"
    shard = RedisShard(f"redis://h:1/0?{whole}&socket_read_size=1", "data_1")
    assert shard._server._options == plain._server._options


@pytest.mark.parametrize(
    ("url", "query"),
    [
        ("postgresql://u@h/d?ssl=disable&target_session_attrs=primary", {"target_session_attrs": "primary"}),
        (f"postgresql://h/d?user=u&password={SECRET}&port=7", {"password": SECRET, "port": "7"}),
        ("postgresql://u@/d?host=/tmp/place", {"host": "/tmp/place"}),
        ("postgresql://u@/d?host=a:1&host=b:2", {"host": ("a:1", "b:2")}),
        ("postgresql://u@h/d?prepared_statement_cache_size=0", {}),
        ("postgresql://u@h/d?sslmode=verify-full", {"ssl": "verify-full"}),
        ("postgresql://u@h/d?sslmode=require&ssl=require", {"ssl": "require"}),
        (f"postgresql://u:{SECRET}?x@h/d", {}),
        (f"postgresql://u:{SECRET}&x=@h/d?ssl=disable", {"ssl": "disable"}),
    ],
)
def test_a_known_option_of_postgres_has_its_effect(url: str, query: dict[str, Any]) -> None:
    """A known option reaches the driver; nothing inside the password is taken for one."""
    assert made(url).url.query.items() >= query.items()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0?reply=1", "postgresql://u@127.0.0.1:1/d?sslmod=require"])
def test_a_topology_file_names_the_shard(url: str, tmp_path: Any) -> None:
    """For a topology file the error begins with the shard's name."""
    file = tmp_path / "lab.toml"
    file.write_text(f'[[shards]]\nname = 1\nurl = "{url}"\ntable = "data_1"\nranges = [[1, 10]]\n')
    with pytest.raises(TopologyError, match="shard 1: the URL has an unknown option"):
        load(file)


@pytest.mark.parametrize(
    ("url", "environment", "told"),
    [
        ("postgresql://h/d", {"PGPORT": "7", "PGHOST": "other"}, {"host": "h", "port": 5432}),
        ("postgresql://h/d", {"PGTARGETSESSIONATTRS": "standby"}, {"target_session_attrs": "any"}),
        ("postgresql://h/d?target_session_attrs=primary", {}, {"target_session_attrs": "primary"}),
        (
            "postgresql://h/d",
            {"PGSSLNEGOTIATION": "direct", "PGGSSLIB": "x"},
            {"direct_tls": False, "gsslib": "gssapi"},
        ),
        ("postgresql://h/d", {"PGSSLMODE": "require"}, {"ssl": "require"}),
        ("postgresql://h/d?sslmode=disable", {"PGSSLMODE": "nonsense"}, {"ssl": "disable"}),
        ("postgresql://h/d", {"PGSSLMODE": ""}, {"ssl": None}),
        ("postgresql:///d", {"PGHOST": "h", "PGPORT": "7"}, {"host": None, "port": None}),  # left to asyncpg
        ("postgresql://u@/d?host=a:1&host=b:2", {"PGPORT": "x"}, {"host": ["a", "b"], "port": [1, 2]}),
    ],
)
def test_the_environment_says_only_what_the_url_leaves_out(
    url: str, environment: dict[str, str], told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable only fills in what the URL leaves out; it never picks among several servers or replaces the URL's."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    args = connect_args(as_url(url))
    assert {name: args.get(name) for name in told} == told


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PGSSLMODE", "no", "PGSSLMODE is 'no' in the environment: set it to one of disable, allow"),
        ("PGPORT", "http", "PGPORT is 'http' in the environment: set it to a port number"),
    ],
)
def test_a_variable_that_counts_and_cannot_be_meant_is_named(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong value is a one-line error when the shard is made, not a driver's traceback at the first read."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said):
        connect_args(as_url("postgresql:///d"))
