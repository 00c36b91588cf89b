"""Faults as Toxiproxy's JSON, and back: {"name", "type", "stream", "toxicity", "attributes"} (README, "Toxic fields").

`Down` is a disabled proxy there: {"enabled": false}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from labkit.errors import UsageError
from labkit.faults.base import Fault
from labkit.faults.network.address import Down
from labkit.faults.network.bandwidth import Bandwidth
from labkit.faults.network.cut import LimitData, ResetPeer
from labkit.faults.network.latency import Latency
from labkit.faults.network.slicer import Slicer
from labkit.faults.network.slow_close import SlowClose
from labkit.faults.network.timeout import Timeout
from labkit.faults.network.toxic import Toxic

__all__ = ["TYPES", "from_toxiproxy", "to_toxiproxy"]

TYPES: dict[str, type[Toxic]] = {
    "bandwidth": Bandwidth,
    "latency": Latency,
    "limit_data": LimitData,
    "reset_peer": ResetPeer,
    "slicer": Slicer,
    "slow_close": SlowClose,
    "timeout": Timeout,
}
FIELDS = ("name", "type", "stream", "toxicity", "attributes")
OURS = {"reset_peer": {"after_bytes": 0}}
"""Attributes that Toxiproxy lacks, and the value at which they may be left out."""


def to_toxiproxy(fault: Fault) -> dict[str, Any]:
    """The fault as Toxiproxy's JSON. Raises `UsageError` for one that Toxiproxy does not have."""
    if isinstance(fault, Down):
        return {"enabled": False}
    name = next((name for name, kind in TYPES.items() if type(fault) is kind), None)
    if name is None or not isinstance(fault, Toxic):
        raise UsageError(f"Toxiproxy has no {type(fault).__name__}; it has {', '.join(TYPES)} and down")
    attributes = fault.attributes()
    for ours, neutral in OURS.get(name, {}).items():
        if attributes.pop(ours) != neutral:
            raise UsageError(f"Toxiproxy's {name} has no {ours}: {fault!r}")
    return {
        "name": f"{name}_{fault.stream}",
        "type": name,
        "stream": fault.stream,
        "toxicity": fault.toxicity,
        "attributes": attributes,
    }


def from_toxiproxy(json: Mapping[str, Any]) -> Fault:
    """The fault for Toxiproxy's JSON; defaults are Toxiproxy's (0, downstream, toxicity 1).

    Raises `UsageError` for an unknown type, field or attribute.
    """
    if json.get("enabled") is False:
        return Down()
    kind = TYPES.get(json.get("type", ""))
    if kind is None:
        raise UsageError(f"not a toxic of Toxiproxy: {json.get('type')!r}; it has {', '.join(TYPES)}")
    for name in json:
        if name not in FIELDS:
            raise UsageError(f"a toxic of Toxiproxy has no field {name!r}; it has {', '.join(FIELDS)}")
    own = [f.name for f in fields(kind) if not f.kw_only]
    attributes = dict(json.get("attributes", {}))
    for name in attributes:
        if name not in own or name in OURS.get(json["type"], {}):
            raise UsageError(f"Toxiproxy's {json['type']} has no attribute {name!r}")
    given = {name: attributes.get(name, 0) for name in own}
    if kind is Slicer and "average_size" not in attributes:
        raise UsageError("Toxiproxy's slicer needs an average_size")
    return kind(**given, stream=json.get("stream", "downstream"), toxicity=json.get("toxicity", 1.0))
