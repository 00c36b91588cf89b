"""Faults as the toxics of Toxiproxy's HTTP API: its own types and labkit's further ones, under snake-case names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
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


def always_shown(type_: str) -> dict[str, Any]:
    """The attributes that a toxic of the type has even if they were not given: Toxiproxy's, or all of labkit's."""
    return {name: value for name, value in _attributes_of(type_).items() if _shows(type_, name)}


def fault_of(toxic: ToxicFields) -> Fault:
    """The fault with these fields; `UsageError` for an unknown attribute and for a wrong value."""
    kind, known = kinds()[toxic.type], _attributes_of(toxic.type)
    for name in toxic.attributes:
        if name not in known:
            raise UsageError(f"{toxic.type} has no attribute {name!r}; it has {', '.join(known) or 'none'}")
    given = {**known, **toxic.attributes}
    if toxic.type == "noop":
        given = {"latency": 0}
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
    values = {field.name: (getattr(fault, field.name), field) for field in fields(fault) if field.name not in _COMMON}  # type: ignore[arg-type]
    kept = {
        name: value
        for name, (value, field) in values.items()
        if value != field.default or (_shows(type_, name) and not field.kw_only)
    }
    return ToxicFields(f"{type_}_{stream}", type_, stream, toxicity, kept)


def _attributes_of(type_: str) -> dict[str, Any]:
    """The attributes of a type, with their defaults."""
    own = {} if type_ == "noop" else {field.name: field.default for field in _fields(type_)}
    return {**own, **dict.fromkeys(TOXIPROXYS.get(type_, ()), 0)}


def _shows(type_: str, name: str) -> bool:
    """Whether a toxic of that type always has this attribute."""
    if type_ in TOXIPROXYS:
        return name in TOXIPROXYS[type_]
    return type_ not in kinds() or any(field.name == name and not field.kw_only for field in _fields(type_))


def _fields(type_: str) -> list[Field[Any]]:
    kept = [field for field in fields(kinds()[type_]) if field.name not in _COMMON]  # type: ignore[arg-type]
    return sorted(kept, key=lambda field: field.kw_only is True)  # conditions last


_COMMON = ("stream", "toxicity")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
