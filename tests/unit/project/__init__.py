"""Unit tests of what surrounds the package: CI, benchmark, the tests' own clock."""
