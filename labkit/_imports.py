"""Imports on demand: public names that load on first use, and extras that may not be installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from labkit.errors import MissingExtra

__all__ = ["DISTRIBUTION", "EXTRAS", "install", "load", "need"]

DISTRIBUTION = "sharded-read-lab"
"""The name of this package on PyPI, where `labkit` is another project."""
EXTRAS = {
    "dask": ("dask",),
    "lab": ("jinja2", "psutil"),
    "notebooks": ("ipykernel", "jupyterlab", "nbclient", "nbstripout"),
    "pytest": ("pytest",),
    "serve": ("fastapi", "fastapi_offline", "httptools", "uvicorn"),
}
"""For each extra that the package itself imports, the libraries it cannot do without. Server binaries and
testcontainers are not listed: a lab looks for them itself and can run with only some of them."""


def load(package: str, home: Mapping[str, str], name: str) -> Any:
    """The object `name` of `package`, imported from the module that `home` gives for it (PEP 562).

    Where `name` is itself a module, that module.
    """
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module = import_module(home[name])
    value = module if home[name] == f"{package}.{name}" else getattr(module, name)
    setattr(sys.modules[package], name, value)
    return value


def install(extra: str) -> str:
    """The command that installs an extra; pip fetches only what is not installed yet."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def need(extra: str) -> None:
    """Raises `MissingExtra`, which says what to install, if a library of this extra is missing."""
    absent = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if absent:
        raise MissingExtra(f"the extra {extra!r} is not installed (no {', no '.join(absent)}): {install(extra)}")
