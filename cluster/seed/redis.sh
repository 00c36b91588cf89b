#!/bin/sh
# Runs a Redis shard: the sorted set LABKIT_TABLE has one row per ID in LABKIT_IDS ("1-10 31-40"), score = id,
# member = the row as JSON. It is filled before clients can connect, if it does not exist yet.
set -eu
socket=/tmp/seed.sock

redis-server --port 0 --unixsocket "$socket" --save "" --appendonly yes --daemonize yes >/dev/null
until [ "$(redis-cli -s "$socket" ping 2>/dev/null)" = PONG ]; do sleep 0.05; done
if [ "$(redis-cli -s "$socket" exists "$LABKIT_TABLE")" = 0 ]; then
    set --
    for range in $LABKIT_IDS; do
        for id in $(seq "${range%-*}" "${range#*-}"); do set -- "$@" "$id" "[$id,\"Test $id\"]"; done
    done
    redis-cli -s "$socket" zadd "$LABKIT_TABLE" "$@" >/dev/null  # all rows or none
fi
redis-cli -s "$socket" shutdown >/dev/null

exec redis-server --save "" --appendonly yes --protected-mode no
