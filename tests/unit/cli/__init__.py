"""Unit tests of `labkit/cli`."""
