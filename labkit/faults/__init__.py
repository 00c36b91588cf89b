"""What can go wrong with a shard: one class a fault. `ALL` has every one of them, with what one must know of it."""

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.container import Disconnect
from labkit.faults.data import BadTypes, DataFault, DuplicateIds, Empty, ForeignIds, MissingRows, NullIds
from labkit.faults.network.bandwidth import Bandwidth
from labkit.faults.network.black_hole import BlackHole
from labkit.faults.network.corrupt import Corrupt
from labkit.faults.network.down import Down
from labkit.faults.network.half_close import HalfClose
from labkit.faults.network.latency import Latency
from labkit.faults.network.limit_data import LimitData
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.faults.network.reset_peer import ResetPeer
from labkit.faults.network.slicer import Slicer
from labkit.faults.network.slow_close import SlowClose
from labkit.faults.network.timeout import Timeout
from labkit.faults.network.toxic import Toxic
from labkit.faults.process import Kill, Pause
from labkit.faults.registry import Entry, entries
from labkit.faults.toxiproxy import from_toxiproxy, to_toxiproxy

__all__ = [
    "ALL",
    "BadTypes",
    "Bandwidth",
    "BlackHole",
    "Corrupt",
    "DataFault",
    "Disconnect",
    "Down",
    "DuplicateIds",
    "Empty",
    "End",
    "Entry",
    "Fault",
    "Fires",
    "Flow",
    "ForeignIds",
    "HalfClose",
    "Kill",
    "Latency",
    "LimitData",
    "MissingRows",
    "NullIds",
    "Pause",
    "Piece",
    "Pipe",
    "ResetPeer",
    "Sample",
    "Slicer",
    "SlowClose",
    "Target",
    "Timeout",
    "Toxic",
    "Undo",
    "from_toxiproxy",
    "to_toxiproxy",
]

ALL: dict[str, Entry] = entries(
    [
        Down, Latency, Bandwidth, SlowClose, Timeout, ResetPeer, Slicer, LimitData, BlackHole, HalfClose, Corrupt,
        Kill, Pause, Disconnect,
        DuplicateIds, ForeignIds, NullIds, BadTypes, MissingRows, Empty,
    ]
)  # fmt: skip
"""Every fault by its name; a fault of your own joins with `ALL["Mine"] = Entry.of(Mine)`."""
