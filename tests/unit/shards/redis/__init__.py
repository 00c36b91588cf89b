"""Unit tests of `labkit/shards/redis`."""
