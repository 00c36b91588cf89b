"""The topology file, read by `load`: the shards, where they are, and which IDs each of them owns. It is TOML:

    timeout = 2.0                             # seconds a read may take; 2.0 if left out
    table = "data"                            # for shards without their own; for Redis shards the key
    key = "id"                                # in Postgres, the column of IDs; this is the default
    columns = ["name", "amount"]              # in Postgres, the other columns to read; all if left out
    layout = "sorted-set"                     # how Redis stores rows: so (the default), "hash", "strings", "hashes"
    schema = { id = "int64", name = "string", amount = "decimal128(12, 2)" }    # the columns in Redis, the key first
    only_these = false                        # true: dial only the Redis Cluster nodes that the url names

    [[shards]]
    name = 1                                  # an integer or text
    url = "postgresql+asyncpg://labkit:${LABKIT_DB_PASSWORD}@127.0.0.1:54321/labkit"
    table = "public.people"                   # schema.table, or table
    key = "user_id"
    ranges = [[1, 10], [31, 40]]              # both ends inclusive

    [[shards]]
    name = "two"
    url = "redis://127.0.0.1:63792/0"         # or rediss://, unix://
    layout = "hash"
    ranges = [[11, 20]]

    [[shards]]
    name = 3
    url = "redis+cluster://127.0.0.1:7001,127.0.0.1:7002"  # some nodes of a Redis Cluster; or rediss+cluster://
    table = "data_3:{c}"                      # the hash tag decides which node it is on
    only_these = true                         # dial no other node, whatever the cluster says
    ranges = [[21, 30]]

Rows have the names and types of their table. Redis has neither: without a schema, its rows are (id, name). Types are
written as pyarrow does: int16, int32, int64, float, double, bool, string, binary, date32, time64[us], timestamp[us],
timestamp[us, UTC], decimal128(precision, scale), month_day_nano_interval, list<…> of one of these. See `RedisShard`.

`${NAME}` in a url is the value of that environment variable. Before the @ it is percent-encoded, so that any password
works; elsewhere, and if there is no @, it is inserted as it is, so that "${URL}" can be a whole URL. `$${` is a plain
`${`.
"""

from __future__ import annotations

from labkit.topology.reading import load
from labkit.topology.topology import Located, ShardPlace, Topology

__all__ = ["Located", "ShardPlace", "Topology", "load"]
