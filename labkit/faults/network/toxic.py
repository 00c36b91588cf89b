"""The base of all faults that act on the bytes passing through the proxy."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from labkit.errors import UsageError
from labkit.faults.base import Fault, Fires, Target, Undo
from labkit.faults.network.pipe import Flow, Pipe

__all__ = ["STREAMS", "Toxic"]

STREAMS = ("upstream", "downstream")


@dataclass(frozen=True)
class Toxic(Fault):
    """`stream` is "upstream" (client to server) or "downstream"; `toxicity` the share of connections it hits, 0 to 1,
    drawn once per connection.

    It hits existing connections as well as new ones. The toxics of a shard apply in the order in which they were
    started. Raises `UsageError` for a parameter that is negative, not finite or not a number, and for another stream.
    """

    layer: ClassVar[str] = "network"
    fires: ClassVar[str] = Fires.ON_DATA
    whole: ClassVar[tuple[str, ...]] = ()
    """Parameters that count bytes."""

    stream: str = field(default="downstream", kw_only=True)
    toxicity: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.stream not in STREAMS:
            raise UsageError(f"{name}: stream must be one of {', '.join(STREAMS)}, not {self.stream!r}")
        if not _number(self.toxicity) or not 0 <= self.toxicity <= 1:
            raise UsageError(f"{name}: toxicity must be a number from 0 to 1, not {self.toxicity!r}")
        for parameter, value in self.attributes().items():
            if not _number(value) or value < 0:
                raise UsageError(f"{name}: {parameter} must be a number from 0 to below 2**63, not {value!r}")
            if parameter in self.whole and not isinstance(value, int):
                raise UsageError(f"{name}: {parameter} must be a whole number of bytes, not {value!r}")

    def attributes(self) -> dict[str, Any]:
        """Its own parameters: all but `stream` and `toxicity`."""
        given = asdict(self)
        return {f.name: given[f.name] for f in fields(self) if f.name not in ("stream", "toxicity")}

    @abstractmethod
    def pipe(self, flow: Flow) -> Pipe:
        """What it does to one direction of a connection."""

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(await target.toxic(self))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
