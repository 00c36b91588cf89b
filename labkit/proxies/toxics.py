"""Faults as the toxics of Toxiproxy's HTTP API: its own types and labkit's further ones, under snake-case names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from labkit.errors import UsageError
from labkit.faults import ALL
from labkit.faults.base import Fault
from labkit.faults.network.address import Down
from labkit.faults.network.latency import Latency
from labkit.faults.network.toxic import Toxic
from labkit.faults.toxiproxy import TYPES, from_toxiproxy, to_toxiproxy

__all__ = ["ToxicFields", "attributes_of", "fault_of", "kinds", "shown_as"]

NOOP = "noop"
"""Toxiproxy's type that does nothing: a latency of 0 ms."""
CRAWL = 1e-9
"""KB/s at which no byte passes while anybody waits: in Toxiproxy a rate of 0 holds everything back."""


@dataclass(frozen=True)
class ToxicFields:
    """A toxic's fields in the API."""

    name: str
    type: str
    stream: str = "downstream"
    toxicity: float = 1.0
    attributes: Mapping[str, Any] | None = None


def kinds() -> dict[str, type[Fault]]:
    """The types of toxics. `Down` is not one of them: it is a disabled proxy."""
    network = [entry for entry in ALL.values() if entry.layer == "network" and entry.kind is not Down]
    return {NOOP: Latency, **TYPES, **{_snake(entry.name): entry.kind for entry in network}}


def fault_of(toxic: ToxicFields) -> Fault:
    """The fault with these fields; `UsageError` for an unknown attribute and for a wrong value."""
    given = dict(toxic.attributes or {})
    if toxic.type == NOOP:
        if given:
            raise UsageError(f"{NOOP} has no attribute {next(iter(given))!r}")
        return Latency(0, stream=toxic.stream, toxicity=toxic.toxicity)
    if toxic.type == "bandwidth" and given.get("rate", 0) == 0:
        given["rate"] = CRAWL
    if toxic.type in TYPES:
        return from_toxiproxy({**asdict(toxic), "attributes": given})
    return _own(kinds()[toxic.type], toxic)


def attributes_of(toxic: ToxicFields, fault: Fault) -> dict[str, Any]:
    """All attributes of a toxic that is this fault: those given, and the defaults of the others."""
    made = {} if toxic.type == NOOP else dict(shown_as(fault).attributes or {})
    if made.get("rate") == CRAWL:
        made["rate"] = 0
    return made


def shown_as(fault: Fault) -> ToxicFields:
    """The fields of a fault; its name is the type and the stream, as by default."""
    if type(fault) in TYPES.values():
        return ToxicFields(**to_toxiproxy(fault, ours=True))
    type_, stream = _snake(type(fault).__name__), getattr(fault, "stream", "downstream")
    values = fault.attributes() | fault.conditions() if isinstance(fault, Toxic) else vars(fault)
    return ToxicFields(f"{type_}_{stream}", type_, stream, getattr(fault, "toxicity", 1.0), dict(values))


def _own(kind: Any, toxic: ToxicFields) -> Fault:
    """A fault of the registry that Toxiproxy's JSON does not have: a user's."""
    known = {field.name for field in fields(kind)} - {"stream", "toxicity"}
    for name in toxic.attributes or {}:
        if name not in known:
            raise UsageError(f"{toxic.type} has no attribute {name!r}")
    common = {"stream": toxic.stream, "toxicity": toxic.toxicity} if issubclass(kind, Toxic) else {}
    try:
        fault: Fault = kind(**(toxic.attributes or {}), **common)
    except TypeError as error:
        raise UsageError(f"{toxic.type}: {error}") from None
    return fault


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
