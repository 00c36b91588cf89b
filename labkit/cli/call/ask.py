"""A command on the node that owns its key, or on all nodes concurrently."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import AskError, MovedError, ResponseError

from labkit.cli.call.failures import CallFailure
from labkit.cli.call.nodes import Member, View, name_of
from labkit.cli.call.startup import discover
from labkit.cli.call.wire import Wire, Words
from labkit.errors import UsageError
from labkit.report import Status
from labkit.shards.redis.cluster.slots import Address, key_slot, redirect_target

__all__ = ["NodeReply", "ask_all", "ask_owner"]

REDIRECTS = 5
"""Redirects followed before giving up, as many as redis-cli and most clients follow."""
NAMED = 4
"""Most keys that an error names."""


@dataclass(frozen=True)
class NodeReply:
    """The outcome of a command on one node: a reply (RESP2) or a failure."""

    name: str
    role: str = ""
    reply: Any = None
    failure: CallFailure | None = None


async def ask_owner(wire: Wire, words: Words) -> NodeReply:
    """Asks the node that owns the command's keys, which the server finds among its words. A command without a key is
    sent to the first start-up node that answers. MOVED and ASK are followed.

    Raises `UsageError` for keys in several slots, and `NobodyAnswers`.
    """
    found = await discover(wire, (b"COMMAND", b"GETKEYS", *words))
    view, (keys,) = found.view, found.replies
    try:
        address = _owner(wire, view, [key for key in keys if isinstance(key, bytes)] if isinstance(keys, list) else [])
    except CallFailure as failure:
        return NodeReply(name_of(view.by), failure=failure)
    return await _followed(wire, address, words)


async def ask_all(wire: Wire, words: Words, *, masters: bool = False) -> list[NodeReply]:
    """Asks every node that the cluster knows, or every master, concurrently and under one deadline.

    Raises `NobodyAnswers`.
    """
    view = (await discover(wire)).view
    nodes = [node for node in view.nodes if not masters or node.role != "replica"]
    return await asyncio.gather(*(_asked(wire, node, words) for node in nodes))


def _owner(wire: Wire, view: View, keys: Sequence[bytes]) -> Address:
    if not keys or not view.cluster:
        return view.by
    slots = {key: key_slot(key) for key in keys}
    if len(set(slots.values())) > 1:
        raise UsageError(wire.secrets.masked(_cross_slot(slots)))
    slot = slots[keys[0]]
    owner = view.owner(slot)
    if owner is None:
        raise CallFailure(Status.REJECTED, f"no node of the cluster serves slot {slot}")
    if owner.address is None:
        raise _no_address(slot)
    return owner.address


def _cross_slot(slots: dict[bytes, int]) -> str:
    shown = [f"{key.decode(errors='backslashreplace')!r} in {slot}" for key, slot in list(slots.items())[:NAMED]]
    more = [f"{len(slots) - NAMED} more"] if len(slots) > NAMED else []
    return (
        f"the keys are in several slots: {', '.join([*shown, *more])}; one command is for one slot: "
        "give the keys the same hash tag, as in {x}:a and {x}:b"
    )


async def _followed(wire: Wire, address: Address, words: Words) -> NodeReply:
    commands: list[Words] = [words]
    try:
        for _ in range(REDIRECTS + 1):
            *_, reply = await wire.exchange(address, *commands)
            if not isinstance(reply, AskError):
                return NodeReply(_named(wire, address), reply=_checked(wire, reply))
            target = redirect_target(reply, address)
            if target is None:
                raise _no_address(reply.slot_id)
            address = target
            commands = [words] if isinstance(reply, MovedError) else [(b"ASKING",), words]
    except CallFailure as failure:
        return NodeReply(_named(wire, address), failure=failure)
    cause = f"sent on {REDIRECTS} times, and then again: the nodes do not agree who owns slot {reply.slot_id}"
    return NodeReply(_named(wire, address), failure=CallFailure(Status.REJECTED, cause))


async def _asked(wire: Wire, node: Member, words: Words) -> NodeReply:
    name = _named(wire, node.address) if node.address else wire.secrets.masked(node.name)
    if node.address is None:
        return NodeReply(name, node.role, failure=CallFailure(Status.UNREACHABLE, "no address (port 0)"))
    try:
        (reply,) = await wire.exchange(node.address, words)
        return NodeReply(name, node.role, reply=_checked(wire, reply))
    except CallFailure as failure:
        return NodeReply(name, node.role, failure=failure)


def _named(wire: Wire, address: Address) -> str:
    """The node's name in the output; one that is not in the URL was given by a server, so it is masked."""
    name = name_of(address)
    return name if address in wire.starts else wire.secrets.masked(name)


def _checked(wire: Wire, reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        raise CallFailure(Status.REJECTED, wire.said(reply))
    return wire.masked(reply)


def _no_address(slot: int) -> CallFailure:
    return CallFailure(Status.UNREACHABLE, f"the cluster knows no address of the node that owns slot {slot} (port 0)")
