"""Unit tests of `labkit/topology`."""
