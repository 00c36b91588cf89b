"""`pytest --nbval -p labkit.notebook.plugin`: nbval with the comparison and the guards of `labkit notebook check`.

It does nothing without `--nbval` or `--nbval-lax`.
"""

from __future__ import annotations

import pytest

__all__ = ["pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Adds the hooks that know nbval, if it is asked for."""
    if config.getoption("nbval", default=False) or config.getoption("nbval_lax", default=False):
        from labkit.notebook import items

        config.pluginmanager.register(items)
