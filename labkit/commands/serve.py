"""`labkit serve`: the shards of a topology file as a RESTful access point."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import click

from labkit.show.words import count
from labkit.streams import visible
from labkit.topology import Topology, load

__all__ = ["command"]


def command(topology: str, timeout: float | None, host: str, port: int, circuit: bool) -> Coroutine[Any, Any, int]:
    """Checks what can be checked before anything runs, and returns what serves, to its exit code."""
    from labkit.api.server import serve

    return _served(load(topology).within(timeout), serve, host, port, circuit)


async def _served(topology: Topology, serve: Callable[..., Any], host: str, port: int, circuit: bool) -> int:
    def announce(url: str) -> None:
        shards = f"{count(len(topology.shards), 'shard')} of {topology.path}"
        click.echo(visible(f"labkit: {url} ({shards}; stop with Ctrl-C)"))

    async with topology.reader(circuit=circuit) as reader:
        await serve(reader, host, port, announce)
    return 0
