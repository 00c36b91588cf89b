"""What is installed only where it was asked for: the extras of the package, and the one error where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from labkit.errors import MissingExtra

__all__ = ["DISTRIBUTION", "EXTRAS", "install", "need"]

DISTRIBUTION = "sharded-read-lab"
"""What pip calls this package. The name `labkit` is somebody else's there."""
EXTRAS = {
    "dask": ("dask",),
    "lab": ("jinja2", "psutil"),
    "notebooks": ("jupyterlab",),
    "serve": ("fastapi", "fastapi_offline", "httptools", "uvicorn"),
}
"""The extras that the package itself imports, and what cannot be missing. Server programs and testcontainers are
looked for by a lab, which can do with some of them."""


def install(extra: str) -> str:
    """The command that installs an extra; where the package is here, pip fetches only what the extra adds."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def need(extra: str) -> None:
    """Raises `MissingExtra`, which says what to install, where a library of this extra is not here."""
    absent = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if absent:
        raise MissingExtra(f"the extra {extra!r} is not installed (no {', no '.join(absent)}): {install(extra)}")
