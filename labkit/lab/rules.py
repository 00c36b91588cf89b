"""Which faults may act where, and together with which others; checked before anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from labkit._types import ShardKey
from labkit.errors import UsageError
from labkit.faults.base import Fault
from labkit.faults.network.toxic import Toxic
from labkit.lab.handle import NetworkHandle

__all__ = ["GONE", "INSIDE", "Pair", "check", "check_write", "pairs"]

Pair: TypeAlias = tuple[ShardKey, Fault]

GONE = frozenset({"process", "container"})
"""Layers of faults during which the administrator cannot connect."""
INSIDE = frozenset({"server", "data"})
"""Layers of faults that the administrator makes inside the server."""


def pairs(where: Any, faults: Sequence[Fault]) -> list[Pair]:
    """`(shard, *faults)` or `({shard: fault or list of faults})` as a list of (shard, fault)."""
    if not isinstance(where, Mapping):
        if not faults:
            raise UsageError(f"no fault for shard {where!r}: pass one such as faults.Pause()")
        return [(where, fault) for fault in faults]
    if faults:
        raise UsageError(f"faults are given by shard: leave out {faults!r}, or put them into the mapping")
    return [(shard, fault) for shard, given in where.items() for fault in _listed(given)]


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def check(
    wanted: Iterable[Pair], present: Iterable[Pair], targets: Mapping[Any, NetworkHandle], *, twice: bool = False
) -> None:
    """`UsageError` for a fault that cannot start, in this order, beside those present.

    `twice`: toxics may be equal.
    """
    acting = list(present)
    for shard, fault in wanted:
        if shard not in list(targets):  # a list: `shard` may not be hashable
            raise UsageError(f"unknown shard {shard!r}: choose one of {list(targets)}")
        if isinstance(fault, type) or not isinstance(fault, Fault):
            raise UsageError(f"not a fault: {fault!r}; pass one such as faults.Pause()")
        _check_target(fault, shard, targets[shard])
        _check_others(fault, shard, [other for where, other in acting if where == shard], twice)
        acting.append((shard, fault))


def check_write(shard: ShardKey, others: Iterable[Fault], replicated: bool = False) -> None:
    """`UsageError` while the administrator cannot connect, or something else stands in the table's place.

    The cluster of a `replicated` shard takes writes even while the shard's first server is gone.
    """
    for other in others:
        if other.layer in (INSIDE if replicated else GONE | INSIDE):
            name = type(other).__name__
            raise UsageError(f"shard {shard!r} takes no writes while {name} acts on it: heal() it first")


def _check_target(fault: Fault, shard: ShardKey, target: NetworkHandle) -> None:
    name = type(fault).__name__
    if fault.layer not in target.layers:
        raise UsageError(f"{name} acts on a {fault.layer}, and shard {shard!r} is not one: {target.only}")
    if target.backend and target.backend not in fault.backends:
        raise UsageError(f"{name} acts on {' and '.join(fault.backends)}, and shard {shard!r} is {target.backend}")
    if fault.needs_replica and not target.replicated:
        raise UsageError(f"{name} needs a replica for each master: start Lab('redis-cluster', replicas=1)")
    target.check(fault)


def _check_others(fault: Fault, shard: ShardKey, others: Sequence[Fault], equal_toxics: bool) -> None:
    """Toxics stack; faults inside a server act one at a time, and start only while the administrator can connect."""
    name = type(fault).__name__
    for other in others:
        toxic = isinstance(fault, Toxic)
        twice = (fault == other and not equal_toxics) if toxic else type(fault) is type(other)
        if twice:
            raise UsageError(f"{name} already acts on shard {shard!r}: heal() it first")
        if fault.restarts and other.volatile and other.layer in INSIDE:
            raise UsageError(f"{name} would end {type(other).__name__}, which acts on shard {shard!r}: heal() it first")
        if fault.layer in INSIDE and other.layer in GONE | INSIDE:
            raise UsageError(
                f"{name} cannot start while {type(other).__name__} acts on shard {shard!r}: heal() it first"
            )
