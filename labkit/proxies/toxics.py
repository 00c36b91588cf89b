"""Faults as the toxics of Toxiproxy's HTTP API: its own types and labkit's further ones, under snake-case names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from labkit.errors import UsageError
from labkit.faults import ALL
from labkit.faults.base import Fault
from labkit.faults.network.address import Down
from labkit.faults.network.bandwidth import Bandwidth
from labkit.faults.network.latency import Latency
from labkit.faults.network.toxic import Toxic

__all__ = ["ToxicFields", "always_shown", "fault_of", "kinds", "shown_as"]

TOXIPROXYS: dict[str, tuple[str, ...]] = {
    "bandwidth": ("rate",),
    "latency": ("latency", "jitter"),
    "limit_data": ("bytes",),
    "noop": (),
    "packet_loss": ("loss_rate", "correlation"),
    "reset_peer": ("timeout",),
    "slicer": ("average_size", "size_variation", "delay"),
    "slow_close": ("delay",),
    "timeout": ("timeout",),
}
"""Toxiproxy's types and their attributes, each 0 by default. Source: its README and toxics/*.go."""
CRAWL = 1e-9
"""KB/s at which no byte passes while anybody waits: in Toxiproxy a rate of 0 holds everything back."""


@dataclass(frozen=True)
class ToxicFields:
    """A toxic's fields in the API; all its attributes are there."""

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Mapping[str, Any]


def kinds() -> dict[str, type[Fault]]:
    """The types of toxics. `Down` is none: it is a proxy that is not enabled."""
    return {
        "noop": Latency,  # of 0 ms
        **{
            _snake(name): entry.kind
            for name, entry in ALL.items()
            if entry.layer == "network" and entry.kind is not Down
        },
    }


def _attributes_of(type_: str) -> dict[str, Any]:
    """The attributes of a type, with their defaults (`MISSING` for one that must be given)."""
    theirs = TOXIPROXYS.get(type_, ())
    own = {} if type_ == "noop" else {f.name: f.default for f in fields(kinds()[type_]) if f.name not in _COMMON}  # type: ignore[arg-type]
    return {**own, **dict.fromkeys(theirs, 0)}


def always_shown(type_: str) -> dict[str, Any]:
    """The attributes that a toxic of the type has even if they were not given: Toxiproxy's, or all of labkit's."""
    theirs = TOXIPROXYS.get(type_)
    return {
        name: value
        for name, value in _attributes_of(type_).items()
        if (theirs is None and value is not MISSING) or name in (theirs or ())
    }


def fault_of(toxic: ToxicFields) -> Fault:
    """The fault with these fields; `UsageError` for an unknown or missing attribute and for a wrong value."""
    kind, known = kinds()[toxic.type], _attributes_of(toxic.type)
    for name in toxic.attributes:
        if name not in known:
            raise UsageError(f"{toxic.type} has no attribute {name!r}; it has {', '.join(known) or 'none'}")
    given = {**known, **toxic.attributes}
    absent = [name for name, value in given.items() if value is MISSING]
    if absent:
        raise UsageError(f"{toxic.type} needs the attribute {absent[0]!r}")
    if kind is Bandwidth and given["rate"] == 0:
        given["rate"] = CRAWL
    if issubclass(kind, Toxic):
        return kind(**given, stream=toxic.stream, toxicity=toxic.toxicity)
    if toxic.toxicity != 1:
        raise UsageError(f"{toxic.type} acts on all connections: its toxicity is 1")
    return kind(**given)


def shown_as(fault: Fault) -> ToxicFields:
    """The fields of a fault that was not started by the API; its name is the type and the stream, as by default."""
    type_ = _snake(type(fault).__name__)
    stream, toxicity = getattr(fault, "stream", "downstream"), getattr(fault, "toxicity", 1.0)
    values = {name: value for name, value in asdict(fault).items() if name not in _COMMON}  # type: ignore[call-overload]
    defaults = {f.name: f.default for f in fields(fault)}  # type: ignore[arg-type]
    theirs = TOXIPROXYS.get(type_, values)
    kept = {name: value for name, value in values.items() if name in theirs or value != defaults[name]}
    return ToxicFields(f"{type_}_{stream}", type_, stream, toxicity, kept)


_COMMON = ("stream", "toxicity")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
