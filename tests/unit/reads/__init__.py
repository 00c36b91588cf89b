"""Unit tests of `labkit/reads`."""
