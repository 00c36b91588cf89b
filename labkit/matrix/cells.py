"""What the matrix tries: its cells, each one kind of server with faults on some of its shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from labkit import faults
from labkit._types import ShardKey
from labkit.faults import Entry, Fault, Sample
from labkit.faults.data import DataFault
from labkit.report import Status
from labkit.router import CLASSIC

__all__ = ["BASELINE", "COLD", "COMBINED", "VICTIM", "WARM", "YOURS", "Cell", "cells"]

WARM, COLD, YOURS = "warm", "cold", "yours"
"""Who reads: our reader with connections from before the fault, our reader with none yet, or an external reader."""

BASELINE = "no fault"
COMBINED = "combined"
"""The layer of a cell with several faults."""

VICTIM = 2
"""The shard that a single fault acts on."""
_SUSPECTED, _UNSEEN = frozenset({Status.INVALID}), frozenset({Status.OK})


@dataclass(frozen=True)
class Cell:
    """One square of the matrix."""

    title: str
    backend: str
    layer: str
    summary: str
    """What is done to the shards, in a sentence."""
    samples: Mapping[ShardKey, tuple[Sample, ...]] = field(default_factory=dict)

    @property
    def faults(self) -> dict[ShardKey, list[Fault]]:
        """The faults on each shard."""
        return {shard: [sample.fault for sample in samples] for shard, samples in self.samples.items()}

    @property
    def replicas(self) -> int:
        """How many replicas per master its lab needs."""
        return int(any(fault.needs_replica for acting in self.faults.values() for fault in acting))

    @property
    def kinds(self) -> frozenset[str]:
        """The names of its fault classes."""
        return frozenset(type(fault).__name__ for acting in self.faults.values() for fault in acting)

    def allowed(self, who: str) -> dict[ShardKey, frozenset[Status]]:
        """The statuses that a correct read by `who` may report per shard; OK only if every fault on it allows OK."""
        return {shard: _allowed(self.samples.get(shard, ()), who) for shard in CLASSIC.shards}


def cells(backend: str, launcher: str, timeout: float, names: Iterable[str] = ()) -> list[Cell]:
    """The cells of one kind of server, for reads of `timeout` seconds: no fault, each fault alone, some combined.

    With `names`, only the cells that need no other faults.
    """
    entries = [entry for entry in faults.ALL.values() if _can_act(entry, backend, launcher)]
    single = [_single(entry, sample, backend) for entry in entries for sample in entry.samples(timeout)]
    found = [Cell(BASELINE, backend, BASELINE, "All shards are healthy."), *single, *_combined(backend, timeout)]
    wanted = frozenset(names) or frozenset(entry.name for entry in entries)
    return [cell for cell in found if cell.kinds <= wanted]


def _can_act(entry: Entry, backend: str, launcher: str) -> bool:
    return backend in entry.backends and (entry.layer != "container" or launcher == "docker")


def _single(entry: Entry, sample: Sample, backend: str) -> Cell:
    return Cell(repr(sample.fault), backend, entry.layer, entry.summary, {VICTIM: (sample,)})


def _combined(backend: str, timeout: float) -> list[Cell]:
    """Faults that a reader may survive one at a time but not together."""
    pause, kill = faults.Pause.samples(timeout)[0], faults.Kill.samples(timeout)[0]
    slow = faults.Latency.samples(timeout)[0], faults.Slicer.samples(timeout)[0]
    found = [
        _combination(backend, {2: [pause], 3: [pause]}, "Two shards are silent: a sequential reader is late."),
        _combination(backend, {2: [kill], 3: [pause]}, "One shard refuses, and one is silent."),
        _combination(backend, {1: [kill], 2: [kill], 3: [kill]}, "No shard answers: the whole table is one gap."),
        _combination(backend, {2: slow}, "A shard is slow in two ways at once, and still in time."),
    ]
    if backend == "redis-cluster":
        summary = "The majority of the masters is gone: the remaining one is still read."
        found.insert(0, _combination(backend, {1: [kill], 2: [kill]}, summary))
    return found


def _combination(backend: str, samples: Mapping[ShardKey, Sequence[Sample]], summary: str) -> Cell:
    return Cell(_title(samples), backend, COMBINED, summary, {shard: tuple(some) for shard, some in samples.items()})


def _title(samples: Mapping[ShardKey, Sequence[Sample]]) -> str:
    """ "Kill() on 2, Pause() on 3"; "Kill() on 1, 2, 3" for the same fault on several shards."""
    acting: dict[str, list[str]] = {}
    for shard, some in samples.items():
        acting.setdefault(" + ".join(repr(sample.fault) for sample in some), []).append(str(shard))
    return ", ".join(f"{what} on {', '.join(shards)}" for what, shards in acting.items())


def _allowed(samples: Sequence[Sample], who: str) -> frozenset[Status]:
    if not samples:
        return frozenset({Status.OK})
    each = [_allowed_by(sample, who) for sample in samples]
    fails = frozenset().union(*each) - {Status.OK}
    return fails | {Status.OK} if all(Status.OK in statuses for statuses in each) else fails


def _allowed_by(sample: Sample, who: str) -> frozenset[Status]:
    """An external reader may or may not keep connections, may be able to detect a lie that ours cannot, and need not
    see a column that it does not ask for.
    """
    fault, yours = sample.fault, sample.warm | sample.cold
    if isinstance(fault, DataFault):
        yours |= _SUSPECTED
    if isinstance(fault, faults.SchemaDrift) and fault.how == "extra":
        yours |= _UNSEEN
    return {WARM: sample.warm, COLD: sample.cold, YOURS: yours}[who]
