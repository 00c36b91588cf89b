"""Unit tests of `labkit/api`."""
