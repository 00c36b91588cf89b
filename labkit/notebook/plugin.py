"""`pytest --nbval -p labkit.notebook.plugin`: nbval with the masks and guards of `labkit notebook check`.

It does nothing without `--nbval` or `--nbval-lax`.
"""

from __future__ import annotations

import pytest

__all__ = ["pytest_configure", "pytest_unconfigure"]

_PUT_BACK = pytest.StashKey[pytest.MonkeyPatch]()


def pytest_configure(config: pytest.Config) -> None:
    """Puts labkit's notebooks and cells in the place of nbval's, which has no hooks for that."""
    if config.getoption("nbval", default=False) or config.getoption("nbval_lax", default=False):
        from labkit.notebook.replay import install

        config.stash[_PUT_BACK] = patch = pytest.MonkeyPatch()
        install(patch)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Puts nbval's back."""
    if _PUT_BACK in config.stash:
        config.stash[_PUT_BACK].undo()
