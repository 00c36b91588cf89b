"""What can go wrong with a shard: one class per fault. `ALL` lists them."""

from labkit.faults.base import Fault, Fires, Sample, Target, Undo, UndoCommand
from labkit.faults.data import BadTypes, DataFault, DuplicateIds, Empty, ForeignIds, MissingRows, NullIds, SchemaDrift
from labkit.faults.network.address import BlackHole, Down
from labkit.faults.network.bandwidth import Bandwidth
from labkit.faults.network.corrupt import Corrupt
from labkit.faults.network.cut import HalfClose, LimitData, ResetPeer
from labkit.faults.network.latency import Latency
from labkit.faults.network.packet_loss import PacketLoss
from labkit.faults.network.pipe import End, Flow, Piece, Pipe
from labkit.faults.network.slicer import Slicer
from labkit.faults.network.slow_close import SlowClose
from labkit.faults.network.timeout import Timeout
from labkit.faults.network.toxic import Toxic
from labkit.faults.process import Disconnect, Failover, Kill, LostIdentity, Pause
from labkit.faults.registry import Entry, entries
from labkit.faults.server.postgres_table import DropTable, LockTable, SlowQuery, StatementTimeout
from labkit.faults.server.redis import Busy, ClientPause, MasterDown, MaxClients
from labkit.faults.server.sessions import CrashRecovery, ExhaustConnections, TerminateBackends
from labkit.faults.server.wrong_password import WrongPassword
from labkit.faults.toxiproxy import from_toxiproxy, to_toxiproxy

__all__ = [
    "ALL",
    "BadTypes",
    "Bandwidth",
    "BlackHole",
    "Busy",
    "ClientPause",
    "Corrupt",
    "CrashRecovery",
    "DataFault",
    "Disconnect",
    "Down",
    "DropTable",
    "DuplicateIds",
    "Empty",
    "End",
    "Entry",
    "ExhaustConnections",
    "Failover",
    "Fault",
    "Fires",
    "Flow",
    "ForeignIds",
    "HalfClose",
    "Kill",
    "Latency",
    "LimitData",
    "LockTable",
    "LostIdentity",
    "MasterDown",
    "MaxClients",
    "MissingRows",
    "NullIds",
    "PacketLoss",
    "Pause",
    "Piece",
    "Pipe",
    "ResetPeer",
    "Sample",
    "SchemaDrift",
    "Slicer",
    "SlowClose",
    "SlowQuery",
    "StatementTimeout",
    "Target",
    "TerminateBackends",
    "Timeout",
    "Toxic",
    "Undo",
    "UndoCommand",
    "WrongPassword",
    "from_toxiproxy",
    "to_toxiproxy",
]

ALL: dict[str, Entry] = entries(
    [
        Down, Latency, Bandwidth, SlowClose, Timeout, ResetPeer, Slicer, LimitData, PacketLoss, BlackHole, HalfClose,
        Corrupt,
        Kill, Pause, LostIdentity, Failover, Disconnect,
        LockTable, SlowQuery, StatementTimeout, TerminateBackends, ExhaustConnections, WrongPassword, DropTable,
        CrashRecovery, ClientPause, Busy, MaxClients, MasterDown,
        DuplicateIds, ForeignIds, NullIds, BadTypes, MissingRows, Empty, SchemaDrift,
    ]
)  # fmt: skip
"""Every fault by its name; add your own with `ALL["Mine"] = Entry.of(Mine)`."""
