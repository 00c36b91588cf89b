"""The RESTful access point: what a reader reads, over HTTP. Needs the extra `serve`."""

from __future__ import annotations

from labkit.api.app import create_app
from labkit.api.server import Server

__all__ = ["Server", "create_app"]
