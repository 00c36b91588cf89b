"""What can go wrong with a shard: one class a fault. `ALL` has every one of them, with what one must know of it."""

from labkit.faults.base import Fault, Fires, Sample, Target, Undo
from labkit.faults.cluster import Failover, LostIdentity
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
from labkit.faults.server.busy import Busy
from labkit.faults.server.client_pause import ClientPause
from labkit.faults.server.crash_recovery import CrashRecovery
from labkit.faults.server.drop_table import DropTable
from labkit.faults.server.exhaust_connections import ExhaustConnections
from labkit.faults.server.lock_table import LockTable
from labkit.faults.server.master_down import MasterDown
from labkit.faults.server.max_clients import MaxClients
from labkit.faults.server.slow_query import SlowQuery
from labkit.faults.server.statement_timeout import StatementTimeout
from labkit.faults.server.terminate_backends import TerminateBackends
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
    "Pause",
    "Piece",
    "Pipe",
    "ResetPeer",
    "Sample",
    "Slicer",
    "SlowClose",
    "SlowQuery",
    "StatementTimeout",
    "Target",
    "TerminateBackends",
    "Timeout",
    "Toxic",
    "Undo",
    "WrongPassword",
    "from_toxiproxy",
    "to_toxiproxy",
]

ALL: dict[str, Entry] = entries(
    [
        Down, Latency, Bandwidth, SlowClose, Timeout, ResetPeer, Slicer, LimitData, BlackHole, HalfClose, Corrupt,
        Kill, Pause, LostIdentity, Failover, Disconnect,
        LockTable, SlowQuery, StatementTimeout, TerminateBackends, ExhaustConnections, WrongPassword, DropTable,
        CrashRecovery, ClientPause, Busy, MaxClients, MasterDown,
        DuplicateIds, ForeignIds, NullIds, BadTypes, MissingRows, Empty,
    ]
)  # fmt: skip
"""Every fault by its name; a fault of your own joins with `ALL["Mine"] = Entry.of(Mine)`."""
