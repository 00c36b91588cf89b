"""Faults as Toxiproxy's JSON, and back: {"name", "type", "stream", "toxicity", "attributes"} (README, "Toxic fields").

`Down` is a disabled proxy there: {"enabled": false}. What Toxiproxy lacks (types, attributes, conditions) has the
same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from labkit._checks import shown
from labkit.errors import UsageError
from labkit.faults.base import Fault
from labkit.faults.network.address import BlackHole, Down
from labkit.faults.network.bandwidth import Bandwidth
from labkit.faults.network.corrupt import Corrupt
from labkit.faults.network.cut import HalfClose, LimitData, ResetPeer
from labkit.faults.network.latency import Latency
from labkit.faults.network.packet_loss import PacketLoss
from labkit.faults.network.slicer import Slicer
from labkit.faults.network.slow_close import SlowClose
from labkit.faults.network.timeout import Timeout
from labkit.faults.network.toxic import CONDITIONS, Toxic

__all__ = ["OUR_TYPES", "TYPES", "from_toxiproxy", "to_toxiproxy"]

OUR_TYPES: dict[str, type[Fault]] = {"black_hole": BlackHole, "corrupt": Corrupt, "half_close": HalfClose}
"""Those that Toxiproxy lacks. A black hole is not a `Toxic`: it has no attributes, and always acts on both streams."""
TYPES: dict[str, type[Fault]] = {
    "bandwidth": Bandwidth,
    "latency": Latency,
    "limit_data": LimitData,
    "packet_loss": PacketLoss,
    "reset_peer": ResetPeer,
    "slicer": Slicer,
    "slow_close": SlowClose,
    "timeout": Timeout,
    **OUR_TYPES,
}
"""Every type, by its name in JSON. `packet_loss` is newer than Toxiproxy 2.12."""
FIELDS = ("name", "type", "stream", "toxicity", "attributes")
OUR_ATTRIBUTES = {"reset_peer": {"after_bytes": 0}}
"""Attributes that Toxiproxy lacks, and the value at which they may be left out; every toxic may have conditions too."""


def to_toxiproxy(fault: Fault, *, ours: bool = False) -> dict[str, Any]:
    """The fault as Toxiproxy's JSON. Raises `UsageError` for one that Toxiproxy does not have.

    `ours`: as labkit's own JSON, which `from_toxiproxy` reads: all types and attributes, and conditions among the
    attributes. Then `UsageError` is raised only for what is not a network fault of labkit.
    """
    if isinstance(fault, Down):
        return {"enabled": False}
    known = [name for name in TYPES if ours or name not in OUR_TYPES]
    name = next((name for name in known if type(fault) is TYPES[name]), None)
    if name is None:
        whose = "labkit's JSON" if ours else "Toxiproxy"
        raise UsageError(f"{whose} has no {type(fault).__name__}; it has {', '.join(known)} and down")
    if not isinstance(fault, Toxic):
        return _told(name, "downstream", 1.0, {})
    attributes, neutral = fault.attributes(), OUR_ATTRIBUTES.get(name, {})
    further = {key: attributes.pop(key) for key in neutral}
    further = {key: value for key, value in further.items() if value != neutral[key]} | fault.conditions()
    if further and not ours:
        raise UsageError(f"Toxiproxy's {name} has no {next(iter(further))}: {fault!r}")
    return _told(name, fault.stream, fault.toxicity, attributes | further)


def from_toxiproxy(json: Mapping[str, Any]) -> Fault:
    """The fault for Toxiproxy's JSON, or for labkit's own. Defaults are Toxiproxy's: 0, downstream, toxicity 1; those
    of a type that it lacks are labkit's.

    Raises `UsageError` for an unknown type, field or attribute. Toxiproxy ignores these; but then a misspelt attribute
    would make a weaker fault than intended, unnoticed.
    """
    if json.get("enabled") is False:
        return Down()
    name = json.get("type")
    kind: Any = TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UsageError(f"not a toxic of Toxiproxy: {name!r}; it has {', '.join(TYPES)}")
    for field in json:
        if field not in FIELDS:
            raise UsageError(f"a toxic of Toxiproxy has no field {field!r}; it has {', '.join(FIELDS)}")
    attributes = json.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        raise UsageError(f"the attributes of Toxiproxy's {name} must be an object, not {shown(attributes)}")
    own = {field.name: field.default for field in fields(kind) if not field.kw_only}
    for attribute in attributes:
        if attribute not in own and not (attribute in CONDITIONS and issubclass(kind, Toxic)):
            raise UsageError(f"Toxiproxy's {name} has no attribute {attribute!r}")
    if kind is Slicer and "average_size" not in attributes:
        raise UsageError("Toxiproxy's slicer needs an average_size")
    given = {**(own if name in OUR_TYPES else dict.fromkeys(own, 0)), **attributes}
    if not issubclass(kind, Toxic):
        if json.get("toxicity", 1) != 1:
            raise UsageError(f"{name} hits every connection: toxicity must be 1, not {shown(json['toxicity'])}")
        fault: Fault = kind(**given)
    else:
        fault = kind(**given, stream=json.get("stream", "downstream"), toxicity=json.get("toxicity", 1.0))
    return fault


def _told(kind: str, stream: str, toxicity: float, attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{kind}_{stream}",
        "type": kind,
        "stream": stream,
        "toxicity": toxicity,
        "attributes": attributes,
    }
