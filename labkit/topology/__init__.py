"""The topology file: which shards there are, where, and which IDs each of them owns; `load` reads it. It is TOML:

    timeout = 2.0                             # seconds a read may take; 2.0 if left out
    table = "data"                            # for shards that name none of their own; of Redis shards the key
    columns = { id = "id", name = "name" }    # what Postgres tables call the two columns; so if left out
    layout = "sorted-set"                     # how Redis keeps the rows: so if left out, or "hash", "strings"
    only_these = false                        # true: of a Redis Cluster only nodes that its url names are dialled

    [[shards]]
    name = 1                                  # an integer or text
    url = "postgresql+asyncpg://labkit:${LABKIT_DB_PASSWORD}@127.0.0.1:54321/labkit"
    table = "public.people"                   # schema.table, or table
    columns = { id = "user_id", name = "full_name" }
    ranges = [[1, 10], [31, 40]]              # both ends inclusive

    [[shards]]
    name = "two"
    url = "redis://127.0.0.1:63792/0"         # or rediss://, unix://
    layout = "hash"
    ranges = [[11, 20]]

    [[shards]]
    name = 3
    url = "redis+cluster://127.0.0.1:7001,127.0.0.1:7002"  # some nodes of a Redis Cluster; or rediss+cluster://
    table = "data_3:{c}"                      # the hash tag says which node it is on
    only_these = true                         # whatever the cluster says, nobody else is dialled
    ranges = [[21, 30]]

`${NAME}` in a url is the value of that variable. Before the @ it is percent-encoded, so that any password will do;
elsewhere, and where there is no @, it stands as it is, so that "${URL}" may be a whole one. `$${` is a plain `${`.
"""

from __future__ import annotations

from labkit.topology.reading import load
from labkit.topology.topology import ShardPlace, Topology

__all__ = ["ShardPlace", "Topology", "load"]
