#!/bin/sh
# Creates the table LABKIT_TABLE with one row per ID in LABKIT_IDS ("1-10 31-40").
# The image runs this once, on a new data folder, before clients can connect.
set -eu
sql() { psql -q -v ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --command="$1"; }

sql "CREATE TABLE $LABKIT_TABLE (id INT PRIMARY KEY, name VARCHAR(255))"
for range in $LABKIT_IDS; do
    sql "INSERT INTO $LABKIT_TABLE SELECT id, 'Test ' || id FROM generate_series(${range%-*}, ${range#*-}) AS id"
done
