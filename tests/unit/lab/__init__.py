"""Unit tests of `labkit/lab`."""
