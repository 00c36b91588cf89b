"""Proxies in front of servers that labkit did not start, for network faults."""

from __future__ import annotations

from labkit.proxies.proxies import Proxies

__all__ = ["Proxies"]
