"""A plugin for pytest: real shards as the fixture `lab`, and faults as marks."""

from labkit._imports import need

need("pytest")

from labkit.pytest.plugin import *  # noqa: E402, F403 - says first which extra is missing
