"""Unit tests of `labkit/matrix`."""
