"""Who is in the cluster: all start-up nodes are asked at once, and the first that knows is believed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from labkit.cli.call.failures import CallFailure, NobodyAnswers
from labkit.cli.call.nodes import Node, View, endpoints, name_of, parse
from labkit.cli.call.wire import Address, Wire, Words
from labkit.report import Status

__all__ = ["Introduction", "introduced"]

NO_CLUSTER = ("cluster support disabled", "unknown command")


@dataclass(frozen=True)
class Introduction:
    """What a start-up node answered: how it sees the cluster, and its replies to what else it was asked."""

    view: View
    replies: tuple[Any, ...]


async def introduced(wire: Wire, *also: Words) -> Introduction:
    """The first start-up node's answer. A node that knows nobody who serves a slot counts only where no other answers
    in half of the time. Raises `NobodyAnswers`.
    """
    asked = {asyncio.create_task(_introduce(wire, start, also)): start for start in wire.starts}
    half = wire.deadline - wire.seconds / 2
    second: Introduction | None = None
    failures: dict[Address, CallFailure] = {}
    pending = set(asked)
    try:
        while pending:
            left = None if second is None else max(0.0, half - asyncio.get_running_loop().time())
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
                    second = second or answer
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if second is None:
        raise _nobody({start: failures[start] for start in wire.starts})
    return second


async def _introduce(wire: Wire, start: Address, also: tuple[Words, ...]) -> Introduction | CallFailure:
    try:
        nodes, *replies, slots = await wire.exchange(start, (b"CLUSTER", b"NODES"), *also, (b"CLUSTER", b"SLOTS"))
        return Introduction(_view(wire, nodes, slots, start), tuple(replies))
    except CallFailure as failure:
        return failure


def _view(wire: Wire, reply: Any, slots: Any, start: Address) -> View:
    if not isinstance(reply, ResponseError):
        return View(start, parse(reply, start, hostnames=wire.tls, endpoints=endpoints(slots, start)))
    if any(words in str(reply).lower() for words in NO_CLUSTER):
        return View(start, (Node("", start),), cluster=False)
    raise CallFailure(Status.REJECTED, wire.said(reply))


def _nobody(failures: dict[Address, CallFailure]) -> NobodyAnswers:
    causes = ", ".join(f"{name_of(start)} {failure}" for start, failure in failures.items())
    refused = all(failure.status is Status.REJECTED for failure in failures.values())
    hint = "" if refused else "; name other nodes too, with commas: --url redis://HOST:PORT,HOST:PORT"
    return NobodyAnswers(f"no start-up node says who is in the cluster ({causes}){hint}")
