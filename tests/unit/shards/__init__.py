"""Unit tests of `labkit/shards`."""
