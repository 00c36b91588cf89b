"""Unit tests of `labkit/show`."""
