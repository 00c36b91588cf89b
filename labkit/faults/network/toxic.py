"""The base of all faults that act on the bytes passing through the proxy."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from labkit._checks import shown
from labkit.errors import UsageError
from labkit.faults.base import Fault, Fires, Target, Undo
from labkit.faults.network.pipe import Flow, Pipe

__all__ = ["CONDITIONS", "STREAMS", "Toxic"]

STREAMS = ("upstream", "downstream")
CONDITIONS: dict[str, Any] = {"when": None, "nth": None, "share": 1.0}
"""The fields of a toxic that restrict it to some questions, and the values at which they do not."""
MOST_NUMBERS = 10_000


@dataclass(frozen=True)
class Toxic(Fault):
    """`stream` is "upstream" (client to server) or "downstream"; `toxicity` the share of connections it hits, 0 to 1,
    drawn once per connection.

    It hits existing connections as well as new ones. The toxics of a shard apply in the order in which they were
    started.

    Three conditions, alone or together, restrict it to some *questions*: to the question itself if `stream` is
    "upstream", else to its answer. A toxic that ends or silences a connection does so there. `when` is text that occurs
    in the question (in its SQL; in Redis in the command and its arguments, with a space between; upper and lower case
    are the same). `nth` is the number, or several numbers, of the questions that match `when`, counted from 1 since the
    fault began, over all of the shard's connections that it hits. `share` is the share of those questions, 0 to 1, each
    drawn from the lab's seed.

    Raises `UsageError` for a parameter that is negative, not finite or not a number, for another stream, and for a
    condition that nothing could meet.
    """

    layer: ClassVar[str] = "network"
    fires: ClassVar[str] = Fires.ON_DATA
    whole: ClassVar[tuple[str, ...]] = ()
    """Parameters that count bytes."""

    stream: str = field(default="downstream", kw_only=True)
    toxicity: float = field(default=1.0, kw_only=True)
    when: str | bytes | None = field(default=None, kw_only=True)
    nth: int | tuple[int, ...] | None = field(default=None, kw_only=True)
    share: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.stream not in STREAMS:
            raise UsageError(f"{name}: stream must be one of {', '.join(STREAMS)}, not {self.stream!r}")
        for parameter in ("toxicity", "share"):
            value = getattr(self, parameter)
            if not _number(value) or not 0 <= value <= 1:
                raise UsageError(f"{name}: {parameter} must be a number from 0 to 1, not {value!r}")
        object.__setattr__(self, "when", _text(name, self.when))
        object.__setattr__(self, "nth", _numbers(name, self.nth))
        for parameter, value in self.attributes().items():
            if not _number(value) or value < 0:
                raise UsageError(f"{name}: {parameter} must be a number from 0 to below 2**63, not {value!r}")
            if parameter in self.whole and not isinstance(value, int):
                raise UsageError(f"{name}: {parameter} must be a whole number of bytes, not {value!r}")

    def attributes(self) -> dict[str, Any]:
        """Its own parameters: all but `stream`, `toxicity` and the conditions."""
        given = asdict(self)
        return {f.name: given[f.name] for f in fields(self) if f.name not in ("stream", "toxicity", *CONDITIONS)}

    def conditions(self) -> dict[str, Any]:
        """The conditions that it has; empty if it acts on every byte."""
        return {name: getattr(self, name) for name, none in CONDITIONS.items() if getattr(self, name) != none}

    @abstractmethod
    def pipe(self, flow: Flow) -> Pipe:
        """What it does to one direction of a connection."""

    async def start(self, target: Target, undo: Undo) -> None:
        undo.push(await target.toxic(self))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _text(name: str, when: Any) -> str | None:
    """`when` as text; bytes that are not UTF-8 survive as surrogates."""
    if isinstance(when, bytes):
        when = when.decode("utf-8", "surrogateescape")
    if when is not None and (not isinstance(when, str) or not when):
        raise UsageError(f"{name}: when must be text that occurs in a question, not {shown(when)}")
    return when


def _numbers(name: str, nth: Any) -> int | tuple[int, ...] | None:
    several = tuple(nth) if isinstance(nth, list | tuple | range) and len(nth) <= MOST_NUMBERS else None
    if nth is None or (several and all(map(_counts, several))) or _counts(nth):
        return several or nth
    raise UsageError(f"{name}: nth must be a number from 1, or up to {MOST_NUMBERS:,} of them, not {shown(nth)}")


def _counts(value: Any) -> bool:
    return _number(value) and isinstance(value, int) and value >= 1
