"""Finds the nodes of a cluster: asks all start-up nodes at once and believes the first that knows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from labkit.cli.call.failures import CallFailure, NobodyAnswers
from labkit.cli.call.nodes import Member, View, endpoints, name_of, parse
from labkit.cli.call.wire import Wire, Words
from labkit.report import Status
from labkit.shards.redis.cluster.slots import Address

__all__ = ["Discovery", "discover"]

NO_CLUSTER = ("cluster support disabled", "unknown command")


@dataclass(frozen=True)
class Discovery:
    """What a start-up node answered: its view of the cluster, and its replies to further commands."""

    view: View
    replies: tuple[Any, ...]


async def discover(wire: Wire, *also: Words) -> Discovery:
    """The answer of the first start-up node, which is sent the commands `also` too. A node that knows no owner of any
    slot counts only if no other answers within half of the timeout. Raises `NobodyAnswers`.
    """
    asked = {asyncio.create_task(_ask(wire, start, also)): start for start in wire.starts}
    half = wire.deadline - wire.seconds / 2
    fallback: Discovery | None = None
    failures: dict[Address, CallFailure] = {}
    pending = set(asked)
    try:
        while pending:
            left = None if fallback is None else max(0.0, half - asyncio.get_running_loop().time())
            done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                answer = task.result()
                if isinstance(answer, CallFailure):
                    failures[asked[task]] = answer
                elif answer.view.serving:
                    return answer
                else:
                    fallback = fallback or answer
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if fallback is None:
        raise _nobody({start: failures[start] for start in wire.starts})
    return fallback


async def _ask(wire: Wire, start: Address, also: tuple[Words, ...]) -> Discovery | CallFailure:
    try:
        nodes, *replies, slots = await wire.exchange(start, (b"CLUSTER", b"NODES"), *also, (b"CLUSTER", b"SLOTS"))
        return Discovery(_view(wire, nodes, slots, start), tuple(replies))
    except CallFailure as failure:
        return failure


def _view(wire: Wire, reply: Any, slots: Any, start: Address) -> View:
    if not isinstance(reply, ResponseError):
        return View(start, parse(reply, start, hostnames=wire.tls, endpoints=endpoints(slots, start)))
    if any(words in str(reply).lower() for words in NO_CLUSTER):
        return View(start, (Member("", start),), cluster=False)
    raise CallFailure(Status.REJECTED, wire.said(reply))


def _nobody(failures: dict[Address, CallFailure]) -> NobodyAnswers:
    causes = ", ".join(f"{name_of(start)} {failure}" for start, failure in failures.items())
    refused = all(failure.status is Status.REJECTED for failure in failures.values())
    hint = "" if refused else "; name other nodes too, with commas: --url redis://HOST:PORT,HOST:PORT"
    return NobodyAnswers(f"no start-up node says who is in the cluster ({causes}){hint}")
