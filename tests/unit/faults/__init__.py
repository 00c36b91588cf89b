"""Unit tests of `labkit/faults`."""
