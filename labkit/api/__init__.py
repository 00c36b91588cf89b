"""The RESTful access point: what a reader reads, over HTTP. Needs the extra `serve`."""

from __future__ import annotations

from labkit._imports import need

need("serve")

from labkit.api.app import create_app  # noqa: E402 - needs the extra
from labkit.api.limits import Limits  # noqa: E402
from labkit.api.server import Server  # noqa: E402

__all__ = ["Limits", "Server", "create_app"]
