"""A plugin for pytest: real shards as the fixture `lab`, and faults as marks."""

from labkit._imports import need

need("pytest")

from labkit.pytest.plugin import (  # noqa: E402 - says first which extra is missing
    lab,
    pytest_addoption,
    pytest_configure,
    pytest_pyfunc_call,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_teardown,
)

__all__ = [
    "lab",
    "pytest_addoption",
    "pytest_configure",
    "pytest_pyfunc_call",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_teardown",
]
