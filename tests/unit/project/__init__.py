"""Unit tests of the tooling around the package: CI, benchmark, the tests' own clock."""
