"""`labkit serve`: serves the shards of a topology file over HTTP."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Coroutine
from typing import Any

import click

from labkit._streams import visible
from labkit.show.format import count
from labkit.topology import Topology, load

__all__ = ["command"]


def command(
    topology: str,
    timeout: float | None,
    host: str,
    port: int,
    circuit: bool,
    allow_host: Collection[str],
    **limits: Any,
) -> Coroutine[Any, Any, int]:
    """Checks what can be checked before anything runs; returns the coroutine that serves and gives the exit code."""
    from labkit.api.gate import host_names
    from labkit.api.limits import Limits
    from labkit.api.server import serve

    given = {"limits": Limits(**limits), "allow_hosts": host_names(allow_host)}
    return _served(load(topology).within(timeout), serve, host, port, circuit, given)


async def _served(
    topology: Topology, serve: Callable[..., Any], host: str, port: int, circuit: bool, given: dict[str, Any]
) -> int:
    def announce(url: str) -> None:
        shards = f"{count(len(topology.shards), 'shard')} of {topology.path}"
        click.echo(visible(f"labkit: {url} ({shards}; stop with Ctrl-C)"))
        # Everything loaded so far is permanent; otherwise each full collection would scan it while clients wait.
        gc.collect()
        gc.freeze()

    async with topology.reader(circuit=circuit) as reader:
        await serve(reader, host, port, announce, **given)
    return 0
