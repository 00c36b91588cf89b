"""Unit tests of `labkit/dask`."""
