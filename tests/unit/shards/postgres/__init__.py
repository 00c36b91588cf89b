"""Unit tests of `labkit/shards/postgres`."""
